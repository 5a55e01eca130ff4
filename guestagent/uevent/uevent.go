// Package uevent receives the kernel's own uevents (NETLINK_KOBJECT_UEVENT): a device appeared, a VM was
// created or destroyed.
//
// It owns the socket and the messages' form. What an event means is for its reader to say. udev's
// messages, another multicast group of the same protocol, do not belong here.
package uevent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Event is one uevent. Its variables include ACTION, DEVPATH and SUBSYSTEM.
type Event map[string]string

// ErrLost says that the socket overflowed: events are missing, and counts built on them mean nothing.
var ErrLost = errors.New("uevents lost: receive buffer overflow")

const (
	kernelGroup   = 1
	receiveBuffer = 8 << 20
	maxMessage    = 16 << 10 // UEVENT_BUFFER_SIZE is 2048 and the header is short
)

// Socket receives every uevent from its Listen on.
type Socket struct{ fd int }

// Listen subscribes.
func Listen() (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("uevent socket: %w", err)
	}
	// A hot-plug under a loading module is hundreds of events; the default buffer is small. Without the
	// capability the default has to do, and an overflow is noticed.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer); err != nil && err != unix.EPERM {
		unix.Close(fd)
		return nil, fmt.Errorf("uevent socket buffer: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("uevent socket bind: %w", err)
	}
	return &Socket{fd: fd}, nil
}

// Close ends the subscription.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// Pending returns the events that have arrived, without waiting. The kernel sends a uevent from within the
// system call that causes it, so what a finished call caused is among them.
func (s *Socket) Pending() ([]Event, error) {
	var events []Event
	buf := make([]byte, maxMessage)
	for {
		n, from, err := unix.Recvfrom(s.fd, buf, 0)
		switch err {
		case nil:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return events, nil
		case unix.ENOBUFS:
			return events, ErrLost
		default:
			return events, fmt.Errorf("uevent receive: %w", err)
		}
		// Any process may send to the group; only the kernel has port 0.
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue
		}
		if ev, ok := parse(buf[:n]); ok {
			events = append(events, ev)
		}
	}
}

// Wait returns once an event is pending or ctx is done, whose error it then returns.
func (s *Socket) Wait(ctx context.Context) error {
	// poll(2) knows no context: it wakes often enough for a cancellation to be noticed.
	const wake = 100 * time.Millisecond
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, int(wake.Milliseconds()))
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("uevent poll: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
}

// parse reads "add@/devices/...\0KEY=VALUE\0...".
func parse(msg []byte) (Event, bool) {
	header, rest, ok := bytes.Cut(msg, []byte{0})
	if !ok || !bytes.Contains(header, []byte("@")) {
		return nil, false
	}
	ev := Event{}
	for field := range bytes.SplitSeq(rest, []byte{0}) {
		if key, value, ok := strings.Cut(string(field), "="); ok {
			ev[key] = value
		}
	}
	return ev, ev["ACTION"] != ""
}
