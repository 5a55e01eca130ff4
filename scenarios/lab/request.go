package lab

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// Request is an eventfd by which the kernel asks for an open device back.
type Request struct {
	t  *T
	fd int
	n  int // requests that were taken off the eventfd
}

// OnRequest has the kernel say when it wants the open device back (VFIO_PCI_REQ_IRQ_INDEX).
func (d *VFIODevice) OnRequest() *Request {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	d.t.mustHost("eventfd", err)
	d.t.atEnd("close the eventfd", func() error { return unix.Close(fd) })
	d.t.must(d.device.SignalRequests(fd))
	return &Request{t: d.t, fd: fd}
}

// Count is how often the kernel has asked. It asks again every 10 seconds.
func (r *Request) Count() int {
	var b [8]byte
	switch _, err := unix.Read(r.fd, b[:]); {
	case err == nil:
		r.n += int(binary.NativeEndian.Uint64(b[:]))
	case err != unix.EAGAIN:
		r.t.mustHost("eventfd", err)
	}
	return r.n
}

// Arrives waits for the kernel's first request and reports whether there was one.
func (r *Request) Arrives(limit time.Duration) bool {
	ctx, cancel := r.t.patience(limit)
	defer cancel()
	for r.Count() == 0 {
		// poll(2) knows no context: it wakes often enough for a cancellation to be noticed.
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}, 100)
		if err != nil && err != unix.EINTR {
			r.t.mustHost("eventfd", err)
		}
		if ctx.Err() != nil && r.Count() == 0 {
			return false
		}
	}
	return true
}
