// Package checkout owns a working copy of a user's git tree: a repository of nestbed's own in the cache, which
// goes from commit to commit and takes patches.
//
// It borrows the objects of the user's repository and writes only its own: there is no worktree for git to list,
// no ref, no object and no index lock in the user's. git is used as a program, without the user's hooks,
// signatures and configuration, so that a series comes out the same for everybody. What a patch is, package
// patch knows; what a build does with the files, package build.
package checkout

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nestbed/nestbed/kernels/flock"
)

// Checkout is a working copy that nobody else changes until Close.
type Checkout struct {
	tree string // the user's, absolute
	dir  string
	held *flock.Lock
	on   string // the commit that aside and HEAD are at; "": not known
}

// Commit is one commit.
type Commit struct {
	Hash    string
	Tree    string // hash of the files: the same for the same content, whoever committed it and when
	Subject string
}

// Short is how a commit is shown.
func (c Commit) Short() string { return c.Hash[:min(12, len(c.Hash))] }

// TreeError says that what the user named as a tree, or in it, cannot be used.
type TreeError struct{ Tree, Reason, Hint string }

func (e *TreeError) Error() string { return fmt.Sprintf("tree %q: %s; %s", e.Tree, e.Reason, e.Hint) }

// ApplyError says that a patch does not apply, and where.
type ApplyError struct {
	Subject string
	Reason  string // in git's words, one line
	File    string // of the first hunk that fails; "" when there is none
	Line    int    // in the file before the patch, as the hunk has it
	Hunk    string // its text, "" when there is none
	Applied bool   // the tree has the change already
}

func (e *ApplyError) Error() string {
	text := fmt.Sprintf("patch %q does not apply: %s", e.Subject, e.Reason)
	if e.Applied {
		text += " (the tree has this change already)"
	}
	if e.Hunk != "" {
		text += "\n" + e.Hunk
	}
	return text
}

// Open takes the working copy of the git tree in the folder tree, below root; it is made when missing. waiting,
// if not nil, is called when another process has it.
func Open(ctx context.Context, root, tree string, waiting func()) (*Checkout, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, errors.New("git not found: apt-get install git")
	}
	abs, err := filepath.Abs(tree)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &TreeError{tree, "no such folder", "give the folder of a git tree of Linux"}
	} else if err != nil {
		return nil, err
	}
	c := &Checkout{tree: abs}
	if _, err := c.ask(ctx, "rev-parse", "--git-dir"); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, &TreeError{tree, "is no git repository", "a series needs one: git init, git add -A and git commit make one of a tarball's files"}
	}
	sum := sha256.Sum256([]byte(abs))
	base := strings.Trim(unfit.ReplaceAllString(filepath.Base(abs), "-"), ".-")
	c.dir = filepath.Join(root, fmt.Sprintf("series-%s-%x", base, sum[:4]))
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	if c.held, err = flock.Take(ctx, c.dir+".lock", waiting); err != nil {
		return nil, err
	}
	if err := c.prepare(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9_.+-]+`)

// Close lets others have the working copy.
func (c *Checkout) Close() { c.held.Unlock() }

// Dir is the folder of the working copy.
func (c *Checkout) Dir() string { return c.dir }

// prepare makes the repository, or clears what a killed git left in it, and points it at the user's objects.
func (c *Checkout) prepare(ctx context.Context) error {
	if promisor, err := c.ask(ctx, "config", "--get-regexp", `^remote\..*\.promisor$`); err == nil && promisor != "" {
		return &TreeError{c.tree, "is a partial clone, whose missing objects only its remote has", "git fetch --refetch --no-filter completes it"}
	}
	if err := c.unlock(); err != nil {
		return err
	}
	// Asking the index for a file reads the repository's configuration, HEAD and the whole index. Where that fails, a
	// git was killed while it made them; nothing is in the repository that cannot be had again.
	if _, err := c.git(ctx, nil, "ls-files", "--", "Makefile"); err != nil {
		if ctx.Err() != nil {
			return err
		}
		if err := os.RemoveAll(c.inGit()); err != nil {
			return err
		}
		format, err := c.ask(ctx, "rev-parse", "--show-object-format")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(c.dir, 0o755); err != nil {
			return err
		}
		if _, err := c.git(ctx, nil, "init", "--quiet", "--template=", "--object-format="+format); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(c.inGit("rebase-apply")); err != nil {
		return err
	}
	paths, err := c.ask(ctx, "rev-parse", "--path-format=absolute", "--git-path", "objects", "--git-path", "shallow")
	if err != nil {
		return err
	}
	objects, shallow, _ := strings.Cut(paths, "\n")
	if err := os.MkdirAll(c.inGit("objects", "info"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(c.inGit("objects", "info", "alternates"), []byte(objects+"\n"), 0o644); err != nil {
		return err
	}
	// Where the user's history ends, ours does.
	data, err := os.ReadFile(shallow)
	if errors.Is(err, fs.ErrNotExist) {
		err := os.Remove(c.inGit("shallow"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	} else if err != nil {
		return err
	}
	return os.WriteFile(c.inGit("shallow"), data, 0o644)
}

// unlock removes the locks that a killed git left: no git runs here but ours, and that one ended with its nestbed.
func (c *Checkout) unlock() error {
	for _, pattern := range []string{"*.lock", "refs/heads/*.lock"} {
		names, err := filepath.Glob(c.inGit(pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

func (c *Checkout) inGit(elements ...string) string {
	return filepath.Join(append([]string{c.dir, ".git"}, elements...)...)
}

// Find gives the commit that a revision of the user's tree is.
func (c *Checkout) Find(ctx context.Context, rev string) (Commit, error) {
	hash, err := c.ask(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
	if err != nil {
		if ctx.Err() != nil {
			return Commit{}, err
		}
		return Commit{}, &TreeError{c.tree, fmt.Sprintf("there is no revision %q", rev), "git log shows what there is; a commit of a remote is fetched first"}
	}
	return c.show(ctx, hash)
}

// show describes a commit that either repository has.
func (c *Checkout) show(ctx context.Context, hash string) (Commit, error) {
	text, err := c.git(ctx, nil, "log", "-1", "--no-show-signature", "--format=%H%x00%T%x00%s", hash)
	if err != nil {
		return Commit{}, err
	}
	fields := strings.SplitN(text, "\x00", 3)
	if len(fields) != 3 {
		return Commit{}, fmt.Errorf("git log of %s says %q", hash, text)
	}
	return Commit{Hash: fields[0], Tree: fields[1], Subject: fields[2]}, nil
}

// Range gives the commits of BASE..HEAD, oldest first, and what the first of them stands on. A merge counts as
// one commit.
func (c *Checkout) Range(ctx context.Context, text string) (base Commit, list []Commit, err error) {
	from, to, found := strings.Cut(text, "..")
	if !found || from == "" || strings.HasPrefix(to, ".") {
		return base, nil, fmt.Errorf("range %q: want BASE..HEAD, for example v6.12..HEAD", text)
	}
	if to == "" {
		to = "HEAD"
	}
	var ends [2]Commit
	for i, rev := range []string{from, to} {
		if ends[i], err = c.Find(ctx, rev); err != nil {
			return base, nil, err
		}
	}
	out, err := c.ask(ctx, "rev-list", "--reverse", "--first-parent", ends[0].Hash+".."+ends[1].Hash)
	if err != nil {
		return base, nil, err
	}
	hashes := strings.Fields(out)
	if len(hashes) == 0 {
		return base, nil, &TreeError{c.tree, "the range " + text + " holds no commit", "give the older end first: BASE..HEAD"}
	}
	for _, hash := range hashes {
		commit, err := c.show(ctx, hash)
		if err != nil {
			return base, nil, err
		}
		list = append(list, commit)
	}
	if base, err = c.Find(ctx, hashes[0]+"^"); err != nil {
		return base, nil, fmt.Errorf("the commit before %s: %w", list[0].Short(), err)
	}
	return base, list, nil
}

// Describe names a commit as people do, v6.12-14-g0123456789ab; where no tag leads to it, by its hash.
func (c *Checkout) Describe(ctx context.Context, commit Commit) string {
	name, err := c.ask(ctx, "describe", "--tags", "--abbrev=12", commit.Hash)
	if err != nil {
		return commit.Short()
	}
	return name
}

// Changes says in how many files the user's checkout differs from its last commit. They are not in any commit,
// and so in nothing that is checked out here.
func (c *Checkout) Changes(ctx context.Context) (int, error) {
	if bare, err := c.ask(ctx, "rev-parse", "--is-bare-repository"); err != nil || bare == "true" {
		return 0, err
	}
	out, err := c.ask(ctx, "status", "--porcelain", "--untracked-files=no")
	if err != nil || out == "" {
		return 0, err
	}
	return len(strings.Split(out, "\n")), nil
}

// Go makes the files those of a commit. Only files that differ are written, so that make finds old what is old.
func (c *Checkout) Go(ctx context.Context, commit Commit) error {
	c.on = ""
	if _, err := c.git(ctx, nil, "reset", "--quiet", "--hard", commit.Hash); err != nil {
		return fmt.Errorf("check out %s: %w", commit.Short(), err)
	}
	if _, err := c.git(ctx, nil, "clean", "--quiet", "-ffdx"); err != nil {
		return fmt.Errorf("check out %s: %w", commit.Short(), err)
	}
	return c.IsKernel(ctx, commit)
}

// IsKernel is a *TreeError if a commit holds no kernel.
func (c *Checkout) IsKernel(ctx context.Context, commit Commit) error {
	makefile, err := c.git(ctx, nil, "cat-file", "blob", commit.Hash+":Makefile")
	if err == nil && versionLine.MatchString(makefile) {
		_, err = c.git(ctx, nil, "cat-file", "-e", commit.Hash+":Kconfig")
	}
	if ctx.Err() != nil {
		return err
	}
	if err != nil || !versionLine.MatchString(makefile) {
		return &TreeError{c.tree, commit.Short() + " is no kernel: there is no Makefile with VERSION, or no Kconfig", "give a git tree of Linux"}
	}
	return nil
}

var versionLine = regexp.MustCompile(`(?m)^VERSION\s*=\s*[0-9]+`)

// stand has patches apply to a commit: in an index of their own, beside which only the files that a patch touches are
// written. Whether a series applies is then known at once, and not when the whole of Linux has been checked out.
func (c *Checkout) stand(ctx context.Context, on Commit) error {
	if c.on == on.Hash {
		return nil
	}
	c.on = ""
	if err := errors.Join(os.RemoveAll(c.inGit("aside")), os.MkdirAll(c.inGit("aside", "tree"), 0o755)); err != nil {
		return err
	}
	if _, err := c.aside(ctx, nil, "update-ref", "HEAD", on.Hash); err != nil {
		return err
	}
	if _, err := c.aside(ctx, nil, "read-tree", on.Hash); err != nil {
		return err
	}
	c.on = on.Hash
	return nil
}

// Apply gives the commit that a mailed patch makes of another. If it does not apply the error is an *ApplyError. The
// files in Dir are what they were: Go takes them to the commit.
func (c *Checkout) Apply(ctx context.Context, on Commit, subject string, message []byte) (Commit, error) {
	if err := c.stand(ctx, on); err != nil {
		return Commit{}, err
	}
	var mbox bytes.Buffer
	mbox.WriteString("From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n")
	for line := range bytes.Lines(message) {
		if fromLine.Match(line) {
			mbox.WriteByte('>')
		}
		mbox.Write(line)
	}
	c.on = ""
	_, err := c.aside(ctx, &mbox, "am", "--quiet", "--no-3way", "--no-gpg-sign", "--patch-format=mboxrd")
	if err == nil {
		made, err := c.show(ctx, "HEAD")
		c.on = made.Hash
		return made, err
	}
	var said *gitError
	if ctx.Err() != nil || !errors.As(err, &said) || errors.Is(err, errNoRoom) {
		return Commit{}, err
	}
	failed := c.explain(ctx, subject, said.stderr)
	// --abort would tidy up as well, but not where git am has not come so far as to keep a state.
	if err := os.RemoveAll(c.inGit("rebase-apply")); err != nil {
		return Commit{}, err
	}
	return Commit{}, failed
}

var (
	fromLine = regexp.MustCompile(`^>*From `)
	failedAt = regexp.MustCompile(`(?m)^error: patch failed: (.*):([0-9]+)$`)
)

// explain turns what git am said into the hunk that does not apply.
func (c *Checkout) explain(ctx context.Context, subject, stderr string) *ApplyError {
	e := &ApplyError{Subject: subject}
	var reasons []string
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, "error: "); ok && !strings.HasPrefix(text, "patch failed: ") && !slices.Contains(reasons, text) {
			reasons = append(reasons, text)
		}
	}
	const most = 4
	if len(reasons) > most {
		reasons = append(reasons[:most], fmt.Sprintf("and %d more", len(reasons)-most))
	}
	e.Reason = strings.Join(reasons, "; ")
	if e.Reason == "" {
		e.Reason = lastLine(stderr)
	}
	diff, err := c.aside(ctx, nil, "am", "--show-current-patch=diff")
	if err != nil {
		return e // no diff was found in the message
	}
	if m := failedAt.FindStringSubmatch(stderr); m != nil {
		e.File = m[1]
		e.Line, _ = strconv.Atoi(m[2])
		e.Hunk = hunk(diff, e.File, e.Line)
		e.Reason = fmt.Sprintf("%s, the hunk of line %d: %s", e.File, e.Line, strings.ReplaceAll(e.Reason, e.File+": ", ""))
	}
	_, err = c.aside(ctx, strings.NewReader(diff+"\n"), "apply", "--cached", "--check", "--reverse")
	e.Applied = err == nil
	return e
}

// maxHunk is how many lines of a hunk are shown.
const maxHunk = 30

// hunk is the hunk of a file that begins at a line of its old text.
func hunk(diff, file string, line int) string {
	var out []string
	inFile, inside := false, false
	for text := range strings.Lines(diff) {
		text = strings.TrimRight(text, "\r\n")
		switch {
		case strings.HasPrefix(text, "diff --git "):
			inFile, inside = strings.HasSuffix(text, " b/"+file), false
		case strings.HasPrefix(text, "@@ "):
			if inside {
				return strings.Join(out, "\n")
			}
			inside = inFile && (strings.HasPrefix(text, fmt.Sprintf("@@ -%d,", line)) || strings.HasPrefix(text, fmt.Sprintf("@@ -%d ", line)))
		case text == "-- ":
			inside = false
		}
		if inside {
			if len(out) == maxHunk {
				return strings.Join(append(out, "..."), "\n")
			}
			out = append(out, text)
		}
	}
	return strings.Join(out, "\n")
}

func lastLine(s string) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return all[len(all)-1]
}
