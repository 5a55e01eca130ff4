package mutants

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
)

const diff = `diff --git a/virt/kvm/vfio.c b/virt/kvm/vfio.c
index 1111111..2222222 100644
--- a/virt/kvm/vfio.c
+++ b/virt/kvm/vfio.c
@@ -1,3 +1,2 @@ static int f(void)
 a
-b

@@ -9 +8,2 @@
 c
+d
`

const header = `From: A B <a@b>
Subject: [PATCH] kvm/vfio: a
 long subject

What: mutant M99: it
 does this,
and that.
Breaks: a contract.
Base: plain
Expected: some-scenario fails:
kvm +1.

Some words.
---
 virt/kvm/vfio.c | 2 +-

`

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

func TestHeaderAndDiff(t *testing.T) {
	all, err := ReadDir(folder(t, map[string]string{
		"m99-it.patch": header + diff + "-- \n2.39.5\n",
		"crlf.diff":    strings.ReplaceAll(diff, "\n", "\r\n"),
		"README":       "no diff",
	}))
	assert.NilError(t, err)
	assert.Equal(t, len(all), 2)
	files := []File{{Path: "virt/kvm/vfio.c", Hunks: 2, Lines: 2}}
	assert.Equal(t, all[0].ID, "crlf")
	assert.DeepEqual(t, all[0].Files, files)
	assert.Assert(t, !all[0].Plain && !all[0].Golden() && all[0].What == "")
	assert.DeepEqual(t, all[1], Patch{
		ID: "m99-it", What: "mutant M99: it does this, and that.", Breaks: "a contract.", Expected: "some-scenario fails: kvm +1.",
		Plain: true, Files: files, Text: []byte(header + diff + "-- \n2.39.5\n"),
	})
}

// What diff -u and git write for files that come and go, and at the end of a file without a newline.
func TestDialects(t *testing.T) {
	p, err := parse([]byte("diff -urN a/x/new.c b/x/new.c\n--- a/x/new.c\t1970-01-01 00:00:00\n+++ b/x/new.c\t2026-01-01 00:00:00\n@@ -0,0 +1,2 @@\n+a\n+b\n" +
		"diff --git a/gone.c b/gone.c\ndeleted file mode 100644\n--- a/gone.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n\\ No newline at end of file\n"))
	assert.NilError(t, err)
	assert.DeepEqual(t, p.Files, []File{{"x/new.c", 1, 2}, {"gone.c", 1, 1}})
}

func TestWhatCannotBeRead(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"words\n", ":1: holds no unified diff: git diff writes one"},
		{"diff --git a/x b/x\nold mode 100644\nnew mode 100755\n", ":1: holds no unified diff"},
		{"@@ -1 +1 @@\n-a\n+b\n", ":1: a hunk of no file"},
		{strings.TrimSuffix(diff, "+d\n"), ":9: the file ends within a hunk: the diff was cut"},
		{strings.Replace(diff, "-9 +8,2", "-9 +8", 1), ":9: a hunk has more lines than its head counts"},
		{strings.Replace(diff, "-1,3 +1,2", "-1,4 +1,3", 1), `:5: a hunk has "@@ -9 +8,2 @@"`},
		{strings.Replace(diff, "-1,3 +1,2", "-1,1 +1,2", 1), ":5: a hunk has other lines than its head counts"},
		{strings.Replace(diff, "@@ -9", "@@ 9", 1), ":9: no head of a hunk"},
		{"diff --git a/x b/x\nGIT binary patch\n", ":2: a binary diff"},
		{"What: a\nWhat: b\n" + diff, ":2: a second line What: in one header"},
		{"What: a\nBase: v6.12\n" + diff, ":2: Base: v6.12: the tree is golden, or with Base: plain as it is"},
	} {
		_, err := ReadDir(folder(t, map[string]string{"x.diff": c.text}))
		assert.ErrorContains(t, err, "x.diff"+c.want)
	}
	_, err := ReadDir(folder(t, map[string]string{"x.diff": diff, "x.patch": diff}))
	assert.ErrorContains(t, err, "another file is named x too")
	_, err = ReadDir(folder(t, map[string]string{"x.txt": diff}))
	assert.ErrorContains(t, err, "holds no *.patch and no *.diff file: git diff > ")
	_, err = ReadDir(filepath.Join(t.TempDir(), "missing"))
	assert.ErrorContains(t, err, "missing: no such folder of diffs")
}

func shipped(t *testing.T) []Patch {
	t.Helper()
	all, err := ReadDir(".")
	assert.NilError(t, err)
	return all
}

var number = regexp.MustCompile(`^(g|m|n)[0-9]+[a-z]?$`)

// Each says what it is, and is small enough to be one bug: one file, and of that no more than a function and
// what comes to be unused with it.
func TestShippedOnes(t *testing.T) {
	kinds := map[byte]int{}
	for _, p := range shipped(t) {
		id, name, _ := strings.Cut(p.ID, "-")
		assert.Assert(t, number.MatchString(id) && name != "", "%s: want a letter and a number, then a name", p.ID)
		kinds[id[0]]++
		called, golden := "mutant ", id[0] == 'g'
		if golden {
			called = "golden patch "
		}
		assert.Assert(t, strings.HasPrefix(p.What, called+strings.ToUpper(id)+" of 6.12: ") == golden &&
			strings.HasPrefix(p.What, called+strings.ToUpper(id)), "%s: What: %s", p.ID, p.What)
		assert.Equal(t, p.Golden(), golden, "%s: Mends:", p.ID)
		assert.Equal(t, p.Breaks == "", golden, "%s: Breaks:", p.ID)
		assert.Assert(t, len(p.Expected) > 20, "%s: Expected: %s", p.ID, p.Expected)
		files, hunks, lines := len(p.Files), 0, 0
		for _, f := range p.Files {
			assert.Assert(t, cmp.Regexp(`^(virt/kvm|drivers/vfio(/pci)?|drivers/iommu/iommufd)/[a-z_0-9]+\.c$`, f.Path), "%s: only modules are built anew", p.ID)
			hunks, lines = hunks+f.Hunks, lines+f.Lines
		}
		if id == "m05" {
			files-- // .destroy and the group's lock: a deadlock takes two
		}
		assert.Assert(t, files == 1 && hunks <= 4 && lines <= 30, "%s: %d files, %d hunks, %d lines", p.ID, len(p.Files), hunks, lines)
		for line := range strings.Lines(string(p.Text)) {
			assert.Assert(t, strings.HasPrefix(line, "@@") || len(line) <= 112, "%s: %s", p.ID, line)
		}
	}
	assert.Assert(t, kinds['g'] >= 2 && kinds['m'] >= 15 && kinds['n'] >= 10, "%v", kinds)
}

// Those that ship apply to Linux 6.12, each to the tree that it asks for. The tree is what make built leaves in the
// cache; nothing is written to it.
func TestShippedOnesApply(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git in PATH")
	}
	caches, err := os.UserCacheDir()
	assert.NilError(t, err)
	repository := filepath.Join(caches, "nestbed", "v1", "linux.git")
	if _, err := os.Stat(filepath.Join(repository, "refs", "heads", "ready")); err != nil {
		t.Skipf("no Linux 6.12 to apply to: %v: make built leaves one in the cache", err)
	}
	scratch := t.TempDir()
	git := func(index, stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"--git-dir", repository}, args...)...)
		cmd.Dir = scratch
		cmd.Env = append(os.Environ(), "GIT_INDEX_FILE="+filepath.Join(scratch, index), "GIT_OBJECT_DIRECTORY="+scratch,
			"GIT_ALTERNATE_OBJECT_DIRECTORIES="+filepath.Join(repository, "objects"))
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(out string, err error) string {
		t.Helper()
		assert.NilError(t, err, out)
		return out
	}
	all := shipped(t)
	list := []string{"ls-tree", "ready"} // an index of the changed files alone is a small one
	for _, p := range all {
		for _, f := range p.Files {
			list = append(list, f.Path)
		}
	}
	files := must(git("none", "", list...))
	for _, index := range []string{"plain", "golden"} {
		must(git(index, files, "update-index", "--index-info"))
	}
	for _, p := range all {
		if p.Golden() {
			must(git("golden", string(p.Text), "apply", "--cached", "-"))
		}
	}
	for _, p := range all {
		index := "golden"
		if p.Plain || p.Golden() {
			index = "plain"
		}
		out, err := git(index, string(p.Text), "apply", "--cached", "--check", "-")
		assert.Check(t, err, "%s, %s tree: %s", p.ID, index, out)
	}
}
