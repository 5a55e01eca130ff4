// Package qmp speaks the QEMU Machine Protocol over one connected socket.
//
// It implements go-qemu's qmp.Monitor, so that its raw package works on top, with what SocketMonitor lacks:
// a context on every call, replies matched by id, bounded lines, a queue per subscriber, descriptors passed
// with a command, and a log of every line. It owns the socket it is given. It knows no command but the
// handshake and getfd, and no QEMU process (package qemu owns those).
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	goqemu "github.com/digitalocean/go-qemu/qmp"
	"golang.org/x/sys/unix"
)

const (
	maxLine  = 16 << 20 // bytes of one line from QEMU
	maxQueue = 1 << 14  // events that wait for one subscriber

	// connectTimeout bounds Connect, which takes no context.
	connectTimeout = 30 * time.Second
	// runTimeout bounds Run, which takes no context.
	runTimeout = time.Minute
)

// Event is what QEMU reports on its own.
type Event = goqemu.Event

// Version is QEMU's, as its greeting says.
type Version = goqemu.Version

var _ goqemu.Monitor = (*Monitor)(nil)

// ErrClosed is wrapped by the errors of calls on a monitor whose connection is gone.
var ErrClosed = errors.New("qmp connection closed")

// CommandError is QEMU's refusal of a command. The connection is as good as before.
type CommandError struct {
	Command string // execute
	Class   string // QEMU's: GenericError, DeviceNotFound, CommandNotFound ...
	Desc    string // for people
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("qmp %s: %s: %s", e.Command, e.Class, e.Desc)
}

// Options of a Monitor.
type Options struct {
	// Log receives every line of both directions as a JSON line of its own; nil is no log. Writes are
	// serialised. An error of the log ends the log, not the monitor.
	Log io.Writer
}

// Monitor is one QMP connection. Its methods may be called from any goroutine.
type Monitor struct {
	conn *net.UnixConn
	log  *log

	sending chan struct{} // holds one token while a command is written
	done    chan struct{} // closed when the reader has ended
	greeted chan struct{} // closed when version is set

	mu      sync.Mutex
	version Version
	err     error // why the connection ended
	lastID  uint64
	pending map[uint64]chan<- reply
	subs    map[*subscriber]struct{}
	closed  bool // by Disconnect
}

type reply struct {
	raw []byte // the whole line
	ret json.RawMessage
	err *wireError
}

type wireError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// New takes over a connected socket and starts to read it. QEMU greets first and takes no command before
// Handshake. The caller ends it with Disconnect.
func New(conn *net.UnixConn, opts Options) *Monitor {
	m := &Monitor{
		conn:    conn,
		log:     newLog(opts.Log),
		sending: make(chan struct{}, 1),
		done:    make(chan struct{}),
		greeted: make(chan struct{}),
		pending: make(map[uint64]chan<- reply),
		subs:    make(map[*subscriber]struct{}),
	}
	go m.read()
	return m
}

// Handshake waits for QEMU's greeting and leaves capabilities negotiation; commands work after it.
func (m *Monitor) Handshake(ctx context.Context) error {
	select {
	case <-m.greeted:
	case <-m.done:
		return fmt.Errorf("qmp greeting: %w", m.Err())
	case <-ctx.Done():
		return fmt.Errorf("qmp greeting: %w", context.Cause(ctx))
	}
	return m.Do(ctx, "qmp_capabilities", nil, nil)
}

// Connect is Handshake with a deadline of its own, for go-qemu.
func (m *Monitor) Connect() error {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	return m.Handshake(ctx)
}

// Disconnect closes the connection and waits until the reader has ended. Calls under way fail, and so do later ones.
func (m *Monitor) Disconnect() error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	err := m.conn.Close()
	<-m.done
	if errors.Is(err, net.ErrClosed) {
		return nil // the reader was first
	}
	return err
}

// Done is closed when the connection has ended, by either side.
func (m *Monitor) Done() <-chan struct{} { return m.done }

// Err says why the connection ended; nil while it has not.
func (m *Monitor) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Version of the QEMU that greeted; zero before Handshake.
func (m *Monitor) Version() Version {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.version
}

// Do runs a command and decodes what it returns into out, unless out is nil. args is its arguments object or nil.
// QEMU's refusal is a *CommandError. A call that its context ends may still take effect.
func (m *Monitor) Do(ctx context.Context, command string, args, out any) error {
	return m.do(ctx, command, args, out, nil)
}

// SendFD hands QEMU a duplicate of f under a name (getfd), for commands that take fd:NAME.
func (m *Monitor) SendFD(ctx context.Context, name string, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("qmp getfd %s: %w", name, err)
	}
	// Control keeps the descriptor open until it has been sent.
	var sendErr error
	if err := raw.Control(func(fd uintptr) {
		sendErr = m.do(ctx, "getfd", map[string]string{"fdname": name}, nil, unix.UnixRights(int(fd)))
	}); err != nil {
		return fmt.Errorf("qmp getfd %s: %w", name, err)
	}
	return sendErr
}

// Run runs a command that is given as a JSON object and returns QEMU's whole answer, for go-qemu. An id in
// the command is replaced. It gives up after a minute; use Do where a context is at hand.
func (m *Monitor) Run(command []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(command, &fields); err != nil {
		return nil, fmt.Errorf("qmp command: %w", err)
	}
	var name string
	if err := json.Unmarshal(fields["execute"], &name); err != nil || name == "" {
		return nil, errors.New("qmp command: no execute in it")
	}
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	r, err := m.call(ctx, name, fields, nil)
	if err != nil {
		return nil, err
	}
	return r.raw, nil
}

// Events is Subscribe, for go-qemu.
func (m *Monitor) Events(ctx context.Context) (<-chan Event, error) {
	return m.Subscribe(ctx), nil
}

func (m *Monitor) do(ctx context.Context, command string, args, out any, oob []byte) error {
	name, err := json.Marshal(command)
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	fields := map[string]json.RawMessage{"execute": name}
	if args != nil {
		if fields["arguments"], err = json.Marshal(args); err != nil {
			return fmt.Errorf("qmp %s: arguments: %w", command, err)
		}
	}
	r, err := m.call(ctx, command, fields, oob)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(r.ret, out); err != nil {
		return fmt.Errorf("qmp %s: return: %w", command, err)
	}
	return nil
}

// call sends a command under a fresh id and waits for the answer with that id.
func (m *Monitor) call(ctx context.Context, command string, fields map[string]json.RawMessage, oob []byte) (reply, error) {
	answer := make(chan reply, 1)
	m.mu.Lock()
	if m.err != nil {
		defer m.mu.Unlock()
		return reply{}, fmt.Errorf("qmp %s: %w", command, m.err)
	}
	m.lastID++
	id := m.lastID
	m.pending[id] = answer
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.pending, id)
		m.mu.Unlock()
	}()

	fields["id"] = strconv.AppendUint(nil, id, 10)
	line, err := json.Marshal(fields)
	if err != nil {
		return reply{}, fmt.Errorf("qmp %s: %w", command, err)
	}
	if err := m.send(ctx, line, oob); err != nil {
		return reply{}, fmt.Errorf("qmp %s: %w", command, err)
	}
	var r reply
	select {
	case r = <-answer:
	case <-m.done:
		// The answer may have come just before the end: quit's does.
		select {
		case r = <-answer:
		default:
			return reply{}, fmt.Errorf("qmp %s: %w", command, m.Err())
		}
	case <-ctx.Done():
		return reply{}, fmt.Errorf("qmp %s: %w", command, context.Cause(ctx))
	}
	if r.err != nil {
		return reply{}, &CommandError{Command: command, Class: r.err.Class, Desc: r.err.Desc}
	}
	return r, nil
}

// send writes one line, with descriptors if oob holds any. A write that its context cuts short leaves half
// a command behind, so the connection is then ended.
func (m *Monitor) send(ctx context.Context, line, oob []byte) error {
	select {
	case m.sending <- struct{}{}:
		defer func() { <-m.sending }()
	case <-m.done:
		return m.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	m.log.line("qemu", line)
	line = append(line, '\n')

	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(expired)
		_ = m.conn.SetWriteDeadline(time.Unix(1, 0))
	})
	err := m.write(line, oob)
	if !stop() {
		<-expired
		_ = m.conn.SetWriteDeadline(time.Time{})
	}
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	m.fail(fmt.Errorf("write: %w", err))
	_ = m.conn.Close() // ends the reader
	return err
}

func (m *Monitor) write(line, oob []byte) error {
	if oob != nil {
		// The descriptors travel with the first byte.
		n, _, err := m.conn.WriteMsgUnix(line, oob, nil)
		if err != nil {
			return err
		}
		line = line[n:]
	}
	_, err := m.conn.Write(line)
	return err
}

// read is the only reader of the socket. It ends when the connection does.
func (m *Monitor) read() {
	defer close(m.done)
	in := bufio.NewReaderSize(m.conn, 64<<10)
	for {
		line, err := readLine(in)
		if err == nil {
			if line = bytes.TrimSpace(line); len(line) == 0 {
				continue
			}
			m.log.line("nestbed", line)
			err = m.dispatch(line)
		}
		if err != nil {
			m.fail(err)
			break
		}
	}
	// Closing frees a peer that is stuck in a write; shutting down our side would not.
	_ = m.conn.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.subs {
		s.end()
	}
}

// fail remembers the first reason for the connection's end.
func (m *Monitor) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.err != nil:
	case m.closed || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET):
		m.err = ErrClosed
	default:
		m.err = fmt.Errorf("%w: %w", ErrClosed, err)
	}
}

// readLine returns the next line in memory of its own.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, fmt.Errorf("a line of more than %d bytes", maxLine)
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// dispatch hands a line to whom it is for.
func (m *Monitor) dispatch(line []byte) error {
	var msg struct {
		Greeting *struct {
			Version Version `json:"version"`
		} `json:"QMP"`
		Event  string          `json:"event"`
		ID     *uint64         `json:"id"`
		Return json.RawMessage `json:"return"`
		Error  *wireError      `json:"error"`
	}
	if err := json.Unmarshal(line, &msg); err != nil {
		return fmt.Errorf("a line that is not QMP: %w", err)
	}
	switch {
	case msg.Event != "":
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("event %s: %w", msg.Event, err)
		}
		m.publish(e)
	case msg.Greeting != nil:
		m.mu.Lock()
		defer m.mu.Unlock()
		select {
		case <-m.greeted:
			return errors.New("a second greeting")
		default:
		}
		m.version = msg.Greeting.Version
		close(m.greeted)
	case msg.ID == nil:
		// QEMU could not even read the command that this answers; no caller can be told apart.
		if msg.Error != nil {
			return fmt.Errorf("an answer without id: %s: %s", msg.Error.Class, msg.Error.Desc)
		}
		return errors.New("an answer without id")
	default:
		m.mu.Lock()
		defer m.mu.Unlock()
		answer, ok := m.pending[*msg.ID]
		if !ok {
			return nil // its caller has gone
		}
		delete(m.pending, *msg.ID)
		answer <- reply{raw: line, ret: msg.Return, err: msg.Error}
	}
	return nil
}
