package program

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"
)

// The children of a program end with its context, and what it leaves behind ends with it.
func TestGroupEnds(t *testing.T) {
	for _, c := range []struct {
		name, script string
		cancel       bool
	}{
		{"cancelled", `sleep 60 & echo $! >pid; wait`, true},
		{"left behind", `sleep 60 >/dev/null 2>&1 & echo $! >pid`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cmd := Command(ctx, "sh", "-c", c.script)
			cmd.Dir = dir
			done := make(chan error, 1)
			go func() { done <- Run(cmd) }()
			var pid int
			poll.WaitOn(t, func(poll.LogT) poll.Result {
				text, err := os.ReadFile(filepath.Join(dir, "pid"))
				if err != nil || !strings.HasSuffix(string(text), "\n") {
					return poll.Continue("no pid yet")
				}
				pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
				return poll.Success()
			}, poll.WithTimeout(10*time.Second), poll.WithDelay(time.Millisecond))
			if c.cancel {
				cancel()
			}
			err := <-done
			assert.Equal(t, err != nil, c.cancel, "%v", err)
			poll.WaitOn(t, func(poll.LogT) poll.Result {
				// An orphan that nobody reaps is dead too.
				stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
				if errors.Is(err, os.ErrNotExist) || err == nil && strings.Contains(string(stat), ") Z ") {
					return poll.Success()
				}
				return poll.Continue("the child lives")
			}, poll.WithTimeout(10*time.Second), poll.WithDelay(time.Millisecond))
		})
	}
}

func TestOutcome(t *testing.T) {
	failed := &exec.ExitError{}
	assert.Assert(t, errors.Is(Outcome(failed, "tar: x: Cannot write: No space left on device\n"), syscall.ENOSPC))
	assert.Equal(t, Outcome(failed, "other words"), error(failed))
	assert.NilError(t, Outcome(nil, "No space left on device"))
}
