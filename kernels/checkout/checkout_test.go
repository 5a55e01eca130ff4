package checkout

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
)

// repo is a user's repository whose configuration would do harm: a hook that fails and signatures by a program
// that is not there.
type repo struct {
	t   *testing.T
	dir string
}

func (r repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir, "-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	assert.NilError(r.t, err, "git %v: %s", args, out)
	return strings.TrimSpace(string(out))
}

func (r repo) commit(subject string, files map[string]string) string {
	r.t.Helper()
	for name, text := range files {
		name = filepath.Join(r.dir, name)
		assert.NilError(r.t, os.MkdirAll(filepath.Dir(name), 0o755))
		assert.NilError(r.t, os.WriteFile(name, []byte(text), 0o644))
	}
	r.git("add", "-A")
	r.git("commit", "-q", "-m", subject)
	return r.git("rev-parse", "HEAD")
}

func newRepo(t *testing.T) repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git in PATH")
	}
	r := repo{t, filepath.Join(t.TempDir(), "linux")}
	assert.NilError(t, os.Mkdir(r.dir, 0o755))
	r.git("init", "-q")
	assert.NilError(t, os.WriteFile(filepath.Join(r.dir, ".git/hooks/pre-applypatch"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	r.git("config", "commit.gpgSign", "true")
	r.git("config", "gpg.program", "/nonexistent")
	r.commit("base", map[string]string{
		"Makefile": "VERSION = 6\nPATCHLEVEL = 12\n", "Kconfig": "\n",
		"virt/kvm/vfio.c": "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n", "same.c": "same\n",
	})
	return r
}

func open(t *testing.T, tree string) *Checkout {
	t.Helper()
	c, err := Open(t.Context(), filepath.Join(t.TempDir(), "cache"), tree, nil)
	assert.NilError(t, err)
	t.Cleanup(c.Close)
	return c
}

// mail is the last commit as it would be mailed.
func (r repo) mail() []byte {
	text := r.git("format-patch", "--stdout", "-1")
	_, text, _ = strings.Cut(text, "\n")
	return []byte(text + "\n")
}

func TestPatchAppliesBesideTheUsersCheckout(t *testing.T) {
	r := newRepo(t)
	base := r.git("rev-parse", "HEAD")
	r.commit("vfio: change five", map[string]string{"virt/kvm/vfio.c": "one\ntwo\nthree\nfour\n5\nsix\nseven\neight\n"})
	want := r.git("rev-parse", "HEAD^{tree}")
	message := r.mail()
	r.git("reset", "-q", "--hard", base)
	before := listing(t, r.dir)

	c := open(t, r.dir)
	found, err := c.Find(t.Context(), "HEAD")
	assert.NilError(t, err)
	assert.NilError(t, c.Go(t.Context(), found))
	old, err := os.Stat(filepath.Join(c.Dir(), "same.c"))
	assert.NilError(t, err)
	got, err := c.Apply(t.Context(), found, "vfio: change five", message)
	assert.NilError(t, err)
	assert.Equal(t, got.Tree, want)
	assert.Equal(t, got.Subject, "vfio: change five")
	written, err := filepath.Glob(c.inGit("aside", "tree", "*"))
	assert.NilError(t, err)
	assert.DeepEqual(t, written, []string{c.inGit("aside", "tree", "virt")})
	assert.NilError(t, c.Go(t.Context(), got))
	data, err := os.ReadFile(filepath.Join(c.Dir(), "virt/kvm/vfio.c"))
	assert.NilError(t, err)
	assert.Assert(t, cmp.Contains(string(data), "\n5\n"))

	// What a commit does not change keeps its time, and make takes it for built.
	assert.NilError(t, c.Go(t.Context(), found))
	now, err := os.Stat(filepath.Join(c.Dir(), "same.c"))
	assert.NilError(t, err)
	assert.Assert(t, now.ModTime().Equal(old.ModTime()))

	again, err := c.Apply(t.Context(), found, "vfio: change five", message)
	assert.NilError(t, err)
	assert.Equal(t, again.Hash, got.Hash, "the same patch on the same base is the same commit")
	assert.DeepEqual(t, listing(t, r.dir), before)
}

// listing is every file of a repository, .git included, with what is in it.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	assert.NilError(t, filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		all[name] = string(data)
		return err
	}))
	return all
}

func TestFailingHunkIsNamed(t *testing.T) {
	r := newRepo(t)
	r.commit("vfio: change five", map[string]string{"virt/kvm/vfio.c": "one\ntwo\nthree\nfour\n5\nsix\nseven\neight\n"})
	message := r.mail()
	base := r.commit("vfio: change it all", map[string]string{"virt/kvm/vfio.c": "I\nII\nIII\nIV\nV\nVI\nVII\nVIII\n"})
	c := open(t, r.dir)
	found, err := c.Find(t.Context(), base)
	assert.NilError(t, err)
	assert.NilError(t, c.Go(t.Context(), found))
	_, err = c.Apply(t.Context(), found, "vfio: change five", message)
	var failed *ApplyError
	assert.Assert(t, errors.As(err, &failed), "%v", err)
	assert.Equal(t, failed.File, "virt/kvm/vfio.c")
	assert.Equal(t, failed.Line, 2)
	assert.Assert(t, !failed.Applied)
	assert.ErrorContains(t, err, `patch "vfio: change five" does not apply: virt/kvm/vfio.c, the hunk of line 2: patch does not apply`)
	assert.ErrorContains(t, err, "@@ -2,7 +2,7 @@")
	assert.ErrorContains(t, err, "-five\n+5\n")
	assert.Assert(t, !strings.Contains(failed.Hunk, "diff --git"))

	// The working copy is as good as new.
	assert.NilError(t, c.Go(t.Context(), found))
	_, err = os.Stat(c.inGit("rebase-apply"))
	assert.Assert(t, errors.Is(err, os.ErrNotExist))
}

func TestPatchThatTheTreeHasIsSaidToBeThere(t *testing.T) {
	r := newRepo(t)
	r.commit("vfio: change five", map[string]string{"virt/kvm/vfio.c": "one\ntwo\nthree\nfour\n5\nsix\nseven\neight\n"})
	c := open(t, r.dir)
	found, err := c.Find(t.Context(), "HEAD")
	assert.NilError(t, err)
	assert.NilError(t, c.Go(t.Context(), found))
	_, err = c.Apply(t.Context(), found, "vfio: change five", r.mail())
	assert.ErrorContains(t, err, "the tree has this change already")
}

func TestPatchOfAMissingFileAndMailWithoutDiff(t *testing.T) {
	r := newRepo(t)
	base := r.git("rev-parse", "HEAD")
	r.commit("add", map[string]string{"new.c": "new\n"})
	r.commit("change", map[string]string{"new.c": "newer\n"})
	c := open(t, r.dir)
	found, err := c.Find(t.Context(), base)
	assert.NilError(t, err)
	assert.NilError(t, c.Go(t.Context(), found))
	_, err = c.Apply(t.Context(), found, "change", r.mail())
	assert.ErrorContains(t, err, "new.c: does not exist in index")
	_, err = c.Apply(t.Context(), found, "words", []byte("From: a@b\nSubject: words\n\nonly words\n"))
	var failed *ApplyError
	assert.Assert(t, errors.As(err, &failed), "%v", err)
	assert.NilError(t, c.Go(t.Context(), found))
}

func TestRange(t *testing.T) {
	r := newRepo(t)
	base := r.git("rev-parse", "HEAD")
	one := r.commit("one", map[string]string{"one.c": "1\n"})
	two := r.commit("two", map[string]string{"two.c": "2\n"})
	r.git("checkout", "-q", "-b", "side", base)
	r.commit("elsewhere", map[string]string{"side.c": "s\n"})
	c := open(t, r.dir)
	for _, text := range []string{base + ".." + two, "side.." + two} {
		from, list, err := c.Range(t.Context(), text)
		assert.NilError(t, err)
		assert.Equal(t, from.Hash, base)
		assert.Equal(t, len(list), 2)
		assert.Equal(t, list[0].Hash, one)
		assert.Equal(t, list[1].Subject, "two")
	}
	for text, want := range map[string]string{
		two + ".." + base: "holds no commit; give the older end first: BASE..HEAD",
		"v9.99..HEAD":     `there is no revision "v9.99"`,
		"HEAD":            `range "HEAD": want BASE..HEAD`,
		"a...b":           `range "a...b": want BASE..HEAD`,
	} {
		_, _, err := c.Range(t.Context(), text)
		assert.ErrorContains(t, err, want)
	}
}

func TestChangesAreSeen(t *testing.T) {
	r := newRepo(t)
	c := open(t, r.dir)
	n, err := c.Changes(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, n, 0)
	assert.NilError(t, os.WriteFile(filepath.Join(r.dir, "same.c"), []byte("other\n"), 0o644))
	n, err = c.Changes(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, n, 1)
}

func TestWhatIsNoTree(t *testing.T) {
	r := newRepo(t)
	root := t.TempDir()
	_, err := Open(t.Context(), root, filepath.Join(r.dir, "missing"), nil)
	assert.ErrorContains(t, err, "no such folder")
	_, err = Open(t.Context(), root, root, nil)
	assert.ErrorContains(t, err, "is no git repository; a series needs one: git init")
	r.git("rm", "-q", "Makefile")
	r.git("commit", "-q", "-m", "no kernel")
	c := open(t, r.dir)
	found, err := c.Find(t.Context(), "HEAD")
	assert.NilError(t, err)
	assert.ErrorContains(t, c.Go(t.Context(), found), "is no kernel: there is no Makefile with VERSION")
	assert.ErrorContains(t, c.IsKernel(t.Context(), found), "is no kernel: there is no Makefile with VERSION", "without a checkout")
}

// Whether a series applies is known before anything of Linux is checked out, and when something else is.
func TestPatchesApplyWithoutACheckout(t *testing.T) {
	r := newRepo(t)
	base := r.git("rev-parse", "HEAD")
	var mails [][]byte
	var trees []string
	for _, five := range []string{"5", "V"} {
		r.commit("five is "+five, map[string]string{"virt/kvm/vfio.c": "one\ntwo\nthree\nfour\n" + five + "\nsix\nseven\neight\n", "new/" + five: five})
		mails, trees = append(mails, r.mail()), append(trees, r.git("rev-parse", "HEAD^{tree}"))
	}
	c := open(t, r.dir)
	start, err := c.Find(t.Context(), base)
	assert.NilError(t, err)
	series := func() (Commit, error) {
		one, err := c.Apply(t.Context(), start, "1", mails[0])
		assert.NilError(t, err)
		assert.Equal(t, one.Tree, trees[0])
		two, err := c.Apply(t.Context(), one, "2", mails[1])
		assert.NilError(t, err)
		assert.Equal(t, two.Tree, trees[1])
		return c.Apply(t.Context(), two, "1", mails[0])
	}
	_, err = series()
	assert.ErrorContains(t, err, "new/5: already exists in index")
	_, err = os.Stat(filepath.Join(c.Dir(), "Makefile"))
	assert.Assert(t, errors.Is(err, os.ErrNotExist))

	assert.NilError(t, c.Go(t.Context(), start))
	_, err = series()
	assert.ErrorContains(t, err, "new/5: already exists in index")
	data, err := os.ReadFile(filepath.Join(c.Dir(), "virt/kvm/vfio.c"))
	assert.NilError(t, err)
	assert.Assert(t, cmp.Contains(string(data), "\nfive\n"))
	// Between two patches, the files may go elsewhere.
	one, err := c.Apply(t.Context(), start, "1", mails[0])
	assert.NilError(t, err)
	assert.NilError(t, c.Go(t.Context(), start))
	two, err := c.Apply(t.Context(), one, "2", mails[1])
	assert.NilError(t, err)
	assert.Equal(t, two.Tree, trees[1])
}

func TestShallowTree(t *testing.T) {
	r := newRepo(t)
	r.commit("two", map[string]string{"two.c": "2\n"})
	r.commit("three", map[string]string{"three.c": "3\n"})
	shallow := filepath.Join(t.TempDir(), "shallow")
	r.git("clone", "-q", "--depth=2", "file://"+r.dir, shallow)
	c := open(t, shallow)
	from, list, err := c.Range(t.Context(), "HEAD~1..HEAD")
	assert.NilError(t, err)
	assert.Equal(t, len(list), 1)
	assert.NilError(t, c.Go(t.Context(), from))
	assert.NilError(t, c.Go(t.Context(), list[0]))
}

func TestTwoAtOnceWait(t *testing.T) {
	r := newRepo(t)
	root := t.TempDir()
	first, err := Open(t.Context(), root, r.dir, nil)
	assert.NilError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	said := 0
	_, err = Open(ctx, root, r.dir, func() { said++; cancel() })
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, said, 1)
	first.Close()
	second, err := Open(t.Context(), root, r.dir, nil)
	assert.NilError(t, err)
	second.Close()
}

// A git that was killed in the middle leaves a lock and half an am.
func TestRemainsOfAKilledGit(t *testing.T) {
	r := newRepo(t)
	root := t.TempDir()
	c, err := Open(t.Context(), root, r.dir, nil)
	assert.NilError(t, err)
	found, err := c.Find(t.Context(), "HEAD")
	assert.NilError(t, err)
	assert.NilError(t, c.Go(t.Context(), found))
	assert.NilError(t, os.WriteFile(c.inGit("index.lock"), nil, 0o644))
	assert.NilError(t, os.MkdirAll(c.inGit("rebase-apply"), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(c.Dir(), "same.c"), []byte("half"), 0o644))
	assert.NilError(t, os.WriteFile(filepath.Join(c.Dir(), ".config"), []byte("junk"), 0o644))
	c.Close()
	c, err = Open(t.Context(), root, r.dir, nil)
	assert.NilError(t, err)
	defer c.Close()
	assert.NilError(t, c.Go(t.Context(), found))
	data, err := os.ReadFile(filepath.Join(c.Dir(), "same.c"))
	assert.NilError(t, err)
	assert.Equal(t, string(data), "same\n")
	_, err = os.Stat(filepath.Join(c.Dir(), ".config"))
	assert.Assert(t, errors.Is(err, os.ErrNotExist))
}

// What else a git may be killed in: making the repository, moving the branch. And the last series' base may be gone
// from the user's repository, rebased away and pruned.
func TestRepositoryThatIsOfNoUseIsMadeAnew(t *testing.T) {
	for what, harm := range map[string]func(t *testing.T, c *Checkout){
		"half an init": func(t *testing.T, c *Checkout) {
			for _, name := range []string{"objects", "refs", "config", "index"} {
				assert.NilError(t, os.RemoveAll(c.inGit(name)))
			}
		},
		"a lock": func(t *testing.T, c *Checkout) {
			assert.NilError(t, os.WriteFile(c.inGit("refs/heads/master.lock"), nil, 0o644))
		},
		"another lock": func(t *testing.T, c *Checkout) {
			assert.NilError(t, os.WriteFile(c.inGit("HEAD.lock"), nil, 0o644))
		},
		"a cut index": func(t *testing.T, c *Checkout) {
			assert.NilError(t, os.WriteFile(c.inGit("index"), []byte("DIRC"), 0o644))
		},
		"a commit that is gone": func(t *testing.T, c *Checkout) {
			assert.NilError(t, os.WriteFile(c.inGit("refs/heads/master"), []byte(strings.Repeat("1", 40)+"\n"), 0o644))
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRepo(t)
			// The cache may well be inside of the user's own repository.
			root := filepath.Join(r.dir, "cache")
			assert.NilError(t, os.WriteFile(filepath.Join(r.dir, "same.c"), []byte("the user's work"), 0o644))
			c, err := Open(t.Context(), root, r.dir, nil)
			assert.NilError(t, err)
			found, err := c.Find(t.Context(), "HEAD")
			assert.NilError(t, err)
			assert.NilError(t, c.Go(t.Context(), found))
			harm(t, c)
			c.Close()
			c, err = Open(t.Context(), root, r.dir, nil)
			assert.NilError(t, err)
			defer c.Close()
			_, err = c.Apply(t.Context(), found, "words", []byte("From: a@b\nSubject: words\n\nonly words\n"))
			assert.Assert(t, errors.As(err, new(*ApplyError)), "%v", err)
			err = c.Go(t.Context(), found)
			data, fault := os.ReadFile(filepath.Join(r.dir, "same.c"))
			assert.NilError(t, fault)
			assert.Equal(t, string(data), "the user's work")
			assert.NilError(t, err)
			data, err = os.ReadFile(filepath.Join(c.Dir(), "same.c"))
			assert.NilError(t, err)
			assert.Equal(t, string(data), "same\n")
		})
	}
}
