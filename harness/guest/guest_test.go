package guest_test

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
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/images/control"
	"github.com/nestbed/nestbed/images/sshd"
	"github.com/nestbed/nestbed/results/record"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "proxy" { // OpenSSH's ProxyCommand in the test that boots
		proxy(os.Args[2])
		return
	}
	goleak.VerifyTestMain(m)
}

// pair gives the two ends of a connection.
func pair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	assert.NilError(t, err)
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conns[i], err = net.FileConn(f)
		assert.NilError(t, err)
		assert.NilError(t, f.Close())
	}
	return conns[0], conns[1]
}

// fake is a guest without a kernel: init's side of the protocol, with init's SSH server, in this process.
type fake struct {
	host    guest.Conns
	control net.Conn
	ssh     net.Conn
	lines   *bufio.Reader
	welcome control.Welcome
	frozen  *valve
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{}
	f.host.Control, f.control = pair(t)
	f.host.SSH, f.ssh = pair(t)
	f.lines = bufio.NewReader(f.control)
	t.Cleanup(func() { f.control.Close(); f.ssh.Close() })
	return f
}

func (f *fake) say(t *testing.T, v any) {
	t.Helper()
	line, ok := v.(string)
	if !ok {
		data, err := json.Marshal(v)
		assert.NilError(t, err)
		line = string(data)
	}
	_, err := io.WriteString(f.control, line+"\n")
	assert.NilError(t, err)
}

var ready = control.Ready{Version: control.Version, Kernel: "6.12.0-test", Uptime: 1.5}

// take reads the host's welcome. It runs beside Connect.
func (f *fake) take() error {
	line, err := f.lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, &control.Word{Welcome: &f.welcome})
}

// serve serves SSH with the keys of the welcome until the connection ends.
func (f *fake) serve() error {
	server, err := sshd.New(sshd.Config{HostKey: f.welcome.HostKey, ClientKey: f.welcome.ClientKey, Env: []string{"PATH=/usr/bin:/bin"}})
	if err != nil {
		return err
	}
	return server.Serve(f.frozen)
}

// valve is a connection that can be frozen: a guest that hangs.
type valve struct {
	net.Conn
	mu     sync.RWMutex
	closed chan struct{}
	once   sync.Once
	shut   chan struct{} // nil: open
}

func (v *valve) wait() {
	v.mu.RLock()
	shut := v.shut
	v.mu.RUnlock()
	if shut != nil {
		<-v.closed
	}
}

func (v *valve) Read(p []byte) (int, error) {
	n, err := v.Conn.Read(p)
	v.wait()
	return n, err
}

func (v *valve) Write(p []byte) (int, error) {
	v.wait()
	return v.Conn.Write(p)
}

func (v *valve) Close() error {
	v.once.Do(func() { close(v.closed) })
	return v.Conn.Close()
}

func (v *valve) freeze() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut = make(chan struct{})
}

// connected is a guest that serves.
func connected(t *testing.T) (*guest.Guest, *fake) {
	t.Helper()
	f := newFake(t)
	f.frozen = &valve{Conn: f.ssh, closed: make(chan struct{})}
	f.say(t, ready)
	served := make(chan error, 1)
	go func() {
		err := f.take()
		if err == nil {
			_, err = io.WriteString(f.control, `{"problem":"no debugfs"}`+"\n"+`{"serving":true}`+"\n")
		}
		if err == nil {
			err = f.serve()
		}
		served <- err
	}()
	g, err := guest.Connect(t.Context(), f.host)
	assert.NilError(t, err)
	t.Cleanup(func() {
		f.frozen.Close()
		assert.NilError(t, g.Close())
		assert.NilError(t, <-served)
	})
	return g, f
}

func TestConnect(t *testing.T) {
	before := time.Now()
	g, f := connected(t)
	assert.Equal(t, g.Kernel(), "6.12.0-test")
	assert.Equal(t, g.Uptime(), 1500*time.Millisecond)
	assert.DeepEqual(t, g.Problems(), []string{"no debugfs"})
	assert.Equal(t, f.welcome.Version, control.Version)
	assert.Equal(t, len(f.welcome.Seed), 64)
	assert.Check(t, !bytes.Equal(f.welcome.Seed, make([]byte, 64)))
	at := time.Unix(0, f.welcome.Time)
	assert.Check(t, !at.Before(before.Truncate(0)) && !at.After(time.Now()), "time %v", at)
}

func TestEveryGuestHasItsOwnKeys(t *testing.T) {
	_, a := connected(t)
	_, b := connected(t)
	assert.Check(t, a.welcome.ClientKey != b.welcome.ClientKey)
	assert.Check(t, !bytes.Equal(a.welcome.HostKey, b.welcome.HostKey))
	assert.Check(t, !bytes.Equal(a.welcome.Seed, b.welcome.Seed))
}

func TestConnectGivesUp(t *testing.T) {
	for name, c := range map[string]struct {
		act   func(t *testing.T, f *fake) // before Connect
		phase guest.Phase
		words string
	}{
		"silent": {func(*testing.T, *fake) {}, guest.PhaseReady, "never said that it runs"},
		"half a line": {func(t *testing.T, f *fake) { io.WriteString(f.control, `{"vers`) },
			guest.PhaseReady, "never said that it runs"},
		"no serving": {func(t *testing.T, f *fake) { f.say(t, ready); f.say(t, control.Notice{Problem: "no such port"}) },
			guest.PhaseServing, "does not serve SSH; init: no such port"},
		"no ssh": {func(t *testing.T, f *fake) { f.say(t, ready); f.say(t, control.Notice{Serving: true}) },
			guest.PhaseSSH, "the SSH handshake with the guest did not end"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, want := range map[string]error{"deadline": context.DeadlineExceeded, "end of file": io.EOF} {
				f := newFake(t)
				c.act(t, f)
				// Long enough for what the guest has said to be read, however busy the host is.
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				if how == "end of file" {
					ctx = t.Context()
					for _, conn := range []net.Conn{f.control, f.ssh} {
						assert.NilError(t, conn.(*net.UnixConn).CloseWrite())
					}
				}
				_, err := guest.Connect(ctx, f.host)
				var boot *guest.BootError
				assert.Assert(t, errors.As(err, &boot), "%s: %v", how, err)
				assert.Check(t, is.Equal(boot.Phase, c.phase), how)
				assert.Check(t, is.ErrorContains(err, c.words), how)
				assert.Check(t, is.ErrorIs(err, want), how)
			}
		})
	}
}

func TestConnectRefusesNonsense(t *testing.T) {
	for name, c := range map[string]struct {
		lines []any
		words string
	}{
		"not JSON":         {[]any{"\x1b[2J"}, "control port: invalid character"},
		"an endless line":  {[]any{strings.Repeat("x", 2*control.MaxLine)}, "line of more than 16384 bytes"},
		"another version":  {[]any{control.Ready{Version: 1, Kernel: "6.12"}}, "version 1, this nestbed speaks 2"},
		"no kernel":        {[]any{control.Ready{Version: control.Version}}, "kernel release of 0 bytes"},
		"a long kernel":    {[]any{control.Ready{Version: control.Version, Kernel: strings.Repeat("6", 65)}}, "kernel release of 65 bytes"},
		"a wrong uptime":   {[]any{control.Ready{Version: control.Version, Kernel: "6.12", Uptime: -1}}, "uptime -1 s"},
		"a wrong notice":   {[]any{ready, `[]`}, "cannot unmarshal array"},
		"something on SSH": {[]any{ready, control.Notice{Serving: true}}, "ssh handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			go func() {
				io.Copy(io.Discard, f.control)
			}()
			_, err := io.WriteString(f.ssh, "SSH-2.0-x\r\n"+strings.Repeat("no ssh ", 200))
			assert.NilError(t, err)
			for _, line := range c.lines {
				f.say(t, line)
			}
			_, err = guest.Connect(t.Context(), f.host)
			var nonsense *guest.ProtocolError
			assert.Assert(t, errors.As(err, &nonsense), "%v", err)
			assert.ErrorContains(t, err, c.words)
		})
	}
}

// A guest that is prepared, saved and restored goes on where it was: it says no ready again.
func TestPrepareAndResume(t *testing.T) {
	f := newFake(t)
	f.say(t, ready)
	w, err := guest.Await(t.Context(), f.host)
	assert.NilError(t, err)
	assert.DeepEqual(t, w.Ready(), ready)

	heard := make(chan string, 1)
	answer := func(text string) {
		go func() {
			line, _ := f.lines.ReadString('\n')
			body := make([]byte, len("program"))
			_, _ = io.ReadFull(f.lines, body)
			heard <- line + string(body)
			_, _ = io.WriteString(f.control, text+"\n")
		}()
	}
	program := []guest.File{{Name: "/bin/agent", Mode: 0o755, Data: []byte("program")}}
	answer(`{"prepared":true}`)
	assert.NilError(t, w.Prepare(t.Context(), program, []string{"/bin/agent", "prepare"}))
	assert.Equal(t, <-heard, `{"prepare":{"files":[{"name":"/bin/agent","mode":493,"size":7}],"command":["/bin/agent","prepare"]}}`+"\nprogram")
	answer(`{"prepared":true,"problem":"no such module"}`)
	err = w.Prepare(t.Context(), program, nil)
	<-heard
	assert.ErrorContains(t, err, "prepare the guest: no such module")
	assert.Assert(t, errors.As(err, new(*guest.PrepareError)))

	go func() {
		if f.take() == nil {
			_, _ = io.WriteString(f.control, `{"serving":true}`+"\n")
		}
		f.frozen = &valve{Conn: f.ssh, closed: make(chan struct{})}
		_ = f.serve()
	}()
	g, err := guest.Resume(f.host, ready).Welcome(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, g.Kernel(), ready.Kernel)
	out, err := g.Output(t.Context(), "echo here")
	assert.NilError(t, err)
	assert.Equal(t, string(out), "here\n")
	assert.NilError(t, g.Close())
}

func TestPrepareGivesUp(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "did not come to an end with its preparation",
		`{"serving":true}`:     "another word in the place of the answer",
		`[]`:                   "cannot unmarshal array",
		`{"prepared":"maybe"}`: "cannot unmarshal string",
	} {
		f := newFake(t)
		f.say(t, ready)
		w, err := guest.Await(t.Context(), f.host)
		assert.NilError(t, err)
		go func() {
			if _, err := f.lines.ReadString('\n'); err == nil && text != "" {
				_, _ = io.WriteString(f.control, text+"\n")
			}
			f.control.Close()
		}()
		assert.ErrorContains(t, w.Prepare(t.Context(), nil, []string{"/bin/true"}), want)
		_, err = f.host.Control.Write(nil)
		assert.Check(t, err != nil, "the connections are closed")
	}
}

func TestRun(t *testing.T) {
	g, _ := connected(t)
	var out, errs bytes.Buffer
	status, err := g.Run(t.Context(), `sh -c 'cat; echo bad >&2; exit 9'`, strings.NewReader("in"), &out, &errs)
	assert.NilError(t, err)
	assert.Equal(t, status, 9)
	assert.Equal(t, out.String(), "in")
	assert.Equal(t, errs.String(), "bad\n")

	_, err = g.Run(t.Context(), `sh -c 'kill -KILL $$'`, nil, nil, nil)
	assert.ErrorContains(t, err, "killed by SIGKILL")
}

func TestRunEndsWithItsContext(t *testing.T) {
	for _, hang := range []bool{false, true} {
		g, f := connected(t)
		ctx, cancel := context.WithCancel(t.Context())
		var back, late atomic.Bool
		started := &trigger{w: writer(func(p []byte) (int, error) {
			late.CompareAndSwap(false, back.Load()) // a caller's buffer has no lock
			return len(p), nil
		}), do: func() {
			if hang {
				f.frozen.freeze()
			}
			cancel()
		}}
		_, err := g.Run(ctx, `sh -c 'while :; do echo x; done'`, nil, started, nil)
		back.Store(true)
		assert.ErrorIs(t, err, context.Canceled)
		if !hang {
			_, err = g.Output(t.Context(), "echo") // it comes behind what is on its way
			assert.NilError(t, err)
		}
		assert.Check(t, !late.Load(), "a write after Run had returned")
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// trigger does something at the first write.
type trigger struct {
	w    io.Writer
	once sync.Once
	do   func()
}

func (tr *trigger) Write(p []byte) (int, error) {
	defer tr.once.Do(tr.do)
	return tr.w.Write(p)
}

func TestOutput(t *testing.T) {
	g, _ := connected(t)
	out, err := g.Output(t.Context(), "echo words")
	assert.NilError(t, err)
	assert.Equal(t, out, "words\n")
	_, err = g.Output(t.Context(), "cat /no/such")
	assert.ErrorContains(t, err, `exit status 1: "nestbed: open /no/such: no such file or directory"`)
	_, err = g.Output(t.Context(), "sh -c 'head -c 300000 /dev/zero'")
	assert.ErrorContains(t, err, "more than 262144 bytes of output")
}

func TestPush(t *testing.T) {
	g, _ := connected(t)
	name := filepath.Join(t.TempDir(), "agent")
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	assert.NilError(t, g.Push(t.Context(), name, 0o755, data))
	got, err := os.ReadFile(name)
	assert.NilError(t, err)
	assert.Check(t, bytes.Equal(got, data))
	info, err := os.Stat(name)
	assert.NilError(t, err)
	assert.Equal(t, info.Mode(), os.FileMode(0o755))
}

func TestPushFails(t *testing.T) {
	g, _ := connected(t)
	err := g.Push(t.Context(), "/dev/null", 0o644, []byte("swallowed"))
	assert.ErrorContains(t, err, "push /dev/null: the guest has other bytes")
	err = g.Push(t.Context(), "/no/such/folder/x", 0o644, []byte("x"))
	assert.ErrorContains(t, err, "push /no/such/folder/x: scp: open /no/such/folder/")
	for _, name := range []string{"", "agent", "/a b", "/a/../b", "/a\nb", "/$x"} {
		assert.ErrorContains(t, g.Push(t.Context(), name, 0o644, nil), "not a plain absolute name")
	}
}

func TestPushIntoAGuestThatHangs(t *testing.T) {
	g, f := connected(t)
	f.frozen.freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := g.Push(ctx, "/tmp/never", 0o644, make([]byte, 8<<20))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// lines is an agent's command that says records and then does something.
func lines(then string, records ...string) string {
	return "sh -c '" + `printf "%s\n" ` + strings.Join(quoteAll(records), " ") + "; " + then + "'"
}

func quoteAll(records []string) []string {
	for i, r := range records {
		records[i] = `"` + strings.ReplaceAll(r, `"`, `\"`) + `"`
	}
	return records
}

const (
	hello = `{"seq":1,"kind":"hello","hello":{"schema":"nestbed/record/1"}}`
	step  = `{"seq":2,"kind":"step","step":{"text":"one"}}`
)

// collect reads a session to its end.
func collect(s *guest.Session) (kinds []record.Kind, exit guest.Exit) {
	for r := range s.Records() {
		kinds = append(kinds, r.Kind)
	}
	return kinds, s.Wait()
}

func TestAgent(t *testing.T) {
	for name, c := range map[string]struct {
		command string
		kinds   []record.Kind
		exit    guest.Exit
		broken  string
	}{
		"ends":         {lines("echo late >&2; exit 3", hello, step), []record.Kind{"hello", "step"}, guest.Exit{Code: 3, Stderr: "late\n"}, ""},
		"dies":         {lines("kill -SEGV $$", hello), []record.Kind{"hello"}, guest.Exit{Signal: "SEGV"}, ""},
		"dies in line": {lines("printf %s cut", hello), []record.Kind{"hello"}, guest.Exit{}, ""},
		"no agent":     {"agent run x", nil, guest.Exit{Code: 127, Stderr: "nestbed: find agent: no such file or directory\n"}, ""},
		"nonsense":     {lines("sleep 1000", hello, "nonsense"), []record.Kind{"hello"}, guest.Exit{Signal: "KILL"}, "record 2: invalid character"},
		"a gap":        {lines("sleep 1000", hello, hello), []record.Kind{"hello"}, guest.Exit{Signal: "KILL"}, "seq 1, want 2"},
		"no end of line": {`sh -c 'head -c 100000 /dev/zero; sleep 1000'`, nil, guest.Exit{Signal: "KILL"},
			"line of more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := connected(t)
			s, err := g.StartAgent(t.Context(), c.command)
			assert.NilError(t, err)
			kinds, exit := collect(s)
			assert.Check(t, is.DeepEqual(kinds, c.kinds))
			if c.broken != "" {
				assert.Check(t, is.ErrorIs(exit.Err, record.ErrProtocol))
				assert.Check(t, is.ErrorContains(exit.Err, c.broken))
				exit.Err = nil
			}
			assert.Check(t, is.Equal(exit, c.exit))
			assert.ErrorIs(t, s.Send(record.Input{}), net.ErrClosed)
		})
	}
}

func TestAgentsStderrIsBounded(t *testing.T) {
	g, _ := connected(t)
	s, err := g.StartAgent(t.Context(), `sh -c 'head -c 100000 /dev/zero | tr "\0" x >&2; printf end >&2'`)
	assert.NilError(t, err)
	_, exit := collect(s)
	assert.Equal(t, len(exit.Stderr), 16<<10)
	assert.Check(t, strings.HasSuffix(exit.Stderr, "xend"))
}

func TestSend(t *testing.T) {
	g, _ := connected(t)
	s, err := g.StartAgent(t.Context(), `sh -c 'read a; read b; echo "$a $b" >&2'`)
	assert.NilError(t, err)
	assert.NilError(t, s.Send(record.Input{Reply: &record.Reply{ID: 1, Faults: 2}}))
	assert.NilError(t, s.Send(record.Input{Event: &record.Event{Name: "DEVICE_DELETED", Device: "edu"}}))
	_, exit := collect(s)
	assert.Equal(t, exit.Stderr, `{"reply":{"id":1,"faults":2}} {"event":{"event":"DEVICE_DELETED","device":"edu"}}`+"\n")
}

func TestSendToAnAgentThatDoesNotRead(t *testing.T) {
	g, f := connected(t)
	s, err := g.StartAgent(t.Context(), "sleep 1000")
	assert.NilError(t, err)
	f.frozen.freeze()
	big := record.Input{Event: &record.Event{Name: strings.Repeat("x", 16<<10)}}
	for range 10_000 {
		if err = s.Send(big); err != nil {
			break
		}
	}
	assert.ErrorContains(t, err, "it has not read 1000 inputs")
	s.Kill()
	assert.Check(t, s.Wait().Lost)
}

func TestKill(t *testing.T) {
	g, _ := connected(t)
	s, err := g.StartAgent(t.Context(), lines("sleep 1000", hello))
	assert.NilError(t, err)
	assert.Equal(t, (<-s.Records()).Kind, record.KindHello)
	s.Kill()
	s.Kill()
	_, exit := collect(s)
	assert.Equal(t, exit, guest.Exit{Signal: "KILL"})
}

// A caller that gives up need not read what is left.
func TestKillWithRecordsUnread(t *testing.T) {
	g, _ := connected(t)
	s, err := g.StartAgent(t.Context(), lines("sleep 1000", hello, step))
	assert.NilError(t, err)
	s.Kill()
	assert.Equal(t, s.Wait(), guest.Exit{Signal: "KILL"})
}

func TestKillInAGuestThatHangs(t *testing.T) {
	g, f := connected(t)
	s, err := g.StartAgent(t.Context(), lines("sleep 1000", hello))
	assert.NilError(t, err)
	<-s.Records()
	f.frozen.freeze()
	s.Kill()
	_, exit := collect(s)
	assert.Equal(t, exit, guest.Exit{Lost: true})
}

func TestAgentIsLostWithItsConnection(t *testing.T) {
	g, f := connected(t)
	s, err := g.StartAgent(t.Context(), lines("sleep 1000", hello))
	assert.NilError(t, err)
	<-s.Records()
	assert.NilError(t, f.ssh.Close())
	_, exit := collect(s)
	assert.Equal(t, exit, guest.Exit{Lost: true})
	_, err = g.Run(t.Context(), "echo", nil, nil, nil)
	assert.Check(t, err != nil)
}

func TestCloseEndsEverything(t *testing.T) {
	g, _ := connected(t)
	s, err := g.StartAgent(t.Context(), lines("sleep 1000", hello, step))
	assert.NilError(t, err)
	ran := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		_, err := g.Run(context.Background(), `sh -c 'echo; sleep 1000'`, nil, &trigger{w: io.Discard, do: func() { close(started) }}, nil)
		ran <- err
	}()
	<-started
	assert.NilError(t, g.Close()) // with the records unread
	assert.Check(t, (<-ran) != nil)
	assert.Check(t, s.Wait().Lost)
}

func TestShell(t *testing.T) {
	g, f := connected(t)
	near, far := pair(t)
	server, err := sshd.New(sshd.Config{HostKey: f.welcome.HostKey, ClientKey: f.welcome.ClientKey, Env: []string{"PATH=/usr/bin:/bin"}})
	assert.NilError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(far) }()
	var out bytes.Buffer
	resized := make(chan guest.Size)
	in, typing := io.Pipe()
	go func() {
		resized <- guest.Size{Columns: 90, Rows: 20}
		fmt.Fprint(typing, "go\n")
	}()
	status, err := g.Shell(t.Context(), near, guest.Terminal{
		Name: "xterm", Size: guest.Size{Columns: 80, Rows: 24}, Resized: resized, In: in, Out: &out, Err: io.Discard,
	}, `sh -c 'stty -echo; read x; stty size; exit 8'`)
	assert.NilError(t, err)
	typing.Close()
	assert.Equal(t, status, 8)
	assert.Check(t, is.Contains(out.String(), "20 90\r\n"))
	assert.NilError(t, <-served)
}

func TestShellEndsWithItsContext(t *testing.T) {
	g, _ := connected(t)
	near, far := pair(t)
	defer far.Close() // nobody serves, but somebody is there: the collector would close it
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := g.Shell(ctx, near, guest.Terminal{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}, "")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestWriteSSHConfig(t *testing.T) {
	g, f := connected(t)
	dir := t.TempDir()
	assert.NilError(t, g.WriteSSHConfig(dir, "proxy %h"))
	key, err := os.Stat(filepath.Join(dir, "id_ed25519"))
	assert.NilError(t, err)
	assert.Equal(t, key.Mode(), os.FileMode(0o600))
	config, err := os.ReadFile(filepath.Join(dir, "config"))
	assert.NilError(t, err)
	assert.Check(t, is.Contains(string(config), "ProxyCommand proxy %h\n"))
	known, err := os.ReadFile(filepath.Join(dir, "known_hosts"))
	assert.NilError(t, err)
	assert.Check(t, strings.HasPrefix(string(known), "guest ssh-ed25519 "))
	assert.Check(t, !strings.Contains(string(known), strings.Fields(f.welcome.ClientKey)[1]))
}

func proxy(socket string) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	_, _ = io.Copy(os.Stdout, conn)
}
