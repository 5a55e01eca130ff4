package main

import (
	"bytes"
	"context"
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
	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/kernels/build"
)

// What is wrong with the series, the tree or the compiler is said, with the way out, before a guest is booted or QEMU asked
// for anything but its version.
func TestSeriesSaysWhatIsWrongBeforeItProbes(t *testing.T) {
	if _, _, err := images.Payload(); errors.Is(err, images.ErrNoPayload) {
		t.Skip(err)
	}
	dir := t.TempDir()
	probed, programs := filepath.Join(dir, "probed"), filepath.Join(dir, "bin")
	assert.NilError(t, os.Mkdir(programs, 0o755))
	for _, name := range []string{"git", "sh", "touch"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skip(err)
		}
		assert.NilError(t, os.Symlink(path, filepath.Join(programs, name)))
	}
	qemu := "#!/bin/sh\ncase $1 in --version) echo QEMU emulator version 7.2.22;; *) touch " + probed + "; exit 1;; esac\n"
	assert.NilError(t, os.WriteFile(filepath.Join(programs, "qemu-system-x86_64"), []byte(qemu), 0o755))
	t.Setenv("PATH", programs)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	t.Chdir(dir)

	git := func(tree string, args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", tree, "-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgSign=false"}, args...)...)
		out, err := cmd.CombinedOutput()
		assert.NilError(t, err, "git %q: %s", args, out)
		return string(out)
	}
	commit := func(tree string, files map[string]string) string {
		for name, text := range files {
			assert.NilError(t, os.MkdirAll(filepath.Join(dir, tree), 0o755))
			assert.NilError(t, os.WriteFile(filepath.Join(dir, tree, name), []byte(text), 0o644))
		}
		git(tree, "add", "-A")
		git(tree, "commit", "-q", "-m", "change")
		return git(tree, "format-patch", "--stdout", "-1")
	}
	for _, tree := range []string{"linux", "novel"} {
		git(".", "init", "-q", tree)
	}
	commit("novel", map[string]string{"chapter": "one\n"})
	commit("novel", map[string]string{"chapter": "two\n"})
	commit("linux", map[string]string{"Makefile": "VERSION = 6\n", "Kconfig": "", "vfio.c": "one\n"})
	mails := []string{commit("linux", map[string]string{"vfio.c": "two\n"}), commit("linux", map[string]string{"vfio.c": "three\n"})}
	git("linux", "tag", "end")
	git("linux", "reset", "-q", "--hard", "HEAD~2")
	numbered := func(n int, mail string) string {
		return strings.Replace(mail, "[PATCH] change", fmt.Sprintf("[PATCH %d/2] change %d", n, n), 1)
	}
	mbox := func(name string, mails ...string) {
		assert.NilError(t, os.WriteFile(name, []byte(strings.Join(mails, "")), 0o644))
	}
	mbox("second.mbox", mails[1])
	mbox("swapped.mbox", numbered(2, mails[0]), numbered(1, mails[1]))

	for _, c := range []struct {
		args   string
		status int
		want   []string
	}{
		{"--tree novel --range HEAD~1..HEAD", 2, []string{`novel": `, "is no kernel: there is no Makefile with VERSION", "give a git tree of Linux"}},
		{"--tree novel --mbox second.mbox", 2, []string{"is no kernel: there is no Makefile with VERSION"}},
		{"--tree linux --mbox novel", 2, []string{"novel: is a folder: --patches novel reads the patches in it"}},
		{"--tree linux --mbox second.mbox", 1, []string{"patch 1 of 1 (change) does not apply: vfio.c, the hunk of line 1: patch does not apply",
			"the series names no base-commit, so that it was applied to HEAD: --base REV takes another"}},
		{"--tree linux --base end --mbox second.mbox", 1, []string{"patch 1 of 1 (change) does not apply: vfio.c, the hunk of line 1: patch does not apply (the tree has this change already)"}},
		{"--tree linux --mbox swapped.mbox", 1, []string{"patch 1 of 2 (change 1) does not apply: vfio.c, the hunk of line 1: patch does not apply; it does behind patch 2 (change 2): are they out of order?"}},
		{"--tree linux --range HEAD..end", 2, []string{"building a kernel needs make, gcc, ld, flex, bison, bc: apt-get install"}},
	} {
		var stdout, stderr bytes.Buffer
		status := Main(append([]string{"series"}, strings.Fields(c.args)...), nil, &stdout, &stderr)
		assert.Check(t, cmp.Equal(status, c.status), "%s", c.args)
		for _, want := range c.want {
			assert.Check(t, cmp.Contains(stdout.String()+stderr.String(), want))
		}
		_, err := os.Stat(probed)
		assert.Check(t, errors.Is(err, os.ErrNotExist), "%s: QEMU was started", c.args)
	}
}

// The folder of a build has one log, which the next patch's build begins anew: the report keeps those that failed.
func TestLogOfAFailedBuildIsKept(t *testing.T) {
	out := filepath.Join(t.TempDir(), "base.log")
	text := ""
	b := &seriesBuilder{tree: "/tree", dir: t.TempDir(), build: func(context.Context, build.Request) (build.Result, error) {
		assert.NilError(t, os.WriteFile(out, []byte(text), 0o644))
		return build.Result{}, &build.FailedError{Target: "bzImage", First: "/tree/virt/kvm/vfio.c:7: error: x", Log: out}
	}}
	logs := map[string]string{}
	for _, text = range []string{"of patch 1", "of patch 2"} {
		_, err := b.Build(t.Context(), "/tree", "base")
		failed, ok := errors.AsType[*series.BuildError](err)
		assert.Assert(t, ok, "%v", err)
		assert.Equal(t, failed.First, "virt/kvm/vfio.c:7: error: x")
		logs[failed.Log] = text
	}
	assert.Equal(t, len(logs), 2)
	for name, want := range logs {
		got, err := os.ReadFile(name)
		assert.NilError(t, err)
		assert.Equal(t, string(got), want)
	}
}

// A patch that takes an option away is the one to be named, not nestbed.
func TestOptionThatAPatchTakesAwayIsThePatchsFault(t *testing.T) {
	b := &seriesBuilder{build: func(context.Context, build.Request) (build.Result, error) {
		return build.Result{}, &build.OptionsError{Tree: "/tree", Missing: []string{"CONFIG_KVM: want m (kvm.config, line 3), have n: needs X", "CONFIG_VFIO: want m"}}
	}}
	_, err := b.Build(t.Context(), "/tree", "base")
	failed, ok := errors.AsType[*series.BuildError](err)
	assert.Assert(t, ok, "%v", err)
	assert.Equal(t, failed.First, "CONFIG_KVM: want m (kvm.config, line 3), have n: needs X\nCONFIG_VFIO: want m")
}
