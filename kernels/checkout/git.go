package checkout

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/nestbed/nestbed/kernels/program"
)

var errNoRoom error = syscall.ENOSPC

// gitError is a git that failed.
type gitError struct {
	args   []string
	err    error
	stderr string
}

func (e *gitError) Error() string {
	return fmt.Sprintf("git %s: %v: %s", strings.Join(e.args[:min(2, len(e.args))], " "), e.err, lastLine(e.stderr))
}
func (e *gitError) Unwrap() error { return e.err }

// settings of the user's that would change what comes out, run something or ask somebody.
var settings = []string{
	"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.autocrlf=false", "-c", "core.editor=false",
	"-c", "commit.gpgSign=false", "-c", "gc.auto=0", "-c", "advice.detachedHead=false", "-c", "am.keepcr=false",
	"-c", "safe.directory=*", // naming the tree is trusting it: its Makefiles are run next
}

// git runs git on the working copy.
func (c *Checkout) git(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	// Named, so that git does not look for another one further up if this one is damaged: that might be the user's,
	// whose files reset --hard would write over.
	return run(ctx, c.dir, []string{"GIT_DIR=" + c.inGit(), "GIT_WORK_TREE=" + c.dir}, stdin, args...)
}

// aside runs git on the working copy's repository, but on the index and the few files that patches are applied to.
func (c *Checkout) aside(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	tree := c.inGit("aside", "tree")
	return run(ctx, tree, []string{"GIT_DIR=" + c.inGit(), "GIT_WORK_TREE=" + tree, "GIT_INDEX_FILE=" + c.inGit("aside", "index")}, stdin, args...)
}

// ask runs git on the user's repository, which it only reads.
func (c *Checkout) ask(ctx context.Context, args ...string) (string, error) {
	return run(ctx, c.tree, nil, nil, args...)
}

func run(ctx context.Context, dir string, env []string, stdin io.Reader, args ...string) (string, error) {
	cmd := program.Command(ctx, "git", slices.Concat([]string{"-C", dir}, settings, args)...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "GIT_") // of a hook or an alias that called us: another repository
	})
	cmd.Env = append(cmd.Env, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull,
		// git am needs a committer; always the same one makes the same commits of the same patches.
		"GIT_COMMITTER_NAME=nestbed", "GIT_COMMITTER_EMAIL=nestbed@localhost", "GIT_COMMITTER_DATE=2000-01-01T00:00:00Z")
	cmd.Env = append(cmd.Env, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := program.Run(cmd); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("git %s: %w", args[0], ctx.Err())
		}
		return "", &gitError{args, program.Outcome(err, stderr.String()), stderr.String()}
	}
	return strings.TrimRight(stdout.String(), "\n"), nil
}
