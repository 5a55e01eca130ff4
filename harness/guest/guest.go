// Package guest is the host's end of a running guest: it introduces itself on the control port, logs in
// over SSH, pushes files, runs commands and carries the agent's records.
//
// It owns the connections that it is given and the keys of one guest. It does not own QEMU, which made the
// connections (harness/qemu), nor what the records mean (results). The guest is not trusted: whatever
// comes from it is bounded, and every wait for it ends with a context.
package guest

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nestbed/nestbed/images/control"
)

// Conns are a guest's two connections, as QEMU's virtio-serial ports give them.
type Conns struct {
	Control net.Conn // control.PortControl
	SSH     net.Conn // control.PortSSH
}

// Phase is how far a guest came on its way to serving SSH.
type Phase string

// The phases of Connect, named after what is waited for in each.
const (
	PhaseReady   Phase = "ready"   // the kernel boots: init has not said a word
	PhaseServing Phase = "serving" // init runs and has the host's answer
	PhaseSSH     Phase = "ssh"     // the SSH handshake
)

// BootError says that a guest did not come as far as serving SSH: it fell silent, or its connections
// ended. It is the kernel's fault as long as other kernels reach that point on the same machine.
type BootError struct {
	Phase    Phase    // what it was waited for
	Problems []string // what init itself complained about
	Err      error    // why the wait ended: the context's error, io.EOF
}

func (e *BootError) Error() string {
	what := map[Phase]string{
		PhaseReady:   "the guest's init never said that it runs",
		PhaseServing: "the guest's init runs but does not serve SSH",
		PhaseSSH:     "the SSH handshake with the guest did not end",
	}[e.Phase]
	for _, p := range e.Problems {
		what += "; init: " + p
	}
	return fmt.Sprintf("boot: %s: %v", what, e.Err)
}

func (e *BootError) Unwrap() error { return e.Err }

// ProtocolError says that a guest talks nonsense on its control port or to our SSH client.
type ProtocolError struct {
	Op  string
	Err error
}

func (e *ProtocolError) Error() string { return fmt.Sprintf("guest protocol: %s: %v", e.Op, e.Err) }
func (e *ProtocolError) Unwrap() error { return e.Err }

// maxProblems bounds what is kept of init's complaints.
const maxProblems = 20

// Guest is a guest that serves SSH. Its methods may be used from several goroutines.
type Guest struct {
	conns   Conns
	ready   control.Ready
	client  *ssh.Client
	config  *ssh.ClientConfig
	login   ed25519.PrivateKey // the client key
	hostKey ssh.PublicKey

	closing context.Context // ends with Close
	shut    context.CancelFunc
	tasks   sync.WaitGroup

	mu       sync.Mutex
	problems []string
}

// Connect waits until init is ready, welcomes it with the time, a seed and fresh keys, and logs in. It
// owns the connections from here on: it closes them when it fails, Close does otherwise. The errors are a
// *BootError, a *ProtocolError or one of this host.
func Connect(ctx context.Context, conns Conns) (*Guest, error) {
	g := &Guest{conns: conns}
	g.closing, g.shut = context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		_ = conns.Control.SetDeadline(past)
		_ = conns.SSH.SetDeadline(past)
	})
	err := g.connect(ctx)
	if !stop() && err == nil {
		err = g.bootError(PhaseSSH, ctx.Err())
	}
	if err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Guest) connect(ctx context.Context) error {
	// The errors of a connection whose deadline ctx has set speak of i/o timeouts; ctx knows better.
	boot := func(phase Phase, err error) error {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return g.bootError(phase, err)
	}
	lines := bufio.NewReaderSize(g.conns.Control, control.MaxLine)
	if err := readLine(lines, &g.ready); errors.As(err, new(*ProtocolError)) {
		return err
	} else if err != nil {
		return boot(PhaseReady, err)
	}
	if err := checkReady(g.ready); err != nil {
		return &ProtocolError{Op: "ready", Err: err}
	}
	welcome, err := g.keys()
	if err != nil {
		return err
	}
	if _, err := g.conns.Control.Write(append(welcome, '\n')); err != nil {
		return boot(PhaseServing, err)
	}
	for serving := false; !serving; {
		n, err := g.notice(lines)
		if errors.As(err, new(*ProtocolError)) {
			return err
		} else if err != nil {
			return boot(PhaseServing, err)
		}
		serving = n.Serving
	}
	conn, channels, requests, err := ssh.NewClientConn(g.conns.SSH, "guest", g.config)
	if op := new(net.OpError); err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) && !errors.As(err, &op) {
		return &ProtocolError{Op: "ssh handshake", Err: err}
	} else if err != nil {
		return boot(PhaseSSH, err)
	}
	g.client = ssh.NewClient(conn, channels, requests)
	g.tasks.Go(func() {
		for {
			if _, err := g.notice(lines); err != nil {
				return // the connection ends, or the rest is not ours to understand
			}
		}
	})
	return nil
}

// keys makes the guest's keys and the welcome that carries its part of them.
func (g *Guest) keys() ([]byte, error) {
	hostPublic, hostPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	clientPublic, clientPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(hostPrivate, "")
	if err != nil {
		return nil, err
	}
	hostKey, err := ssh.NewPublicKey(hostPublic)
	if err != nil {
		return nil, err
	}
	clientKey, err := ssh.NewPublicKey(clientPublic)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(clientPrivate)
	if err != nil {
		return nil, err
	}
	g.login, g.hostKey = clientPrivate, hostKey
	g.config = &ssh.ClientConfig{
		// The port is private to this process and the guest: the cheapest algorithms of a TCG guest.
		Config:            ssh.Config{KeyExchanges: []string{ssh.KeyExchangeCurve25519}, Ciphers: []string{ssh.CipherChaCha20Poly1305}},
		User:              "root",
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   ssh.FixedHostKey(hostKey),
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	}
	seed := make([]byte, 64)
	rand.Read(seed) // never fails
	return json.Marshal(control.Welcome{
		Version: control.Version, Time: time.Now().UnixNano(), Seed: seed,
		HostKey: pem.EncodeToMemory(block), ClientKey: string(ssh.MarshalAuthorizedKey(clientKey)),
	})
}

func checkReady(r control.Ready) error {
	switch {
	case r.Version != control.Version:
		return fmt.Errorf("version %d, this nestbed speaks %d", r.Version, control.Version)
	case r.Kernel == "" || len(r.Kernel) > 64: // utsname's limit
		return fmt.Errorf("kernel release of %d bytes", len(r.Kernel))
	case math.IsNaN(r.Uptime) || r.Uptime < 0 || r.Uptime > 1e6:
		return fmt.Errorf("uptime %g s", r.Uptime)
	}
	return nil
}

// readLine reads one line of the control protocol.
func readLine(r *bufio.Reader, v any) error {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return &ProtocolError{Op: "control port", Err: fmt.Errorf("line of more than %d bytes", control.MaxLine)}
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		return &ProtocolError{Op: "control port", Err: err}
	}
	return nil
}

// notice reads one notice and keeps its problem.
func (g *Guest) notice(r *bufio.Reader) (control.Notice, error) {
	var n control.Notice
	if err := readLine(r, &n); err != nil {
		return n, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n.Problem != "" && len(g.problems) < maxProblems {
		g.problems = append(g.problems, n.Problem)
	}
	return n, nil
}

func (g *Guest) bootError(phase Phase, err error) error {
	return &BootError{Phase: phase, Problems: g.Problems(), Err: err}
}

// Kernel is the guest's own word on its release (uname -r).
func (g *Guest) Kernel() string { return g.ready.Kernel }

// Uptime is how long the kernel had run when init was ready: a measure of how fast this guest is.
func (g *Guest) Uptime() time.Duration { return time.Duration(g.ready.Uptime * float64(time.Second)) }

// Problems is what init could not do, in its own words.
func (g *Guest) Problems() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.problems...)
}

// Close ends the connections. Whatever is in progress ends with an error; the guest kills what ran there.
func (g *Guest) Close() error {
	g.shut()
	if g.client != nil {
		_ = g.client.Close() // closes conns.SSH; on a guest that hangs this does not wait for it
	}
	err := errors.Join(ignoreClosed(g.conns.SSH.Close()), ignoreClosed(g.conns.Control.Close()))
	g.tasks.Wait()
	if g.client != nil {
		_ = g.client.Wait() // its reader has seen the end of the connection
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// do runs one blocking step of SSH. When ctx ends first the step is left behind: it ends with the
// connection at the latest, which Close waits for, and what it still achieved is given to undo.
func do[T any](ctx context.Context, g *Guest, step func() (T, error), undo func(T)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome)
	g.tasks.Go(func() {
		v, err := step()
		select {
		case done <- outcome{v, err}:
		case <-ctx.Done():
			if err == nil {
				undo(v)
			}
		}
	})
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}
