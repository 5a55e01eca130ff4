// Package uapi holds the numbers and struct layouts that the kernel's KVM, VFIO and IOMMUFD character devices
// speak, and the one way to speak them: Ioctl on a descriptor that a Desc owns.
//
// It owns what include/uapi/linux/{kvm,vfio,iommufd,userfaultfd}.h say, for x86-64, as far as the agent uses it. It has no
// opinion on what an answer should be: that is the scenarios'.
package uapi

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Error is a refused system call: what was asked, of what, and the kernel's errno. The scenario
// vocabulary turns it into a claim, hence a type.
type Error struct {
	Op     string // the ioctl's or system call's name
	Object string // what it was asked of
	Errno  unix.Errno
}

func (e *Error) Error() string { return e.Op + " " + e.Object + ": " + e.Errno.Error() }

// Unwrap yields the errno, for errors.Is.
func (e *Error) Unwrap() error { return e.Errno }

// ErrnoName is the kernel's name of the errno in err ("EBUSY"), "success" of nil, and else err's text.
func ErrnoName(err error) string {
	if err == nil {
		return "success"
	}
	errno, ok := errors.AsType[unix.Errno](err)
	if !ok {
		return err.Error()
	}
	// EAGAIN and EWOULDBLOCK are one number. delete_module(2) says the latter of a module in use, and that
	// is where the agent meets it.
	if errno == unix.EWOULDBLOCK {
		return "EWOULDBLOCK"
	}
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", int(errno))
}

// Request is an ioctl number with its name, so that a refusal can say what was refused.
type Request struct {
	Name   string
	Number uintptr
}

// Ioctl does one ioctl(2) on fd. It restarts nothing: EINTR is the caller's to judge.
func Ioctl(fd int, object string, req Request, arg uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req.Number, arg)
	if errno != 0 {
		return -1, &Error{Op: req.Name, Object: object, Errno: errno}
	}
	return int(r), nil
}

// IoctlPtr is Ioctl with a struct. The pointer is converted in the call itself, as package unsafe demands.
func IoctlPtr[T any](fd int, object string, req Request, arg *T) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req.Number, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return -1, &Error{Op: req.Name, Object: object, Errno: errno}
	}
	return int(r), nil
}

// Open opens a device node. The descriptor is raw on purpose: an os.File has a finalizer, and a
// descriptor that the garbage collector closes changes the reference counts under test.
func Open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			return fd, nil
		}
		errno, _ := errors.AsType[unix.Errno](err)
		// The Go runtime preempts with signals; an open that waits may see one.
		if errno != unix.EINTR {
			return -1, &Error{Op: "open", Object: path, Errno: errno}
		}
	}
}

// Close closes fd. The descriptor is gone whatever the answer says.
func Close(fd int, object string) error {
	if err := unix.Close(fd); err != nil {
		errno, _ := errors.AsType[unix.Errno](err)
		return &Error{Op: "close", Object: object, Errno: errno}
	}
	return nil
}

// direction bits of _IOC on x86
const (
	iocWrite = 1
	iocRead  = 2
)

func ioc(dir, kind, nr, size uintptr) uintptr { return dir<<30 | size<<16 | kind<<8 | nr }
