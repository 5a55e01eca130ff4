package lab

import (
	"errors"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// KernelLog is what the kernel prints from some moment on.
type KernelLog struct {
	t    *T
	desc uapi.Desc
}

// KernelLog begins to listen to what the kernel prints.
func (t *T) KernelLog() *KernelLog {
	fd, err := uapi.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK)
	t.mustHost("kernel log", err)
	l := &KernelLog{t, uapi.Own(fd, "/dev/kmsg")}
	t.atEnd("close the kernel log", l.desc.Close)
	_, err = unix.Seek(fd, 0, unix.SEEK_END)
	t.mustHost("kernel log", err)
	return l
}

// Prints waits for the kernel to print a line, in passing those before it. Interrupt threads may take a
// moment to say what happened.
func (l *KernelLog) Prints(line *regexp.Regexp, limit time.Duration) bool {
	ctx, cancel := l.t.patience(limit)
	defer cancel()
	deadline, _ := ctx.Deadline()
	record := make([]byte, 8<<10) // the kernel's limit; each read is one record
	for {
		n, err := unix.Read(l.desc.FD(), record)
		switch {
		case errors.Is(err, unix.EAGAIN):
			left := time.Until(deadline)
			if left <= 0 {
				return false
			}
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(l.desc.FD()), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
			if !errors.Is(err, unix.EINTR) {
				l.t.mustHost("kernel log", err)
			}
		case errors.Is(err, unix.EPIPE): // what was overwritten is gone
		case errors.Is(err, unix.EINTR):
		default:
			l.t.mustHost("kernel log", err)
			_, text, _ := strings.Cut(string(record[:n]), ";")
			text, _, _ = strings.Cut(text, "\n")
			if line.MatchString(text) {
				l.t.Log("the kernel printed: " + text)
				return true
			}
		}
	}
}
