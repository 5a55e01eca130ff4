package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/results/record"
)

// Provoke declares what the kernel will report, and has a child do what it reports of. It comes back when the
// child has ended, which it must have done well, or for a hung task when the kernel has printed it.
//
// A child that the kernel does not outlive is waited for in vain: the host ends the guest when it has read the
// report. If it has read none within the limit, that is for its judge to say.
func (t *T) Provoke(e record.Expect, limit time.Duration, child Child, args ...string) {
	t.Expect(e)
	var log *KernelLog
	if e.Class == record.ClassHung {
		log = t.KernelLog()
	}
	p := t.startDoomed(child, args)
	defer p.leave()
	if log != nil {
		t.Check(log.Prints(HungTask, limit), "the kernel prints that the task hangs")
		return
	}
	ctx, cancel := t.patience(limit)
	defer cancel()
	select {
	case err := <-p.ended:
		if err != nil {
			text, _ := os.ReadFile(p.stderr.Name()) // the status says the most of it
			t.must(fmt.Errorf("child %s: %w: %s", child, err, bytes.TrimSpace(text)))
		}
	case <-ctx.Done():
		if !e.Fatal {
			t.must(fmt.Errorf("child %s: no end within %v", child, limit))
		}
	}
	if e.Fatal {
		t.Log("the kernel goes on")
	}
}

// HungTask is the first line of khungtaskd's report.
var HungTask = regexp.MustCompile(`^INFO: task .* blocked (in .* )?for more than `)

// doomed is a child that may never end, not even when it is killed. Nothing of it is kept here that only its end
// would release, as os/exec does.
type doomed struct {
	ended  chan error
	stderr *os.File
	leave  func()
}

func (t *T) startDoomed(child Child, args []string) *doomed {
	p := &doomed{ended: make(chan error, 1)}
	theirs, ours, err := os.Pipe() // its end tells the child that we are gone
	t.mustHost("start a child", err)
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	t.mustHost("start a child", err)
	defer null.Close()
	p.stderr, err = os.CreateTemp("", "child-")
	t.mustHost("start a child", err)
	p.leave = sync.OnceFunc(func() {
		ours.Close()
		p.stderr.Close()
		os.Remove(p.stderr.Name())
	})
	argv := append([]string{t.env.Self, "child", string(child)}, args...)
	pid, err := syscall.ForkExec(t.env.Self, argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{theirs.Fd(), null.Fd(), p.stderr.Fd()},
	})
	if err != nil {
		p.leave()
		t.mustHost("start a child", err)
	}
	go func() {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, 0, nil)
		for errors.Is(err, unix.EINTR) {
			_, err = unix.Wait4(pid, &status, 0, nil)
		}
		if err == nil && !(status.Exited() && status.ExitStatus() == 0) {
			err = fmt.Errorf("exit status %d, signal %d", status.ExitStatus(), status.Signal())
		}
		p.ended <- err
	}()
	return p
}

// Sysctl sets a sysctl ("kernel/watchdog_thresh") until the scenario's end.
func (t *T) Sysctl(name, value string) {
	path := filepath.Join(t.env.Root, "/proc/sys", name)
	was, err := os.ReadFile(path)
	t.mustHost("sysctl", errors.Join(err, os.WriteFile(path, []byte(value), 0)))
	t.atEnd("put back "+name, func() error { return os.WriteFile(path, was, 0) })
}
