package source

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/flock"
)

// kernelFiles are what makes a folder a kernel's.
var kernelFiles = map[string]string{
	"Makefile":                        "# SPDX\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 3\n",
	"Kconfig":                         "",
	"arch/x86/Kconfig":                "",
	"scripts/kconfig/merge_config.sh": "",
}

func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		assert.NilError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		assert.NilError(t, os.WriteFile(name, []byte(text), 0o644))
	}
	return dir
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git")
	}
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=n@example.org"}, args...)...)
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "git %v: %s", args, out)
	return strings.TrimSpace(string(out))
}

// repo is a kernel's git tree with two commits; the first is tagged v6.12.
func repo(t *testing.T) string {
	t.Helper()
	dir := write(t, filepath.Join(t.TempDir(), "linux"), kernelFiles)
	git(t, dir, "init", "--quiet")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "--quiet", "-m", "one")
	git(t, dir, "tag", "v6.12")
	write(t, dir, map[string]string{"file": "two"})
	git(t, dir, "add", ".")
	git(t, dir, "commit", "--quiet", "-m", "two")
	return dir
}

func cache(t *testing.T) *kernels.Cache {
	t.Helper()
	c, err := kernels.Open(filepath.Join(t.TempDir(), "kernels"))
	assert.NilError(t, err)
	return c
}

type words struct{ said []string }

func (w *words) say(s string) { w.said = append(w.said, s) }

func open(t *testing.T, c *kernels.Cache, tree, rev string) (*Tree, []string) {
	t.Helper()
	var w words
	got, err := Open(t.Context(), c, tree, rev, w.say)
	assert.NilError(t, err)
	t.Cleanup(got.Close)
	return got, w.said
}

func TestFolderIsBuiltAsItIs(t *testing.T) {
	dir := write(t, filepath.Join(t.TempDir(), "linux-6.12.3"), kernelFiles)
	got, said := open(t, cache(t), dir, "")
	assert.Equal(t, got.Dir, dir)
	assert.Equal(t, got.Name, "linux-6.12.3")
	assert.Equal(t, got.Version, kernels.Version{Major: 6, Minor: 12})
	assert.Equal(t, got.Origin, dir)
	assert.Equal(t, len(said), 0, "%q", said)
}

func TestCheckoutIsBuiltAsItIs(t *testing.T) {
	dir := repo(t)
	c := cache(t)
	got, said := open(t, c, dir, "")
	assert.Equal(t, got.Dir, dir)
	assert.Equal(t, got.Commit, git(t, dir, "rev-parse", "HEAD"))
	assert.Equal(t, len(said), 0, "%q", said)

	write(t, dir, map[string]string{"file": "edited"})
	got, said = open(t, c, dir, "")
	assert.Equal(t, got.Commit, "")
	assert.Assert(t, is.Contains(got.Origin, "with changes in 1 files"))
	assert.Equal(t, len(said), 1)
	assert.Assert(t, is.Contains(said[0], "uncommitted changes in 1 files: built as it is"))
}

// A revision comes from a worktree in the cache, and the checkout keeps its state to the byte.
func TestRevisionLeavesTheCheckoutAlone(t *testing.T) {
	dir := repo(t)
	write(t, dir, map[string]string{"file": "edited", "untracked": "x"})
	hooked := filepath.Join(dir, ".git/hooks/post-checkout")
	assert.NilError(t, os.WriteFile(hooked, []byte("#!/bin/sh\ntouch "+dir+"/hooked\n"), 0o755))
	before := git(t, dir, "status", "--porcelain")
	c := cache(t)

	first, _ := open(t, c, dir, "v6.12")
	assert.Equal(t, first.Name, "linux@v6.12")
	assert.Equal(t, first.Key, "linux@")
	assert.Assert(t, strings.HasPrefix(first.Dir, c.Sources()))
	_, err := os.Stat(filepath.Join(first.Dir, "file"))
	assert.Assert(t, os.IsNotExist(err), "the first commit has no such file")
	stamp, err := os.Stat(filepath.Join(first.Dir, "Kconfig"))
	assert.NilError(t, err)
	write(t, first.Dir, map[string]string{"left": "by a killed patch", "Makefile": "broken"})
	first.Close()

	second, _ := open(t, c, dir, "HEAD")
	assert.Equal(t, second.Dir, first.Dir, "one worktree for a tree")
	assert.Equal(t, second.Origin, dir+" at HEAD ("+short(second.Commit)+")")
	text, err := os.ReadFile(filepath.Join(second.Dir, "file"))
	assert.NilError(t, err)
	assert.Equal(t, string(text), "two")
	_, err = os.Stat(filepath.Join(second.Dir, "left"))
	assert.Assert(t, os.IsNotExist(err))
	again, err := os.Stat(filepath.Join(second.Dir, "Kconfig"))
	assert.NilError(t, err)
	assert.Equal(t, again.ModTime(), stamp.ModTime(), "what is alike is not compiled again")

	assert.Equal(t, git(t, dir, "status", "--porcelain"), before)
	assert.Equal(t, git(t, dir, "symbolic-ref", "HEAD") != "", true)
}

func TestDamagedWorktreeIsMadeAnew(t *testing.T) {
	dir := repo(t)
	c := cache(t)
	first, _ := open(t, c, dir, "HEAD")
	first.Close()
	assert.NilError(t, os.RemoveAll(filepath.Join(first.Dir, ".git")))
	second, _ := open(t, c, dir, "v6.12")
	assert.Assert(t, isSource(second.Dir))
	second.Close()

	// git was killed: its lock is left.
	locked := git(t, second.Dir, "rev-parse", "--git-path", "index.lock")
	assert.NilError(t, os.WriteFile(absolute(second.Dir, locked), nil, 0o644))
	third, _ := open(t, c, dir, "HEAD")
	_, err := os.Stat(filepath.Join(third.Dir, "file"))
	assert.NilError(t, err)
}

// Two builds of one tree's revisions take turns: they share the worktree.
// With a cache inside of the user's own tree, a damaged worktree is not taken for the checkout around it.
func TestDamagedWorktreeInsideOfTheTree(t *testing.T) {
	dir := repo(t)
	c, err := kernels.Open(filepath.Join(dir, "cache", "kernels"))
	assert.NilError(t, err)
	first, _ := open(t, c, dir, "v6.12")
	first.Close()
	write(t, dir, map[string]string{"file": "the user's work"})
	assert.NilError(t, os.Remove(filepath.Join(first.Dir, ".git")))
	again, _ := open(t, c, dir, "v6.12")
	again.Close()
	text, err := os.ReadFile(filepath.Join(dir, "file"))
	assert.NilError(t, err)
	assert.Equal(t, string(text), "the user's work")
}

func TestWorktreeIsHeld(t *testing.T) {
	dir := repo(t)
	c := cache(t)
	open(t, c, dir, "HEAD")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Open(ctx, c, dir, "v6.12", func(s string) {
		if strings.Contains(s, "waiting for another build") {
			cancel()
		}
	})
	assert.ErrorIs(t, err, context.Canceled)
}

func TestTreesOfOneNameAreToldApart(t *testing.T) {
	c := cache(t)
	one := write(t, filepath.Join(t.TempDir(), "linux"), kernelFiles)
	two := write(t, filepath.Join(t.TempDir(), "linux"), kernelFiles)
	a, _ := open(t, c, one, "")
	b, _ := open(t, c, two, "")
	again, _ := open(t, c, one, "")
	assert.Equal(t, a.Name, "linux")
	assert.Assert(t, strings.HasPrefix(b.Name, "linux-"), b.Name)
	assert.Equal(t, again.Name, a.Name)
}

func TestOpenRefuses(t *testing.T) {
	empty := t.TempDir()
	plain := write(t, filepath.Join(t.TempDir(), "plain"), kernelFiles)
	inPlace := write(t, filepath.Join(t.TempDir(), "built"), kernelFiles)
	write(t, inPlace, map[string]string{".config": ""})
	file := filepath.Join(write(t, t.TempDir(), map[string]string{"linux.tar.xz": ""}), "linux.tar.xz")
	for _, c := range []struct{ tree, rev, want string }{
		{"", "", "is empty"},
		{"/nonexistent/linux", "", "no such folder"},
		{file, "", "unpack it first"},
		{empty, "", "is no kernel"},
		{plain, "v6.12", "asks for a git tree, and this is none"},
		{inPlace, "", "run make mrproper there"},
		{"debian-source:6.12", "v6.12", "a package has no revisions"},
		{"debian-source:6x", "", `"6x" is not a kernel version`},
	} {
		_, err := Open(t.Context(), cache(t), c.tree, c.rev, func(string) {})
		assert.ErrorContains(t, err, c.want, "%q", c.tree)
	}
	_, err := Open(t.Context(), cache(t), repo(t), "v9.99", func(string) {})
	assert.ErrorContains(t, err, `there is no revision "v9.99"`)
	_, err = Open(t.Context(), cache(t), repo(t), "--output=x", func(string) {})
	assert.ErrorContains(t, err, "there is no revision")
}

func TestRevisionWithoutGit(t *testing.T) {
	dir := write(t, filepath.Join(t.TempDir(), "linux"), kernelFiles)
	t.Setenv("PATH", t.TempDir())
	_, err := Open(t.Context(), cache(t), dir, "HEAD", func(string) {})
	assert.ErrorContains(t, err, "git not found: apt-get install git")
	open(t, cache(t), dir, "")
}

func TestOutputOfABuildIsTakenAsItIs(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"arch/x86/boot/bzImage": "", ".config": ""})
	got, _ := open(t, cache(t), dir, "")
	assert.Assert(t, got.Built)
}

// A package's sources come out whole or not at all.
func TestUnpack(t *testing.T) {
	for _, tool := range []string{"dpkg-deb", "tar", "xz"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("no " + tool)
		}
	}
	root := filepath.Join(t.TempDir(), "root")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range kernelFiles {
		assert.NilError(t, w.WriteHeader(&tar.Header{Name: "linux-source-6.12/" + name, Mode: 0o644, Size: int64(len(text))}))
		_, err := w.Write([]byte(text))
		assert.NilError(t, err)
	}
	assert.NilError(t, w.Close())
	write(t, root, map[string]string{
		"DEBIAN/control":                "Package: linux-source-6.12\nVersion: 6.12.3-1\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: x\n",
		"usr/src/linux-source-6.12.tar": b.String(),
	})
	tarball := filepath.Join(root, "usr/src/linux-source-6.12.tar")
	out, err := exec.Command("xz", tarball).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	tmp := t.TempDir()
	deb := filepath.Join(tmp, "s.deb")
	out, err = exec.Command("dpkg-deb", "--build", root, deb).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	whole, err := os.ReadFile(deb)
	assert.NilError(t, err)

	dir := filepath.Join(t.TempDir(), "debian-6.12_6.12.3-1")
	assert.NilError(t, os.WriteFile(deb, whole[:len(whole)-100], 0o644))
	assert.Assert(t, unpack(t.Context(), deb, tmp, dir) != nil)
	_, err = os.Stat(dir)
	assert.Assert(t, os.IsNotExist(err))

	tmp = t.TempDir()
	assert.NilError(t, os.WriteFile(deb, whole, 0o644))
	assert.NilError(t, unpack(t.Context(), deb, tmp, dir))
	assert.Assert(t, isSource(dir))
	assert.Equal(t, latest(filepath.Dir(dir), "debian-6.12"), dir)
	assert.Equal(t, latest(filepath.Dir(dir), "debian-6.1"), "")
}

// A package's sources are several builds' at once, and nobody's to remove meanwhile.
func TestUnpackedSourcesAreShared(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "debian-6.12_1")
	calls := 0
	open := func() *flock.Lock {
		held, err := unpacked(t.Context(), dir, func() error { calls++; return os.Mkdir(dir, 0o755) }, nil)
		assert.NilError(t, err)
		return held
	}
	free := func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		held, err := flock.Take(ctx, dir+".lock", cancel) // as build.Prune does
		if err == nil {
			held.Unlock()
		}
		return err == nil
	}
	one, two := open(), open()
	assert.Equal(t, calls, 1)
	assert.Check(t, !free(), "both build")
	one.Unlock()
	assert.Check(t, !free(), "one still builds")
	two.Unlock()
	assert.Check(t, free())

	assert.NilError(t, os.Remove(dir))
	_, err := unpacked(t.Context(), dir, func() error { return errors.New("no space left") }, nil)
	assert.ErrorContains(t, err, "no space left")
	assert.Check(t, free(), "a failed download holds nothing")
	open().Unlock()
	assert.Equal(t, calls, 2)
}

// Without a mirror, the sources that are here are taken; with one that is wrong, that is said.
func TestPackageWithoutAMirror(t *testing.T) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("needs apt-get: this machine is not a Debian")
	}
	wrong := httptest.NewServer(http.NotFoundHandler())
	defer wrong.Close()
	c := cache(t)
	mirror := func(uri string) {
		dir := write(t, t.TempDir(), map[string]string{"sources.list": "deb " + uri + "/debian bookworm main\n"})
		conf := "Dir::Etc::sourcelist \"" + dir + "/sources.list\";\nDir::Etc::sourceparts \"" + dir + "/none.d\";\nAcquire::Retries \"0\";\nAcquire::http::Proxy::127.0.0.1 \"DIRECT\";\n"
		write(t, dir, map[string]string{"apt.conf": conf})
		t.Setenv("APT_CONFIG", filepath.Join(dir, "apt.conf"))
	}
	mirror("http://127.0.0.1:1")
	_, err := Open(t.Context(), c, "debian-source:6.12", "", func(string) {})
	assert.ErrorIs(t, err, kernels.ErrUnreachable, "none is here either")

	dir := write(t, filepath.Join(c.Sources(), "debian-6.12_6.12.3-1"), kernelFiles)
	got, said := open(t, c, "debian-source:6.12", "")
	assert.Equal(t, got.Dir, dir)
	assert.Assert(t, is.Contains(said[len(said)-1], "taking debian-6.12_6.12.3-1, which is here: "))

	mirror(wrong.URL)
	_, err = Open(t.Context(), c, "debian-source:6.12", "", func(string) {})
	assert.ErrorContains(t, err, "is the name of the suite right?")
	assert.Assert(t, !errors.Is(err, kernels.ErrUnreachable), "%v", err)
}
