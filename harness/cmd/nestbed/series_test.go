package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/harness/series"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/source"
	"github.com/nestbed/nestbed/results/effect"
)

// needBuilds skips what builds a kernel, which takes a quarter of an hour on two cores when nothing is cached.
func needBuilds(t *testing.T) {
	t.Helper()
	if testing.Short() || os.Getenv("NESTBED_BUILD") == "" {
		t.Skip("builds a kernel, for a quarter of an hour where none is cached: make built and make test do, with NESTBED_BUILD=1")
	}
}

// linuxTree is a git tree with one commit, Linux 6.12 as the distribution has it. It stays in the cache, and so
// does what is built of it: a repository without files of its own, whose files are those of the package.
func linuxTree(t *testing.T) string {
	t.Helper()
	caches, err := os.UserCacheDir()
	assert.NilError(t, err)
	root := filepath.Join(caches, "nestbed", "v1")
	cache, err := kernels.Open(filepath.Join(root, "kernels"))
	assert.NilError(t, err)
	sources, err := source.Open(t.Context(), cache, "debian-source:6.12", "", func(s string) { t.Log(s) })
	if errors.Is(err, kernels.ErrUnreachable) {
		t.Skipf("no tree of Linux to be had: %v", err)
	}
	assert.NilError(t, err)
	defer sources.Close()
	dir := filepath.Join(root, "linux.git")
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"--git-dir", dir, "-c", "user.name=nestbed", "-c", "user.email=nestbed@localhost"}, args...)...)
		out, err := cmd.CombinedOutput()
		assert.NilError(t, err, "git %q: %s", args, out)
		return strings.TrimSpace(string(out))
	}
	subject := "Linux " + sources.Key
	if _, err := os.Stat(dir); err == nil && strings.Contains(git("for-each-ref"), "refs/heads/ready") && git("log", "-1", "--format=%s", "ready") == subject {
		return dir
	}
	assert.NilError(t, os.RemoveAll(dir))
	git("init", "--quiet", "--bare")
	git("--work-tree", sources.Dir, "-c", "core.bare=false", "-c", "gc.auto=0", "add", "--all", "--force")
	commit := git("commit-tree", "-m", subject, git("write-tree"))
	git("update-ref", "refs/heads/ready", commit)
	git("symbolic-ref", "HEAD", "refs/heads/ready")
	return dir
}

// mail is patch n of a series: that of a file in kernels/mutants, as it is or undone.
func mail(t *testing.T, n, of int, file string, undone bool) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(moduleRoot, "kernels", "mutants", file))
	assert.NilError(t, err)
	head, diff, ok := strings.Cut(string(text), "\ndiff --git ")
	assert.Assert(t, ok)
	diff = "diff --git " + diff
	number := fmt.Sprintf("[PATCH %d/%d] ", n, of)
	if undone {
		head, diff = strings.Replace(head, "[PATCH] ", "[PATCH] Revert: ", 1), reverse(diff)
	}
	return strings.Replace(head, "[PATCH] ", number, 1) + "\n" + diff + "\n"
}

// reverse undoes a diff that changes lines only.
func reverse(diff string) string {
	var b strings.Builder
	var old, removed []string
	flush := func() {
		b.WriteString(strings.Join(append(removed, old...), ""))
		old, removed = nil, nil
	}
	for line := range strings.Lines(diff) {
		switch {
		case strings.HasPrefix(line, "--- a/"), strings.HasPrefix(line, "+++ b/"), strings.HasPrefix(line, "index "):
			if strings.HasPrefix(line, "index ") {
				continue
			}
		case strings.HasPrefix(line, "@@ "):
			flush()
			parts := strings.SplitN(line, " ", 4)
			line = fmt.Sprintf("@@ -%s +%s %s", parts[2][1:], parts[1][1:], parts[3])
		case strings.HasPrefix(line, "-"):
			old = append(old, "+"+line[1:])
			continue
		case strings.HasPrefix(line, "+"):
			removed = append(removed, "-"+line[1:])
			continue
		default:
			flush()
		}
		b.WriteString(line)
	}
	flush()
	return b.String()
}

// runSeriesOf runs nestbed series on mails and gives its report. All of a test's share what they remember.
func runSeriesOf(t *testing.T, state, tree string, mails []string, args ...string) (status int, r effect.Report, stderr string) {
	t.Helper()
	mbox := filepath.Join(t.TempDir(), "series.mbox")
	assert.NilError(t, os.WriteFile(mbox, []byte(strings.Join(mails, "")), 0o644))
	cmd := nestbed(t, append([]string{"series", "--json", "--tree", tree, "--mbox", mbox}, args...)...)
	cmd.Env = append(cmd.Env, "XDG_STATE_HOME="+state)
	status, stdout, stderr := finish(t, cmd)
	t.Log(stderr)
	assert.NilError(t, json.Unmarshal([]byte(stdout), &r), stdout)
	return status, r, stderr
}

// A series of four is told patch by patch: what the first two mend, the third breaks, and the fourth mends again.
// What does not build and what does not apply is named.
func TestSeriesOfFour(t *testing.T) {
	needBuilds(t)
	tree, state := linuxTree(t), t.TempDir()
	const doubleBind = "attach-cdev-double-bind-kvm"
	status, r, _ := runSeriesOf(t, state, tree, []string{
		mail(t, 1, 4, "g1-pin-vendor-module.patch", false),
		mail(t, 2, 4, "g2-refuse-second-bind.patch", false),
		mail(t, 3, 4, "m01-no-module-reference.patch", false),
		mail(t, 4, 4, "m01-no-module-reference.patch", true),
	}, "--each", string(series.Full), "-m", "intel", unloadBug, doubleBind, "attach-group-container")
	type turn struct {
		scenario string
		kind     effect.Kind
		patch    int
	}
	steps := map[turn]bool{}
	for _, c := range r.Steps {
		steps[turn{c.Scenario, c.Kind, c.To}] = true
		t.Logf("patch %d: %s %s: %s (%d of %d, %d of %d)", c.To, c.Kind, c.Scenario, c.Title, c.Before.K, c.Before.N, c.After.K, c.After.N)
	}
	for _, want := range []turn{
		{unloadBug, effect.Fixed, 1}, {doubleBind, effect.Fixed, 2},
		{"attach-group-container", effect.Broken, 3}, {"attach-group-container", effect.Fixed, 4},
	} {
		assert.Check(t, steps[want], "%v", want)
	}
	assert.Check(t, cmp.Equal(r.Count(effect.Fixed), 2), "from the base to the end")
	assert.Check(t, cmp.Equal(r.Count(effect.Broken)+r.Count(effect.Worse), 0))
	assert.Check(t, cmp.Equal(status, 1), "something was worse between two patches")

	status, r, stderr := runSeriesOf(t, state, tree, []string{strings.NewReplacer(
		"__module_get(kvm_chardev_ops.owner)", "__module_get(kvm_chardev_ops.owner", // no parenthesis
	).Replace(mail(t, 1, 1, "g1-pin-vendor-module.patch", false))}, "-m", "intel", unloadBug)
	assert.Check(t, cmp.Equal(status, 1))
	assert.Assert(t, cmp.Len(r.Stages, 2))
	assert.Assert(t, cmp.Len(r.Stages[1].Builds, 1))
	assert.Check(t, strings.HasPrefix(r.Stages[1].Builds[0].Failure, "virt/kvm/kvm_main.c:"), "the file as the developer knows it: %s", r.Stages[1].Builds[0].Failure)
	assert.Check(t, cmp.Contains(stderr, "patch 1 of 1 (KVM: pin the vendor module until every VM is freed) does not build"))
	assert.Check(t, cmp.Contains(stderr, "base: built before"))
	assert.Check(t, cmp.Equal(r.Ran, 0), "there is nothing to compare")

	status, r, _ = runSeriesOf(t, state, tree, []string{strings.ReplaceAll(
		mail(t, 1, 1, "g2-refuse-second-bind.patch", false), "dev_set->lock", "set->lock",
	)}, "-m", "intel", unloadBug)
	assert.Check(t, cmp.Equal(status, 1))
	assert.Assert(t, cmp.Len(r.Stages, 2))
	assert.Check(t, cmp.Contains(r.Stages[1].Rejected, "drivers/vfio/device_cdev.c"))
	assert.Check(t, cmp.Contains(r.Stages[1].Rejected, "access_granted || device->open_count"), "the hunk")
}
