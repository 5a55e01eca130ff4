package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

func TestPending(t *testing.T) {
	root := guestRoot(t).Path()
	list := host(t, root, scenario(func(t *T) {
		fds := make([]int, 2)
		t.mustHost("pipe", unix.Pipe(fds))
		p := t.Start("read a pipe", func() error {
			_, err := unix.Read(fds[0], make([]byte, 1))
			return errors.Join(err, unix.ESTALE)
		})
		t.Check(!p.Done(), "it waits")
		_, err := unix.Write(fds[1], []byte{1})
		t.mustHost("write", err)
		t.WantErr(p.Wait(5*time.Second), unix.ESTALE, "its own error comes back")
		t.Check(p.Done(), "it is over")
		t.Check(!p.BlockedIn("pipe_read", time.Second), "what has returned is nowhere")
		unix.Close(fds[0])
		unix.Close(fds[1])
	}), nil)
	assert.DeepEqual(t, own(list), []string{"ok it waits", "ok its own error comes back", "ok it is over", "ok what has returned is nowhere"})
}

// A signal wakes an operation that sleeps interruptibly, and there may be none any more.
func TestInterrupt(t *testing.T) {
	list := host(t, guestRoot(t).Path(), scenario(func(t *T) {
		fds := make([]int, 2)
		t.mustHost("pipe", unix.Pipe(fds))
		p := t.Start("poll a pipe", func() error {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}, -1)
			return err
		})
		for !p.Done() { // the first ones may come before it sleeps
			p.Interrupt()
		}
		t.WantErr(p.Wait(5*time.Second), unix.EINTR, "the poll is interrupted")
		p.Interrupt()
		unix.Close(fds[0])
		unix.Close(fds[1])
	}), nil)
	assert.DeepEqual(t, own(list), []string{"ok the poll is interrupted"})
}

// A scenario that ends early must not wait for what only a later cleanup lets go.
func TestPendingLetGoByCleanup(t *testing.T) {
	list := host(t, guestRoot(t).Path(), scenario(func(t *T) {
		fds := make([]int, 2)
		t.mustHost("pipe", unix.Pipe(fds))
		t.atEnd("close the end to read", func() error { return unix.Close(fds[0]) })
		t.atEnd("close the end to write", func() error { return unix.Close(fds[1]) })
		t.Start("read a pipe", func() error {
			_, err := unix.Read(fds[0], make([]byte, 1))
			return err
		})
		t.Broken("an early end")
	}), nil)
	assert.DeepEqual(t, own(list), []string{"broken an early end"})
}

// The thread's stack is the kernel's word; here a file plays it.
func TestBlockedIn(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "proc/self/task/77")
	assert.NilError(t, os.MkdirAll(dir, 0o755))
	p := &Pending{t: &T{env: Env{Root: root}, stream: newStream(eof{}, discard{})}, tid: 77, done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	play := func(file, text string) {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
	}
	brief := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	play("stat", "77 (a) S (b) R 1 77 77 0\n")
	play("stack", "[<0>] vfio_unregister_group_dev+0x1a/0x80 [vfio]\n")
	assert.Assert(t, !p.blockedIn(brief(), "vfio_unregister_group_dev"), "woken, and still on its way out")
	go func() {
		time.Sleep(20 * time.Millisecond)
		play("stat", "77 (a) R (b) D 1 77 77 0\n")
	}()
	assert.Assert(t, p.blockedIn(ctx, "vfio_unregister_group_dev"))
	assert.Assert(t, !p.blockedIn(brief(), "unregister_group_dev"), "a part of a name is another function")
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, errors.New("end") }

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
