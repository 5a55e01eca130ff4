package sshd

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	goscp "github.com/bramvdbogaerde/go-scp"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

type keyPair struct {
	signer ssh.Signer
	pem    []byte
}

func newKey(t *testing.T) keyPair {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	assert.NilError(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	assert.NilError(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	assert.NilError(t, err)
	return keyPair{signer, pem.EncodeToMemory(block)}
}

func (k keyPair) authorized() string { return string(ssh.MarshalAuthorizedKey(k.signer.PublicKey())) }

// peer is a server and a client that is logged in.
type peer struct {
	client *ssh.Client
	conn   net.Conn   // the client's
	served chan error // Serve's result
	power  chan bool
}

func start(t *testing.T) *peer {
	t.Helper()
	host, login := newKey(t), newKey(t)
	p := &peer{served: make(chan error, 1), power: make(chan bool, 1)}
	server, err := New(Config{
		HostKey: host.pem, ClientKey: login.authorized(), Env: []string{"PATH=/usr/bin:/bin", "HOME=/"},
		Power: func(reboot bool) error { p.power <- reboot; return nil },
	})
	assert.NilError(t, err)
	var far net.Conn
	p.conn, far = pair(t)
	go func() { p.served <- server.Serve(far) }()
	c, channels, requests, err := ssh.NewClientConn(p.conn, "guest", &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(login.signer)}, HostKeyCallback: ssh.FixedHostKey(host.signer.PublicKey()),
	})
	assert.NilError(t, err)
	p.client = ssh.NewClient(c, channels, requests)
	t.Cleanup(func() {
		p.client.Close()
		p.client.Wait()
		assert.NilError(t, <-p.served)
	})
	return p
}

func (p *peer) session(t *testing.T) *ssh.Session {
	t.Helper()
	s, err := p.client.NewSession()
	assert.NilError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// run gives a command's output, its errors and how it ended.
func (p *peer) run(t *testing.T, command, stdin string) (stdout, stderr string, err error) {
	t.Helper()
	s := p.session(t)
	var out, errs bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader(stdin), &out, &errs
	err = s.Run(command)
	return out.String(), errs.String(), err
}

func status(t *testing.T, err error) int {
	t.Helper()
	var exit *ssh.ExitError
	if err == nil {
		return 0
	}
	assert.Assert(t, errors.As(err, &exit), "%v", err)
	assert.Equal(t, exit.Signal(), "")
	return exit.ExitStatus()
}

func TestNewRefusesKeys(t *testing.T) {
	k := newKey(t)
	_, err := New(Config{HostKey: []byte("no"), ClientKey: k.authorized()})
	assert.ErrorContains(t, err, "host key")
	_, err = New(Config{HostKey: k.pem, ClientKey: "no"})
	assert.ErrorContains(t, err, "client key")
}

func TestAnotherKeyIsRefused(t *testing.T) {
	host, login, other := newKey(t), newKey(t), newKey(t)
	server, err := New(Config{HostKey: host.pem, ClientKey: login.authorized()})
	assert.NilError(t, err)
	near, far := pair(t)
	served := make(chan error, 1)
	go func() { served <- server.Serve(far) }()
	_, _, _, err = ssh.NewClientConn(near, "guest", &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(other.signer)}, HostKeyCallback: ssh.FixedHostKey(host.signer.PublicKey()),
	})
	assert.ErrorContains(t, err, "unable to authenticate")
	assert.ErrorContains(t, <-served, "ssh handshake")
}

func TestExec(t *testing.T) {
	p := start(t)
	for name, c := range map[string]struct {
		command, stdin, out, errs string
		status                    int
	}{
		"streams":       {`sh -c 'cat; echo bad >&2'`, "in\n", "in\n", "bad\n", 0},
		"status":        {`sh -c "exit 77"`, "", "", "", 77},
		"environment":   {`sh -c 'echo $HOME $PWD'`, "", "/ /\n", "", 0},
		"not found":     {"no-such-program", "", "", "nestbed: find no-such-program: no such file or directory\n", 127},
		"no program":    {"/etc/passwd", "", "", "nestbed: fork/exec /etc/passwd: permission denied\n", 126},
		"open quote":    {"sh -c 'x", "", "", "nestbed: a quote that does not end\n", 2},
		"nothing":       {"  ", "", "", "", 0},
		"builtin":       {"echo a 'b  c'", "", "a b  c\n", "", 0},
		"builtin fails": {"cat /no/such", "", "", "nestbed: open /no/such: no such file or directory\n", 1},
		"builtin reads": {"cat", "through", "through", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, err := p.run(t, c.command, c.stdin)
			assert.Check(t, is.Equal(out, c.out))
			assert.Check(t, is.Equal(errs, c.errs))
			assert.Check(t, is.Equal(status(t, err), c.status))
		})
	}
}

func TestExecSetsEnvironment(t *testing.T) {
	s := start(t).session(t)
	assert.NilError(t, s.Setenv("WORD", "a b"))
	out, err := s.Output(`sh -c 'echo "$WORD"'`)
	assert.NilError(t, err)
	assert.Equal(t, string(out), "a b\n")
}

// All that a process wrote before its end reaches the client.
func TestExecKeepsLateOutput(t *testing.T) {
	out, _, err := start(t).run(t, `sh -c 'head -c 3000000 /dev/zero'`, "")
	assert.NilError(t, err)
	assert.Equal(t, len(out), 3000000)
}

func TestExecReportsSignals(t *testing.T) {
	_, _, err := start(t).run(t, `sh -c 'kill -SEGV $$'`, "")
	var exit *ssh.ExitError
	assert.Assert(t, errors.As(err, &exit), "%v", err)
	assert.Equal(t, exit.Signal(), "SEGV")
}

func TestClientsSignalReachesTheGroup(t *testing.T) {
	s := start(t).session(t)
	out, err := s.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, s.Start(`sh -c 'trap "" TERM; (trap "exit 3" TERM; echo up; while :; do sleep 0.05; done); exit $?'`))
	_, err = io.ReadFull(out, make([]byte, 3))
	assert.NilError(t, err)
	assert.NilError(t, s.Signal(ssh.SIGTERM))
	assert.Equal(t, status(t, s.Wait()), 3)
}

// A client may signal as soon as its exec is answered, which is before the program runs.
func TestSignalBeforeTheStart(t *testing.T) {
	se := &session{env: []string{"PATH=/usr/bin:/bin"}, dir: "/"}
	assert.Check(t, !se.signal("NONE"))
	assert.Check(t, se.signal("KILL"))
	r := se.run(t.Context(), []string{"sleep", "1000"}, streams{in: strings.NewReader(""), out: io.Discard, err: io.Discard})
	assert.Equal(t, r, result{signal: "KILL"})
}

// family starts a program with a child in its group and one in a group of its own, and gives their pids.
func family(t *testing.T, s *ssh.Session) []int {
	t.Helper()
	out, err := s.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, s.Start(`bash -c 'sleep 1000 & a=$!; set -m; sleep 1000 & echo $$ $a $!; wait'`))
	pids := make([]int, 3)
	_, err = fmt.Fscanln(out, &pids[0], &pids[1], &pids[2])
	assert.NilError(t, err)
	return pids
}

// gone waits until none of the processes runs. A zombie that its parent has not reaped yet does not.
func gone(t *testing.T, pids []int) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		for _, pid := range pids {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil && !strings.Contains(string(stat), ") Z ") {
				return poll.Continue("process %d still runs: %s", pid, stat)
			}
		}
		return poll.Success()
	}, poll.WithDelay(5*time.Millisecond), poll.WithTimeout(20*time.Second))
}

func TestProcessesDieWithTheConnection(t *testing.T) {
	p := start(t)
	pids := family(t, p.session(t))
	assert.NilError(t, p.conn.Close()) // no good-bye
	gone(t, pids)
}

func TestProcessesDieWithTheChannel(t *testing.T) {
	p := start(t)
	s := p.session(t)
	pids := family(t, s)
	assert.NilError(t, s.Close())
	gone(t, pids)
	_, _, err := p.run(t, "echo", "") // the connection is as it was
	assert.NilError(t, err)
}

// What a program leaves behind must neither live on nor hold up its exit status.
func TestLeftoversDieWithTheProgram(t *testing.T) {
	out, _, err := start(t).run(t, `bash -c 'sleep 1000 & echo $!'`, "")
	assert.NilError(t, err)
	var pid int
	_, err = fmt.Sscan(out, &pid)
	assert.NilError(t, err)
	gone(t, []int{pid})
}

func TestPower(t *testing.T) {
	p := start(t)
	for command, reboot := range map[string]bool{"poweroff": false, "reboot": true} {
		_, _, err := p.run(t, command, "")
		assert.NilError(t, err)
		assert.Equal(t, <-p.power, reboot)
	}
}

func TestScript(t *testing.T) {
	s := start(t).session(t)
	var out, errs bytes.Buffer
	s.Stdin = strings.NewReader("cd /usr\npwd\nsh -c 'pwd; cat'\nnonsense\n\nexit 4\necho never\n")
	s.Stdout, s.Stderr = &out, &errs
	assert.NilError(t, s.Shell())
	assert.Equal(t, status(t, s.Wait()), 4)
	assert.Equal(t, out.String(), "/usr\n/usr\n")
	assert.Equal(t, errs.String(), "nestbed: find nonsense: no such file or directory\n")
}

// terminalSession is a shell on a terminal, with what came from it so far.
type terminalSession struct {
	*ssh.Session
	in  io.WriteCloser
	mu  sync.Mutex
	out bytes.Buffer
}

func (ts *terminalSession) Write(p []byte) (int, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.out.Write(p)
}

func (ts *terminalSession) String() string {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.out.String()
}

func (ts *terminalSession) expect(t *testing.T, want string) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if strings.Contains(ts.String(), want) {
			return poll.Success()
		}
		return poll.Continue("no %q in %q", want, ts.String())
	}, poll.WithDelay(5*time.Millisecond), poll.WithTimeout(20*time.Second))
}

func (ts *terminalSession) input(t *testing.T, s string) {
	t.Helper()
	_, err := io.WriteString(ts.in, s)
	assert.NilError(t, err)
}

func terminalOf(t *testing.T, p *peer, command string) *terminalSession {
	t.Helper()
	ts := &terminalSession{Session: p.session(t)}
	ts.Stdout = ts
	var err error
	ts.in, err = ts.StdinPipe()
	assert.NilError(t, err)
	assert.NilError(t, ts.RequestPty("xterm", 30, 100, ssh.TerminalModes{}))
	if command == "" {
		err = ts.Shell()
	} else {
		err = ts.Start(command)
	}
	assert.NilError(t, err)
	return ts
}

func TestShellOnATerminal(t *testing.T) {
	ts := terminalOf(t, start(t), "")
	ts.expect(t, "/ # ")
	ts.input(t, "sh -c 'tty; stty size; echo $TERM; read a; trap \"stty size; exit\" WINCH; echo got $a; while :; do sleep 0.01; done'\r")
	ts.expect(t, "/dev/pts/")
	ts.expect(t, "30 100\r\nxterm\r\n")
	ts.input(t, "typed\r") // to the program, not to the editor
	ts.expect(t, "got typed\r\n")
	assert.NilError(t, ts.WindowChange(40, 120))
	ts.expect(t, "40 120\r\n/ # ") // the editor has the keys again
	ts.input(t, "sh -c 'echo up; exec sleep 1000'\r")
	ts.expect(t, "up\r\n")
	ts.input(t, "\x03") // ^C
	ts.expect(t, "[killed by SIGINT]\r\n/ # ")
	ts.input(t, "not this\x03")
	ts.input(t, "help\rexit 5\r")
	ts.expect(t, "sha256sum FILE...\r\n")
	assert.Equal(t, status(t, ts.Wait()), 5)
}

func TestExecOnATerminal(t *testing.T) {
	ts := terminalOf(t, start(t), "sh -c 'stty size; exit 6'")
	assert.Equal(t, status(t, ts.Wait()), 6)
	assert.Equal(t, ts.String(), "30 100\r\n")
}

func TestProcessesDieWithTheTerminal(t *testing.T) {
	ts := terminalOf(t, start(t), "sh -c 'echo pid $$.; exec sleep 1000'")
	ts.expect(t, ".")
	var pid int
	_, err := fmt.Sscanf(ts.String(), "pid %d.", &pid)
	assert.NilError(t, err)
	assert.NilError(t, ts.Close())
	gone(t, []int{pid})
}

func (p *peer) scp(t *testing.T) goscp.Client {
	t.Helper()
	c, err := goscp.NewClientBySSH(p.client)
	assert.NilError(t, err)
	return c
}

func TestSCPBothWays(t *testing.T) {
	p, dir := start(t), t.TempDir()
	data := make([]byte, 300_000)
	rand.Read(data)
	name := filepath.Join(dir, "a file")
	c := p.scp(t)
	assert.NilError(t, c.Copy(t.Context(), bytes.NewReader(data), name, "0751", int64(len(data))))
	got, err := os.ReadFile(name)
	assert.NilError(t, err)
	assert.Check(t, bytes.Equal(got, data))
	info, err := os.Stat(name)
	assert.NilError(t, err)
	assert.Equal(t, info.Mode(), os.FileMode(0o751))

	var back bytes.Buffer
	client := p.scp(t)
	assert.NilError(t, client.CopyFromRemotePassThru(t.Context(), &back, name, nil))
	assert.Check(t, bytes.Equal(back.Bytes(), data))
}
