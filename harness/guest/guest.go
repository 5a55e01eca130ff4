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
	"io/fs"
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

// The phases of Await, Prepare and Welcome, named after what is waited for in each.
const (
	PhaseReady   Phase = "ready"   // the kernel boots: init has not said a word
	PhasePrepare Phase = "prepare" // init does what Prepare asks for
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
		PhasePrepare: "the guest did not come to an end with its preparation",
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

// Waiting is a guest whose init runs and waits for the host's word: it has no key and serves nothing yet. A
// guest is saved and restored in this state.
type Waiting struct {
	conns Conns
	ready control.Ready
	lines *bufio.Reader
}

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

// Await waits until the init of a guest that boots is ready. It owns the connections from here on: it closes
// them when it fails, the Waiting's methods and Guest.Close do otherwise. The errors are a *BootError, a *ProtocolError
// or one of this host.
func Await(ctx context.Context, conns Conns) (*Waiting, error) {
	w := &Waiting{conns: conns, lines: bufio.NewReaderSize(conns.Control, control.MaxLine)}
	err := w.interruptible(ctx, PhaseReady, func() error {
		if err := readLine(w.lines, &w.ready); errors.As(err, new(*ProtocolError)) {
			return err
		} else if err != nil {
			return &BootError{Phase: PhaseReady, Err: err}
		}
		if err := checkReady(w.ready); err != nil {
			return &ProtocolError{Op: "ready", Err: err}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// Resume takes up a guest that has been restored: it said ready before it was saved. It owns the connections as
// Await does.
func Resume(conns Conns, ready control.Ready) *Waiting {
	return &Waiting{conns: conns, ready: ready, lines: bufio.NewReaderSize(conns.Control, control.MaxLine)}
}

// Ready is what the guest said when its init was ready.
func (w *Waiting) Ready() control.Ready { return w.ready }

// interruptible runs steps on the connections that ctx ends. When they fail the connections are closed.
func (w *Waiting) interruptible(ctx context.Context, phase Phase, steps func() error) error {
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		_ = w.conns.Control.SetDeadline(past)
		_ = w.conns.SSH.SetDeadline(past)
	})
	err := steps()
	if boot := new(BootError); !stop() && (err == nil || errors.As(err, &boot)) {
		// The errors of a connection whose deadline ctx has set speak of i/o timeouts; ctx knows better.
		if boot.Phase != "" {
			phase = boot.Phase
		}
		err = &BootError{Phase: phase, Problems: boot.Problems, Err: ctx.Err()}
	}
	if err != nil {
		_, _ = w.conns.Control.Close(), w.conns.SSH.Close()
	}
	return err
}

// File is a file for a guest.
type File struct {
	Name string // absolute, in the guest
	Mode fs.FileMode
	Data []byte
}

// Prepare puts files into the guest and runs a command there, before it is saved. What goes wrong with these in
// the guest is a *PrepareError, after which the guest still waits; other errors are as of Await.
func (w *Waiting) Prepare(ctx context.Context, files []File, command []string) error {
	p := control.Prepare{Command: command}
	for _, f := range files {
		p.Files = append(p.Files, control.File{Name: f.Name, Mode: uint32(f.Mode.Perm()), Size: int64(len(f.Data))})
	}
	line, err := json.Marshal(control.Word{Prepare: &p})
	if err != nil {
		return err
	}
	if len(line) >= control.MaxLine {
		return fmt.Errorf("prepare the guest: %d bytes of words", len(line))
	}
	var answer control.Notice
	err = w.interruptible(ctx, PhasePrepare, func() error {
		if _, err := w.conns.Control.Write(append(line, '\n')); err != nil {
			return &BootError{Phase: PhasePrepare, Err: err}
		}
		for _, f := range files {
			if _, err := w.conns.Control.Write(f.Data); err != nil {
				return &BootError{Phase: PhasePrepare, Err: err}
			}
		}
		if err := readLine(w.lines, &answer); errors.As(err, new(*ProtocolError)) {
			return err
		} else if err != nil {
			return &BootError{Phase: PhasePrepare, Err: err}
		}
		if !answer.Prepared {
			return &ProtocolError{Op: "prepare", Err: errors.New("another word in the place of the answer")}
		}
		return nil
	})
	if err == nil && answer.Problem != "" {
		return &PrepareError{Problem: answer.Problem}
	}
	return err
}

// PrepareError is what went wrong in the guest while it was prepared, in its own words.
type PrepareError struct{ Problem string }

func (e *PrepareError) Error() string { return "prepare the guest: " + e.Problem }

// Close gives the guest up.
func (w *Waiting) Close() error {
	return errors.Join(ignoreClosed(w.conns.SSH.Close()), ignoreClosed(w.conns.Control.Close()))
}

// Welcome gives the guest the time, a seed and fresh keys, and logs in. The errors are as of Await; the
// connections are the Guest's.
func (w *Waiting) Welcome(ctx context.Context) (*Guest, error) {
	g := &Guest{conns: w.conns, ready: w.ready}
	g.closing, g.shut = context.WithCancel(context.Background())
	if err := w.interruptible(ctx, PhaseSSH, func() error { return g.connect(w.lines) }); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Guest) connect(lines *bufio.Reader) error {
	welcome, err := g.keys()
	if err != nil {
		return err
	}
	if _, err := g.conns.Control.Write(append(welcome, '\n')); err != nil {
		return g.bootError(PhaseServing, err)
	}
	for serving := false; !serving; {
		n, err := g.notice(lines)
		if errors.As(err, new(*ProtocolError)) {
			return err
		} else if err != nil {
			return g.bootError(PhaseServing, err)
		}
		serving = n.Serving
	}
	conn, channels, requests, err := ssh.NewClientConn(g.conns.SSH, "guest", g.config)
	if op := new(net.OpError); err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &op) {
		return &ProtocolError{Op: "ssh handshake", Err: err}
	} else if err != nil {
		return g.bootError(PhaseSSH, err)
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
	return json.Marshal(control.Word{Welcome: &control.Welcome{
		Version: control.Version, Time: time.Now().UnixNano(), Seed: seed,
		HostKey: pem.EncodeToMemory(block), ClientKey: string(ssh.MarshalAuthorizedKey(clientKey)),
	}})
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
