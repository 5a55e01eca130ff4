// Package program owns how a program of the host is run that has children of its own (apt-get, git, make): in a
// process group that ends as a whole with its context, and with nestbed, SIGKILL included.
//
// QEMU is package qemu's: it has descriptors to inherit and an end to be asked for.
package program

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// patience is how long the program may take to tidy up.
const patience = 5 * time.Second

// Command is exec.CommandContext for a program with children. The group gets SIGTERM when ctx ends.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	// In a group of its own ^C reaches it through ctx only.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = patience
	return cmd
}

// Run runs cmd, and ends whatever it left behind in its group.
func Run(cmd *exec.Cmd) error {
	// The death signal follows the thread that started the child, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if cmd.Process != nil {
		if late := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); late != nil && !errors.Is(late, syscall.ESRCH) {
			return errors.Join(err, late)
		}
	}
	return err
}

// Outcome is err with what a program wrote to its standard error. A full disk programs have in words only.
func Outcome(err error, words string) error {
	if err != nil && strings.Contains(words, "No space left on device") {
		return fmt.Errorf("%w: %w", err, syscall.ENOSPC)
	}
	return err
}
