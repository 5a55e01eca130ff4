package lab

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Twin is a true fork of this process, which shares its memory until one of the two writes. It does nothing
// but wait, and then looks at one page. (Child is a process of its own from the start: no page is shared.)
type Twin struct {
	t      *T
	pid    int
	ask    int // write end of the pipe that the twin waits on
	reaped bool
}

// Fork forks this process. The twin has copies of every open descriptor until Kept or the scenario's end.
func (t *T) Fork(page *Page) *Twin {
	var pipe [2]int
	t.mustHost("fork", unix.Pipe2(pipe[:], unix.O_CLOEXEC))
	// No signal may find the Go runtime in the twin: it has one thread, and none of the runtime's others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old)
	var pid uintptr
	if err == nil {
		var errno syscall.Errno
		if pid, errno = fork(uintptr(pipe[0]), uintptr(pipe[1]), page.pointer(), uintptr(len(page.mem))); errno != 0 {
			err = errno
		}
		err = errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil))
	}
	err = errors.Join(err, unix.Close(pipe[0]))
	if pid == 0 {
		err = errors.Join(err, unix.Close(pipe[1]))
	}
	t.mustHost("fork", err)
	w := &Twin{t: t, pid: int(pid), ask: pipe[1]}
	t.atEnd("end the twin", func() error {
		_, err := w.end(0)
		return err
	})
	return w
}

// Kept ends the twin, which looks at its page first: whether each byte of it is this one.
func (w *Twin) Kept(pattern byte) bool {
	_, err := unix.Write(w.ask, []byte{pattern})
	w.t.mustHost("ask the twin", err)
	code, err := w.end(twinUnasked)
	w.t.mustHost("ask the twin", err)
	return code == twinKept
}

// end waits for the twin, which ends when its pipe does.
func (w *Twin) end(code int) (int, error) {
	if w.reaped {
		return code, nil
	}
	w.reaped = true
	err := unix.Close(w.ask)
	var status unix.WaitStatus
	for {
		_, wait := unix.Wait4(w.pid, &status, 0, nil)
		if !errors.Is(wait, unix.EINTR) {
			err = errors.Join(err, wait)
			break
		}
	}
	if err == nil && !status.Exited() {
		err = fmt.Errorf("the twin ended by %v", status.Signal())
	}
	return status.ExitStatus(), err
}

// What a twin exits with.
const (
	twinKept = iota
	twinChanged
	twinUnasked
)

// fork returns twice in the kernel's eyes and once in Go's: the twin never leaves it. It must not grow the
// stack, allocate or call anything that may, since the runtime's other threads do not exist in it.
//
//go:nosplit
//go:norace
func fork(read, write uintptr, mem unsafe.Pointer, n uintptr) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	code := uintptr(twinKept)
	syscall.RawSyscall(unix.SYS_CLOSE, write, 0, 0)
	var pattern byte
	if got, _, _ := syscall.RawSyscall(unix.SYS_READ, read, uintptr(unsafe.Pointer(&pattern)), 1); got != 1 {
		code = twinUnasked
	} else {
		for i := uintptr(0); i < n; i++ {
			if *(*byte)(unsafe.Add(mem, i)) != pattern {
				code = twinChanged
			}
		}
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, code, 0, 0)
	}
}
