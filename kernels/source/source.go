// Package source owns where the sources of a kernel come from: it turns what a user names (a folder, a git tree
// and a revision, a distribution's package) into a folder that a build may read and nobody changes meanwhile.
//
// A user's checkout is never touched. A revision of it is checked out in a worktree in the cache, one for each
// tree: two revisions differ in few files, and the next build compiles only those. Building is package build's.
package source

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/flock"
)

// Tree is a folder of sources, until Close.
type Tree struct {
	Dir     string // absolute
	Key     string // names the folder of its builds
	Name    string // names its kernels: linux, linux@v6.12, debian-6.12
	Origin  string // for people: /home/me/linux at v6.12 (0123456789ab)
	Commit  string // "" where there is no git, or uncommitted changes
	Version kernels.Version
	Built   bool // Dir is a hand-made build's output, to be taken as it is

	held *flock.Lock
}

// Close lets others change the tree.
func (t *Tree) Close() {
	if t.held != nil {
		t.held.Unlock()
		t.held = nil
	}
}

// Error says that what the user named cannot be built, and what can.
type Error struct {
	Tree   string
	Reason string
	Hint   string
}

func (e *Error) Error() string { return fmt.Sprintf("tree %q: %s; %s", e.Tree, e.Reason, e.Hint) }

const forms = "want a kernel's source folder, a git tree, or debian-source:6.12"

// Open finds the sources that text names, at a revision if rev is not "". say is told what takes time and
// what the user may not expect.
func Open(ctx context.Context, cache *kernels.Cache, text, rev string, say func(string)) (*Tree, error) {
	if kernels.IsSource(text) {
		if rev != "" {
			return nil, &Error{text, "a package has no revisions", "leave --rev out, or give a git tree"}
		}
		return openPackage(ctx, cache, text, say)
	}
	dir, err := filepath.Abs(text)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && text != "":
		return nil, &Error{text, "no such folder", forms}
	case err != nil:
		return nil, err
	case text == "":
		return nil, &Error{text, "is empty", forms}
	case !info.IsDir():
		return nil, &Error{text, "is not a folder", "unpack it first (tar xf) and give the folder"}
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	t := &Tree{Dir: dir}
	git, err := findRepository(ctx, dir)
	if err != nil {
		return nil, err
	}
	if rev != "" {
		if _, err := exec.LookPath("git"); err != nil {
			return nil, errors.New("git not found: apt-get install git")
		}
		if git == nil {
			return nil, &Error{text, "--rev " + rev + " asks for a git tree, and this is none", "leave --rev out to build it as it is"}
		}
		return openWorktree(ctx, cache, git, text, rev, say)
	}
	if !isSource(dir) {
		if isOutput(dir) {
			t.Built, t.Origin = true, dir
			t.Key, err = claim(cache.Builds(), dir)
			t.Name = t.Key
			return t, err
		}
		return nil, &Error{text, "is no kernel: there is no Makefile with VERSION, no Kconfig, or no scripts/kconfig/merge_config.sh", forms}
	}
	if what, err := builtInPlace(dir); err != nil {
		return nil, err
	} else if what != "" {
		hint := "run make mrproper there, or take the kernel that is there: nestbed run -k " + dir
		if git != nil {
			hint = "--rev HEAD builds a revision beside it; or " + hint
		}
		return nil, &Error{text, "a kernel was configured or built inside (" + what + "), and Linux builds elsewhere only from clean sources", hint}
	}
	if t.Version, err = readVersion(dir); err != nil {
		return nil, err
	}
	if t.Key, err = claim(cache.Builds(), dir); err != nil {
		return nil, err
	}
	t.Name, t.Origin = t.Key, dir
	if git != nil {
		if err := t.describe(ctx, git, say); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// describe says what state of the tree is built: a commit, or one and changes.
func (t *Tree) describe(ctx context.Context, git *repository, say func(string)) error {
	commit, err := git.run(ctx, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		say(t.Dir + " has no commit yet: built as it is")
		return nil
	}
	changes, err := git.run(ctx, "status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return err
	}
	if changes != "" {
		n := len(strings.Split(changes, "\n"))
		say(fmt.Sprintf("%s has uncommitted changes in %d files: built as it is", t.Dir, n))
		t.Origin += fmt.Sprintf(" at %s with changes in %d files", short(commit), n)
		return nil
	}
	t.Commit = commit
	t.Origin += " at " + short(commit)
	return nil
}

// short is how a commit is shown.
func short(commit string) string { return commit[:min(12, len(commit))] }

// isSource recognises the sources of a kernel.
func isSource(dir string) bool {
	for _, name := range []string{"Makefile", "Kconfig", "scripts/kconfig/merge_config.sh", "arch/x86/Kconfig"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || !info.Mode().IsRegular() {
			return false
		}
	}
	_, err := readVersion(dir)
	return err == nil
}

// isOutput recognises the output folder of a build that was made by hand.
func isOutput(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "arch/x86/boot/bzImage"))
	return err == nil
}

// builtInPlace names what the kernel's own Makefile takes for a sign of a build inside of the sources.
func builtInPlace(dir string) (string, error) {
	for _, name := range []string{".config", "include/config", "arch/x86/include/generated"} {
		_, err := os.Stat(filepath.Join(dir, name))
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", nil
}

var makefileNumber = regexp.MustCompile(`^(VERSION|PATCHLEVEL)\s*=\s*([0-9]+)\s*$`)

// readVersion reads the head of the Makefile.
func readVersion(dir string) (kernels.Version, error) {
	f, err := os.Open(filepath.Join(dir, "Makefile"))
	if err != nil {
		return kernels.Version{}, err
	}
	defer f.Close()
	found := make(map[string]string)
	lines := bufio.NewScanner(f)
	for n := 0; n < 20 && lines.Scan(); n++ {
		if m := makefileNumber.FindStringSubmatch(lines.Text()); m != nil {
			found[m[1]] = m[2]
		}
	}
	v, err := kernels.ParseVersion(found["VERSION"] + "." + found["PATCHLEVEL"])
	if err != nil {
		return v, fmt.Errorf("%s names no version: is it a kernel's?", f.Name())
	}
	return v, nil
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9_.+~-]+`)

// claim gives the tree a short name of its own below the folder of builds: that of its folder, or, if another
// tree has it, with a few digits behind.
func claim(builds, dir string) (string, error) {
	base := strings.Trim(unfit.ReplaceAllString(filepath.Base(dir), "-"), ".-+~")
	if base == "" {
		base = "linux"
	}
	sum := sha256.Sum256([]byte(dir))
	for _, name := range []string{base, fmt.Sprintf("%s-%x", base, sum[:4])} {
		owner := filepath.Join(builds, name, "tree")
		if err := os.MkdirAll(filepath.Dir(owner), 0o755); err != nil {
			return "", err
		}
		held, err := flock.Take(context.Background(), owner+".lock", nil)
		if err != nil {
			return "", err
		}
		text, err := os.ReadFile(owner)
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(text) == 0 {
			text = []byte(dir + "\n")
			err = os.WriteFile(owner, text, 0o644)
		}
		held.Unlock()
		if err != nil {
			return "", err
		}
		if strings.TrimSpace(string(text)) == dir {
			return name, nil
		}
	}
	return "", fmt.Errorf("tree %s: its name in %s is taken by another: nestbed cache prune --builds", dir, builds)
}
