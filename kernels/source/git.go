package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/flock"
	"github.com/nestbed/nestbed/kernels/program"
)

// repository is a git tree at its root.
type repository struct{ dir string }

// findRepository gives the repository whose root is dir, nil if that is none or there is no git.
func findRepository(ctx context.Context, dir string) (*repository, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, nil
	}
	r := &repository{dir}
	top, err := r.run(ctx, "rev-parse", "--show-toplevel")
	if ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		if strings.Contains(err.Error(), "dubious ownership") {
			return nil, err
		}
		if bare, err := r.run(ctx, "rev-parse", "--is-bare-repository"); err == nil && bare == "true" {
			return r, nil
		}
		return nil, nil // no repository: sources without git
	}
	if real, err := filepath.EvalSymlinks(top); err != nil || real != dir {
		return nil, nil // a folder inside of one
	}
	return r, nil
}

// run runs git on the tree and gives what it says.
func (r *repository) run(ctx context.Context, args ...string) (string, error) {
	// A user's hooks are for the user's checkouts; and nothing here may ask or wait for a terminal.
	cmd := program.Command(ctx, "git", append([]string{"-C", r.dir, "-c", "core.hooksPath=/dev/null"}, args...)...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "GIT_") // of a hook or an alias that called us: another repository
	})
	cmd.Env = append(cmd.Env, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0",
		// Only roots are trees here. A damaged worktree is not to be taken for the checkout of the user's that the
		// cache may be inside of: checkout --force and clean would then empty that.
		"GIT_CEILING_DIRECTORIES="+filepath.Dir(r.dir))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := program.Run(cmd); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("git %s: %w", args[0], ctx.Err())
		}
		words := stderr.String()
		return "", fmt.Errorf("git %s in %s: %w: %s", args[0], r.dir, program.Outcome(err, words), firstLine(words))
	}
	return strings.TrimSpace(stdout.String()), nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// openWorktree checks the revision out in the tree's own worktree in the cache, and holds that.
func openWorktree(ctx context.Context, cache *kernels.Cache, git *repository, text, rev string, say func(string)) (*Tree, error) {
	commit, err := git.run(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, &Error{text, fmt.Sprintf("there is no revision %q", rev), "git -C " + text + " log shows what there is; one of a remote is fetched first"}
	}
	key, err := claim(cache.Builds(), git.dir)
	if err != nil {
		return nil, err
	}
	t := &Tree{Dir: filepath.Join(cache.Sources(), key), Key: key + "@", Name: key + "@" + short(commit), Commit: commit}
	t.Origin = fmt.Sprintf("%s at %s", git.dir, short(commit))
	if _, err := git.run(ctx, "rev-parse", "--verify", "--quiet", "refs/tags/"+rev); err == nil && !unfit.MatchString(rev) {
		t.Name = key + "@" + rev
	}
	if rev != commit && !strings.HasPrefix(commit, rev) {
		t.Origin = fmt.Sprintf("%s at %s (%s)", git.dir, rev, short(commit))
	}
	t.held, err = flock.Take(ctx, t.Dir+".lock", func() { say("waiting for another build that has " + t.Dir) })
	if err != nil {
		return nil, err
	}
	if err := checkOut(ctx, git, t.Dir, commit, say); err != nil {
		t.Close()
		return nil, err
	}
	if !isSource(t.Dir) {
		t.Close()
		return nil, &Error{text, "revision " + rev + " is no kernel: there is no Makefile with VERSION, no Kconfig, or no scripts/kconfig/merge_config.sh", forms}
	}
	if t.Version, err = readVersion(t.Dir); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// checkOut brings the worktree to the commit. One that is damaged, or another repository's, is made anew.
func checkOut(ctx context.Context, git *repository, dir, commit string, say func(string)) error {
	tree := &repository{dir}
	if of, err := tree.run(ctx, "rev-parse", "--git-common-dir"); err == nil {
		own, err := git.run(ctx, "rev-parse", "--git-common-dir")
		if err != nil {
			return err
		}
		if absolute(dir, of) == absolute(git.dir, own) {
			_, err := tree.run(ctx, "checkout", "--quiet", "--detach", "--force", commit)
			if err == nil {
				_, err = tree.run(ctx, "clean", "--quiet", "-ffdx")
			}
			if err == nil || ctx.Err() != nil {
				return err
			}
			say(fmt.Sprintf("making %s anew: %v", dir, err))
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	say("checking out " + short(commit) + " in the cache")
	if _, err := git.run(ctx, "worktree", "prune"); err != nil {
		return err
	}
	if _, err := git.run(ctx, "worktree", "add", "--force", "--force", "--quiet", "--detach", dir, commit); err != nil {
		// Half a worktree is of no use to the next one.
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// absolute makes what git says about a repository comparable.
func absolute(dir, name string) string {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	if real, err := filepath.EvalSymlinks(name); err == nil {
		return real
	}
	return name
}
