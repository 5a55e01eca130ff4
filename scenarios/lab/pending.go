package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Pending is an operation that may block in the kernel and runs on a thread of its own meanwhile.
type Pending struct {
	t    *T
	what string
	tid  int
	done chan struct{}
	err  error // final once done is closed
}

// Start begins an operation that the kernel may keep waiting. What it does to the scenario's own values is
// the scenario's to keep apart. It is waited for at the scenario's end at the latest.
func (t *T) Start(what string, op func() error) *Pending {
	p := &Pending{t: t, what: what, done: make(chan struct{})}
	tid := make(chan int)
	go func() {
		defer close(p.done)
		runtime.LockOSThread() // never unlocked: the thread ends with its operation
		tid <- unix.Gettid()
		p.err = op()
	}()
	p.tid = <-tid
	t.atEnd("wait for: "+what, p.end)
	return p
}

// end waits for the operation at the scenario's end. What it waits for may be a cleanup that comes later:
// then it stands back behind the next one.
func (p *Pending) end() error {
	ctx, cancel := p.t.patience(2 * time.Second)
	defer cancel()
	left := p.t.cleanups
	if len(left) == 0 {
		<-p.done
		return nil
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		next := left[len(left)-1]
		p.t.cleanups = append(left[:len(left)-1], cleanup{"wait for: " + p.what, p.end}, next)
	}
	return nil
}

// Done reports whether the operation has returned.
func (p *Pending) Done() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Interrupt sends the operation's thread a signal, which ends an interruptible sleep in the kernel. It is the one by
// which the Go runtime preempts, and so has no other effect. An operation that has returned is none to interrupt.
func (p *Pending) Interrupt() {
	err := unix.Tgkill(unix.Getpid(), p.tid, unix.SIGURG)
	if !errors.Is(err, unix.ESRCH) {
		p.t.mustHost("signal", err)
	}
}

// Wait waits for the operation and gives its error. One that does not return within the time is a false
// claim, and the end of the scenario.
func (p *Pending) Wait(limit time.Duration) error {
	ctx, cancel := p.t.patience(limit)
	defer cancel()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		p.t.Log(stuck(p.t.env.Root))
		p.t.must(fmt.Errorf("%s: no end within %v", p.what, limit))
		panic("unreachable")
	}
}

// BlockedIn waits until the operation's thread sleeps inside a function of the kernel, and reports whether it
// got there. An operation that returns first did not block.
//
// Asked again after something that might have ended the wait, it tells whether that did: a thread that was
// woken sleeps no more from then on, although its stack shows the function until it has run.
func (p *Pending) BlockedIn(symbol string, limit time.Duration) bool {
	ctx, cancel := p.t.patience(limit)
	defer cancel()
	return p.blockedIn(ctx, symbol)
}

func (p *Pending) blockedIn(ctx context.Context, symbol string) bool {
	dir := filepath.Join(p.t.env.Root, "/proc/self/task", fmt.Sprint(p.tid))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		// In this order: what slept before its stack was read there has not left the function since.
		asleep := sleeps(dir)
		stack, err := os.ReadFile(filepath.Join(dir, "stack"))
		if err == nil && asleep && strings.Contains(string(stack), " "+symbol+"+") {
			return true
		}
		select {
		case <-p.done:
			return false
		case <-ctx.Done():
			p.t.Log(fmt.Sprintf("%s does not sleep in %s (asleep: %v):\n%s", p.what, symbol, asleep, stack))
			return false
		case <-tick.C:
		}
	}
}

// sleeps reports whether a thread waits for something, interruptibly or not, by its stat file: "77 (agent) S 1 ...".
// Its name may hold anything.
func sleeps(dir string) bool {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return false
	}
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	return bytes.HasPrefix(rest, []byte(" S ")) || bytes.HasPrefix(rest, []byte(" D "))
}
