// Package qmptest is QEMU's end of a QMP connection, in memory, for tests of whoever talks QMP.
//
// It owns a socket pair and answers commands as the test tells it. It emulates no device and checks no
// arguments: what real QEMU does is tested with real QEMU.
package qmptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/harness/qmp"
)

// Greeting is the line that Start sends first.
const Greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "qmptest"}, "capabilities": ["oob"]}}`

// Command is one that the peer received.
type Command struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        json.RawMessage `json:"id"`
	Files     []*os.File      `json:"-"` // descriptors that came with it; the handler owns them
}

// Handler answers a command: with what it returns, or with the error. A nil value is the empty object.
type Handler func(Command) (any, *qmp.CommandError)

// Peer is the scripted QEMU. Its methods may be called from any goroutine.
type Peer struct {
	conn *net.UnixConn
	done chan struct{}

	mu       sync.Mutex
	handlers map[string]Handler
	held     map[string]chan<- Command
}

// Start returns a peer that has greeted, and the socket for qmp.New. The test's end closes the peer; the
// socket belongs to the monitor.
func Start(t testing.TB) (*Peer, *net.UnixConn) {
	t.Helper()
	p, conn := Silent(t)
	p.Send(Greeting)
	return p, conn
}

// Silent is Start without the greeting.
func Silent(t testing.TB) (*Peer, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("socketpair: %v", err)
	}
	p := &Peer{
		conn:     conn(t, fds[0]),
		done:     make(chan struct{}),
		handlers: map[string]Handler{"qmp_capabilities": Return(nil)},
		held:     make(map[string]chan<- Command),
	}
	go p.serve()
	t.Cleanup(p.Close)
	return p, conn(t, fds[1])
}

func conn(t testing.TB, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "qmptest")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatalf("socketpair: %v", err)
	}
	return c.(*net.UnixConn)
}

// Return is a handler that always succeeds with value.
func Return(value any) Handler {
	return func(Command) (any, *qmp.CommandError) { return value, nil }
}

// Refuse is a handler that always fails.
func Refuse(class, desc string) Handler {
	return func(Command) (any, *qmp.CommandError) { return nil, &qmp.CommandError{Class: class, Desc: desc} }
}

// Handle sets the answer to a command. Commands without a handler are refused as QEMU refuses unknown ones.
func (p *Peer) Handle(command string, h Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handlers[command] = h
}

// Hold leaves a command unanswered and hands it to the test, which may Answer it later, in any order.
func (p *Peer) Hold(command string) <-chan Command {
	held := make(chan Command, 1000)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held[command] = held
	return held
}

// Answer succeeds a held command with value.
func (p *Peer) Answer(c Command, value any) {
	p.answer(c, value, nil)
}

// Emit sends an event.
func (p *Peer) Emit(event string, data map[string]any) {
	p.sendJSON(map[string]any{
		"event": event, "data": data,
		"timestamp": map[string]int64{"seconds": 1_700_000_000, "microseconds": 5},
	})
}

// Send sends a line as it is. When the monitor has gone it does nothing.
func (p *Peer) Send(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = p.conn.Write([]byte(line + "\n"))
}

// Close ends the connection, as QEMU's exit does. It may be called twice.
func (p *Peer) Close() {
	_ = p.conn.Close()
	<-p.done
}

// Done is closed when the connection has ended.
func (p *Peer) Done() <-chan struct{} { return p.done }

func (p *Peer) sendJSON(v any) {
	line, err := json.Marshal(v)
	if err != nil {
		panic(err) // the test's own value
	}
	p.Send(string(line))
}

func (p *Peer) answer(c Command, value any, refusal *qmp.CommandError) {
	if refusal != nil {
		p.sendJSON(map[string]any{"id": c.ID, "error": map[string]string{"class": refusal.Class, "desc": refusal.Desc}})
		return
	}
	if value == nil {
		value = struct{}{}
	}
	p.sendJSON(map[string]any{"id": c.ID, "return": value})
}

func (p *Peer) serve() {
	defer close(p.done)
	var pending []byte
	var files []*os.File
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*16))
	for {
		n, oobn, _, _, err := p.conn.ReadMsgUnix(buf, oob)
		files = append(files, received(oob[:max(oobn, 0)])...)
		pending = append(pending, buf[:max(n, 0)]...)
		for {
			line, rest, ok := bytes.Cut(pending, []byte("\n"))
			if !ok {
				break
			}
			pending = rest
			var c Command
			if err := json.Unmarshal(line, &c); err != nil {
				p.sendJSON(map[string]any{"error": map[string]string{"class": "GenericError", "desc": "JSON parse error"}})
				continue
			}
			c.Files, files = files, nil
			p.dispatch(c)
		}
		if err != nil || n <= 0 {
			for _, f := range files {
				_ = f.Close()
			}
			return
		}
	}
}

func (p *Peer) dispatch(c Command) {
	p.mu.Lock()
	held, isHeld := p.held[c.Execute]
	h, ok := p.handlers[c.Execute]
	p.mu.Unlock()
	switch {
	case isHeld:
		held <- c
		return
	case !ok:
		h = Refuse("CommandNotFound", "The command "+c.Execute+" has not been found")
	}
	value, refusal := h(c)
	p.answer(c, value, refusal)
}

func received(oob []byte) []*os.File {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if errors.Is(err, unix.EINVAL) {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files
}
