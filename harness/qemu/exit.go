package qemu

import (
	"errors"
	"fmt"
	"strings"
	"sync"
)

// ExitState is how a QEMU ended. Before its end only Shutdown and Panicked mean something.
type ExitState struct {
	Ended    bool   // it has ended; the fields below are final once Done is closed
	Code     int    // exit status, -1 if a signal ended it
	Signal   string // "SIGKILL"; empty if none
	Shutdown string // QEMU's reason: guest-shutdown, guest-reset, host-qmp-quit, host-signal; empty if it gave none
	Panicked bool   // the guest's kernel reported a panic
}

func (s ExitState) String() string {
	var text string
	switch {
	case !s.Ended:
		text = "running"
	case s.Flooded():
		text = "killed by SIGXFSZ: the guest filled a log"
	case s.Signal != "":
		text = "killed by " + s.Signal
	case s.Code != 0 || s.Shutdown == "":
		text = fmt.Sprintf("exit status %d", s.Code)
	default:
		text = s.Shutdown
	}
	if s.Panicked {
		text += " after a panic"
	}
	return text
}

// Flooded says that QEMU was ended because the guest made it write more than 64 MiB into a log. A console
// that is full does not end QEMU, it is only cut.
func (s ExitState) Flooded() bool { return s.Signal == "SIGXFSZ" }

func (s ExitState) err() error { return errors.New(s.String()) }

// ExitState says how QEMU ended, or what is known so far.
func (p *Process) ExitState() ExitState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// ExitError is an end of QEMU that is not exit status 0.
type ExitError struct {
	ExitState
	Stderr string
}

func (e *ExitError) Error() string {
	msg := "QEMU: " + e.ExitState.String()
	if e.Stderr != "" {
		msg += ": " + e.Stderr
	}
	return msg
}

// maxStderr is how much of QEMU's standard error is kept.
const maxStderr = 16 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - maxStderr; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
		t.cut = true
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(strings.ToValidUTF8(string(t.buf), "\uFFFD"))
	if t.cut {
		return "... " + text
	}
	return text
}
