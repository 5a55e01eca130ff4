package qmp_test

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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-qemu/qmp/raw"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/nestbed/nestbed/harness/qmp"
	"github.com/nestbed/nestbed/harness/qmp/qmptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect returns a monitor that has shaken hands with a peer.
func connect(t *testing.T, log io.Writer) (*qmp.Monitor, *qmptest.Peer) {
	t.Helper()
	peer, conn := qmptest.Start(t)
	m := qmp.New(conn, qmp.Options{Log: log})
	t.Cleanup(func() { _ = m.Disconnect() })
	assert.NilError(t, m.Connect())
	return m, peer
}

// soon is a context for what takes microseconds.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestHandshake(t *testing.T) {
	m, _ := connect(t, nil)
	assert.Equal(t, m.Version().String(), "7.2.22")
}

func TestHandshakeWithoutGreeting(t *testing.T) {
	peer, conn := qmptest.Silent(t)
	m := qmp.New(conn, qmp.Options{})
	defer m.Disconnect()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errors.New("no greeting"))
	defer cancel()
	assert.Error(t, m.Handshake(ctx), "qmp greeting: no greeting")

	peer.Close()
	assert.ErrorIs(t, m.Handshake(t.Context()), qmp.ErrClosed)
}

func TestDo(t *testing.T) {
	m, peer := connect(t, nil)
	peer.Handle("device_add", func(c qmptest.Command) (any, *qmp.CommandError) {
		return map[string]json.RawMessage{"echo": c.Arguments}, nil
	})
	peer.Handle("device_del", qmptest.Refuse("DeviceNotFound", "Device 'edu9' not found"))

	var out struct{ Echo struct{ Driver string } }
	assert.NilError(t, m.Do(soon(t), "device_add", map[string]string{"driver": "edu"}, &out))
	assert.Equal(t, out.Echo.Driver, "edu")

	err := m.Do(soon(t), "device_del", nil, nil)
	refusal, ok := errors.AsType[*qmp.CommandError](err)
	assert.Assert(t, ok, "%v", err)
	assert.DeepEqual(t, refusal, &qmp.CommandError{Command: "device_del", Class: "DeviceNotFound", Desc: "Device 'edu9' not found"})
	assert.Error(t, err, "qmp device_del: DeviceNotFound: Device 'edu9' not found")

	var number int
	assert.ErrorContains(t, m.Do(soon(t), "device_add", nil, &number), "qmp device_add: return: json")
	assert.ErrorContains(t, m.Do(soon(t), "device_add", func() {}, nil), "qmp device_add: arguments: json")
}

// Answers may come in any order: each goes to the caller with its id.
func TestAnswersMatchedByID(t *testing.T) {
	const calls = 50
	m, peer := connect(t, nil)
	held := peer.Hold("echo")
	ctx := soon(t)
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			var got int
			err := m.Do(ctx, "echo", i, &got)
			assert.Check(t, err)
			assert.Check(t, is.Equal(got, i))
		})
	}
	commands := make([]qmptest.Command, calls)
	for i := range commands {
		commands[calls-1-i] = <-held
	}
	for _, c := range commands {
		peer.Answer(c, c.Arguments)
	}
	wg.Wait()
}

// go-qemu's SocketMonitor hands out its scanner's buffer, which the next line overwrites.
func TestRunReturnsMemoryOfItsOwn(t *testing.T) {
	m, peer := connect(t, nil)
	peer.Handle("query-name", qmptest.Return(map[string]string{"name": "first"}))
	out, err := m.Run([]byte(`{"execute": "query-name", "id": "mine"}`))
	assert.NilError(t, err)
	events := m.Subscribe(soon(t))
	for range 10 {
		peer.Emit("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", nil)
		<-events
	}
	var r struct{ Return struct{ Name string } }
	assert.NilError(t, json.Unmarshal(out, &r), "%s", out)
	assert.Equal(t, r.Return.Name, "first")
}

func TestRunRefusesWhatIsNoCommand(t *testing.T) {
	m, _ := connect(t, nil)
	_, err := m.Run([]byte(`{"exec`))
	assert.ErrorContains(t, err, "qmp command: ")
	_, err = m.Run([]byte(`{"arguments": {}}`))
	assert.Error(t, err, "qmp command: no execute in it")
}

func TestRawOnTop(t *testing.T) {
	m, peer := connect(t, nil)
	peer.Handle("query-status", qmptest.Return(map[string]any{"status": "running", "running": true, "singlestep": false}))
	peer.Handle("device_del", qmptest.Refuse("DeviceNotFound", "Device 'x' not found"))
	qemu := raw.NewMonitor(m)
	status, err := qemu.QueryStatus()
	assert.NilError(t, err)
	assert.Equal(t, status.Status, raw.RunStateRunning)
	assert.ErrorContains(t, qemu.DeviceDel("x"), "DeviceNotFound")
}

// A caller that gives up leaves the connection as it was; the late answer is nobody's.
func TestContextEndsCall(t *testing.T) {
	m, peer := connect(t, nil)
	held := peer.Hold("stop")
	peer.Handle("cont", qmptest.Return(nil))
	ctx, cancel := context.WithCancelCause(t.Context())
	failed := make(chan error)
	go func() { failed <- m.Do(ctx, "stop", nil, nil) }()
	late := <-held
	cancel(errors.New("had enough"))
	assert.Error(t, <-failed, "qmp stop: had enough")
	peer.Answer(late, nil)
	assert.NilError(t, m.Do(soon(t), "cont", nil, nil))
}

// A QEMU that has stopped reading must not hold a caller for ever.
func TestContextEndsWrite(t *testing.T) {
	peer, conn := qmptest.Start(t)
	m := qmp.New(conn, qmp.Options{})
	defer m.Disconnect()
	assert.NilError(t, m.Connect())
	blocked := make(chan struct{})
	defer close(blocked) // before the peer's Close in cleanup, which waits for the handler
	peer.Handle("block", func(qmptest.Command) (any, *qmp.CommandError) { <-blocked; return nil, nil })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, m.Do(ctx, "block", nil, nil), context.DeadlineExceeded)
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	failed := make(chan error)
	go func() { failed <- m.Do(ctx, "more", strings.Repeat("x", 1<<20), nil) }()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if n := unsent(t, conn); n == 0 {
			return poll.Continue("nothing has been written")
		}
		return poll.Success()
	}, poll.WithDelay(time.Millisecond))
	giveUp()
	assert.ErrorIs(t, <-failed, context.Canceled)
	// Half a command was sent: nothing that follows could be understood.
	<-m.Done()
	assert.ErrorIs(t, m.Do(soon(t), "after", nil, nil), qmp.ErrClosed)
	assert.ErrorContains(t, m.Err(), "write: context canceled")
}

// unsent is how many bytes lie in the socket's queue that the peer has not read.
func unsent(t *testing.T, conn *net.UnixConn) int {
	t.Helper()
	raw, err := conn.SyscallConn()
	assert.NilError(t, err)
	var n int
	var failed error
	assert.NilError(t, raw.Control(func(fd uintptr) { n, failed = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }))
	assert.NilError(t, failed)
	return n
}

func TestLongLines(t *testing.T) {
	m, peer := connect(t, nil)
	long := strings.Repeat("x", 4<<20)
	peer.Handle("long", qmptest.Return(long))
	var got string
	assert.NilError(t, m.Do(soon(t), "long", nil, &got))
	assert.Assert(t, got == long)

	peer.Send(strings.Repeat("x", 17<<20))
	<-m.Done()
	assert.ErrorIs(t, m.Err(), qmp.ErrClosed)
	assert.ErrorContains(t, m.Err(), "a line of more than 16777216 bytes")
}

func TestNonsenseEndsConnection(t *testing.T) {
	for line, want := range map[string]string{
		`\x00`:                      "a line that is not QMP",
		`[1, 2]`:                    "a line that is not QMP",
		`{"event": "X", "data": 3}`: "event X",
		`{"return": {}}`:            "an answer without id",
		`{"error": {"class": "GenericError", "desc": "JSON parse error"}}`: "an answer without id: GenericError: JSON parse error",
		qmptest.Greeting: "a second greeting",
	} {
		t.Run(want, func(t *testing.T) {
			m, peer := connect(t, nil)
			peer.Send(line)
			<-m.Done()
			assert.ErrorIs(t, m.Err(), qmp.ErrClosed)
			assert.ErrorContains(t, m.Err(), want)
		})
	}
}

func TestPeerGoesInCall(t *testing.T) {
	m, peer := connect(t, nil)
	held := peer.Hold("stop")
	failed := make(chan error)
	go func() { failed <- m.Do(t.Context(), "stop", nil, nil) }()
	<-held
	assert.NilError(t, m.Err())
	peer.Close()
	assert.Error(t, <-failed, "qmp stop: qmp connection closed")
	assert.ErrorIs(t, m.Do(t.Context(), "stop", nil, nil), qmp.ErrClosed)
}

func TestDisconnect(t *testing.T) {
	m, peer := connect(t, nil)
	held := peer.Hold("stop")
	failed := make(chan error)
	go func() { failed <- m.Do(t.Context(), "stop", nil, nil) }()
	<-held
	assert.NilError(t, m.Disconnect())
	assert.ErrorIs(t, <-failed, qmp.ErrClosed)
	assert.NilError(t, m.Disconnect())
	<-peer.Done()
	_, open := <-m.Subscribe(t.Context())
	assert.Assert(t, !open)
}

func TestSendFD(t *testing.T) {
	m, peer := connect(t, nil)
	got := make(chan string, 1)
	peer.Handle("getfd", func(c qmptest.Command) (any, *qmp.CommandError) {
		if len(c.Files) != 1 {
			return nil, &qmp.CommandError{Class: "GenericError", Desc: fmt.Sprintf("%d files", len(c.Files))}
		}
		defer c.Files[0].Close()
		_, err := c.Files[0].WriteString("written by the peer")
		got <- fmt.Sprint(string(c.Arguments), err)
		return nil, nil
	})
	r, w, err := os.Pipe()
	assert.NilError(t, err)
	defer r.Close()
	assert.NilError(t, m.SendFD(soon(t), "state", w))
	assert.NilError(t, w.Close())
	assert.Equal(t, <-got, `{"fdname":"state"}<nil>`)
	text, err := io.ReadAll(r)
	assert.NilError(t, err)
	assert.Equal(t, string(text), "written by the peer")

	assert.Error(t, m.SendFD(soon(t), "state", w), "qmp getfd state: use of closed file")
}

func TestSubscribe(t *testing.T) {
	m, peer := connect(t, nil)
	idle := m.Subscribe(soon(t)) // read only at the end: it must hold up nobody
	var all []string
	ctx, cancel := context.WithCancel(t.Context())
	events := m.Subscribe(ctx)
	for i := range 1000 {
		name := fmt.Sprintf("EVENT_%d", i)
		peer.Emit(name, map[string]any{"device": "edu1"})
		e := <-events
		assert.Equal(t, e.Event, name)
		assert.Equal(t, e.Data["device"], "edu1")
		assert.Equal(t, e.Timestamp.Seconds, int64(1_700_000_000))
		all = append(all, name)
	}
	cancel()
	for range events {
		t.Fatal("an event after the end of its context")
	}
	peer.Handle("cont", qmptest.Return(nil))
	assert.NilError(t, m.Do(soon(t), "cont", nil, nil))

	// What came before the end is delivered after it.
	peer.Close()
	<-m.Done()
	var got []string
	for e := range idle {
		got = append(got, e.Event)
	}
	assert.DeepEqual(t, got, all)
}

// A subscriber that does not read gets no stream with a hole in it, and does not eat all memory.
func TestSubscribeOverflow(t *testing.T) {
	m, peer := connect(t, nil)
	peer.Handle("cont", qmptest.Return(nil))
	events := m.Subscribe(soon(t))
	for range 2<<14 + 2 {
		peer.Send(`{"event": "RTC_CHANGE", "timestamp": {}}`)
	}
	assert.NilError(t, m.Do(soon(t), "cont", nil, nil))
	n := 0
	for range events {
		n++
	}
	assert.Assert(t, n >= 1<<14 && n <= 2<<14, "%d events", n)
	assert.NilError(t, m.Err())
}

func TestLog(t *testing.T) {
	var log bytes.Buffer
	m, peer := connect(t, &log)
	peer.Send("nonsense \x1b[2J")
	<-m.Done()

	type line struct {
		Schema, To, Text string
		QMP              json.RawMessage
		Time             time.Time
	}
	var got []string
	for s := bufio.NewScanner(&log); s.Scan(); {
		var l line
		assert.NilError(t, json.Unmarshal(s.Bytes(), &l), "%s", s.Text())
		assert.Check(t, time.Since(l.Time) < time.Minute)
		got = append(got, fmt.Sprintf("%s%s %s%s", l.Schema, l.To, l.QMP, l.Text))
	}
	assert.DeepEqual(t, got, []string{
		"nestbed/qmp/1 ",
		"nestbed " + compact(t, qmptest.Greeting),
		`qemu {"execute":"qmp_capabilities","id":1}`,
		`nestbed {"id":1,"return":{}}`,
		"nestbed nonsense \x1b[2J",
	})
}

func compact(t *testing.T, text string) string {
	var b bytes.Buffer
	assert.NilError(t, json.Compact(&b, []byte(text)))
	return b.String()
}

// A guest can make QEMU report for ever: the log ends, the connection goes on.
func TestLogIsBounded(t *testing.T) {
	var log bytes.Buffer
	m, peer := connect(t, &log)
	peer.Handle("long", qmptest.Return(strings.Repeat("x", 3<<19)))
	for range 4 {
		assert.NilError(t, m.Do(soon(t), "long", nil, nil))
	}
	assert.NilError(t, m.Disconnect())
	assert.Assert(t, log.Len() < 5<<20, "%d bytes", log.Len())
	lines := bytes.Split(bytes.TrimSpace(log.Bytes()), []byte("\n"))
	assert.Assert(t, is.Contains(string(lines[len(lines)-1]), `"cut":true`))
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestBrokenLogDoesNotEndConnection(t *testing.T) {
	m, peer := connect(t, brokenWriter{})
	peer.Handle("cont", qmptest.Return(nil))
	assert.NilError(t, m.Do(soon(t), "cont", nil, nil))
}
