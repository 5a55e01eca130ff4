package program

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"
)

// childEnv makes the test binary run a program with children, the last of which says its pid, until it is killed.
const childEnv = "NESTBED_PROGRAM_TEST_CHILD"

func TestMain(m *testing.M) {
	if script := os.Getenv(childEnv); script != "" {
		cmd := Command(context.Background(), "sh", "-c", script)
		cmd.Stdout = struct{ io.Writer }{os.Stdout} // no file: Run waits until nobody writes any more, as for make
		fmt.Println("not killed:", Run(cmd))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

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

// SIGKILL leaves this process no time for anything: what its program's children started ends nevertheless.
func TestGroupEndsWithAKilledProcess(t *testing.T) {
	for name, script := range map[string]string{
		"grandchild":          `sh -c 'sh -c "echo \$\$; exec sleep 300" & wait' & wait`,
		"deaf to SIGTERM":     `trap '' TERM; sh -c 'echo $$; exec sleep 300' & wait`,
		"the program is gone": `sh -c 'echo $$; exec sleep 300' &`, // its output keeps Run waiting
	} {
		t.Run(name, func(t *testing.T) {
			self, err := os.Executable()
			assert.NilError(t, err)
			parent := exec.Command(self)
			parent.Env = append(os.Environ(), childEnv+"="+script)
			out, err := parent.StdoutPipe()
			assert.NilError(t, err)
			assert.NilError(t, parent.Start())
			t.Cleanup(func() { _ = parent.Process.Kill() })
			line, err := bufio.NewReader(out).ReadString('\n')
			assert.NilError(t, err)
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			assert.NilError(t, err, line)
			fd, err := unix.PidfdOpen(pid, 0)
			assert.NilError(t, err)
			defer unix.Close(fd)
			defer func() { _ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) }()

			assert.NilError(t, parent.Process.Kill())
			assert.ErrorContains(t, parent.Wait(), "signal: killed")
			ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(ended, int((20 * time.Second).Milliseconds()))
			assert.NilError(t, err)
			assert.Equal(t, n, 1, "it lives")
		})
	}
}

func TestOutcome(t *testing.T) {
	failed := &exec.ExitError{}
	assert.Assert(t, errors.Is(Outcome(failed, "tar: x: Cannot write: No space left on device\n"), syscall.ENOSPC))
	assert.Equal(t, Outcome(failed, "other words"), error(failed))
	assert.NilError(t, Outcome(nil, "No space left on device"))
}
