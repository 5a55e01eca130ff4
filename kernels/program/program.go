// Package program owns how a program of the host is run that has children of its own (apt-get, git, make): in a
// process group that ends as a whole with its context, and with nestbed, SIGKILL included.
//
// QEMU is package qemu's: it has descriptors to inherit and an end to be asked for.
package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// patience is how long the program may take to tidy up.
const patience = 5 * time.Second

// Command is exec.CommandContext for a program with children. The group gets SIGTERM when ctx ends. Run starts it.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	// In a group of its own ^C reaches it through ctx only.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.SysProcAttr.Pgid, syscall.SIGTERM) }
	cmd.WaitDelay = patience
	return cmd
}

// Run runs cmd, and ends whatever it left behind in its group.
func Run(cmd *exec.Cmd) error {
	group, err := lead()
	if err != nil {
		return err
	}
	cmd.SysProcAttr.Pgid = group.leader.Process.Pid
	err = cmd.Run()
	if late := group.end(); late != nil {
		return errors.Join(err, late)
	}
	return err
}

// group is a process group whose leader kills it when this process is gone, however it went: a death signal would
// reach the program, but not the compilers that its children started.
type group struct {
	leader *exec.Cmd
	alive  *os.File // nobody else has this end of the leader's standard input
}

// watch waits until the other end of its standard input is closed. It outlives the SIGTERM that asks its group to end.
const watch = `trap '' TERM INT HUP QUIT; read line; kill -KILL 0`

func lead() (*group, error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	g := &group{leader: exec.Command("/bin/sh", "-c", watch), alive: ours}
	g.leader.Stdin = theirs
	g.leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := g.leader.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start a process group: %w", err)
	}
	return g, nil
}

// end kills what is left of the group, the leader at least.
func (g *group) end() error {
	err := syscall.Kill(-g.leader.Process.Pid, syscall.SIGKILL)
	g.alive.Close()
	if waited := g.leader.Wait(); waited != nil && !errors.As(waited, new(*exec.ExitError)) {
		err = errors.Join(err, waited)
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
