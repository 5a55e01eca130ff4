// Package qemu runs one QEMU process, as os/exec runs a command: Start, Wait, Close.
//
// It owns the process, the sockets that it inherits, and the files that QEMU and its monitor write in the
// cell's folder; no QEMU outlives the harness, whatever ends it. It also finds QEMU and asks it what it can do.
// What a machine consists of is package machine's; what the guest says over a channel is package guest's.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/qmp"
)

// The files that Start writes in Config.Dir, beside those that package machine names.
const (
	ArgsFile   = "qemu.args" // the program and its arguments as run, one a line
	ScriptFile = "qemu.sh"   // boots the same machine by hand
	QMPLog     = "qmp.jsonl" // both directions of the monitor
)

const (
	// startTimeout bounds the time to QMP's greeting, which is 24 ms on an idle machine.
	startTimeout = 30 * time.Second
	// quitTimeout is how long QEMU may take to leave after it was asked to.
	quitTimeout = 3 * time.Second
	// maxFile bounds each log that the guest can make QEMU write. What a vCPU writes beyond it is dropped and
	// QEMU goes on, because vCPU threads block signals; QEMU's main thread would be ended by SIGXFSZ.
	maxFile = 64 << 20
	// drainTimeout bounds the wait for the ends of pipe and socket once the process is gone.
	drainTimeout = 3 * time.Second
)

// Config says what to start.
type Config struct {
	Binary  string // a path or a name in PATH; empty: DefaultBinary
	Machine machine.Machine
	Dir     string // the cell's folder; must exist
}

// StartError says that QEMU did not come up: its arguments, its files or the host are at fault, never the kernel.
type StartError struct {
	Binary string
	Stderr string // the end of what QEMU printed
	Err    error
}

func (e *StartError) Error() string {
	msg := fmt.Sprintf("start %s: %v", filepath.Base(e.Binary), e.Err)
	if e.Stderr != "" {
		msg += ": " + e.Stderr
	}
	return msg
}

func (e *StartError) Unwrap() error { return e.Err }

// Process is a QEMU that runs or has run.
type Process struct {
	path string
	pid  int
	kill func() error

	qmp    *qmp.Monitor
	conns  map[string]net.Conn // by channel
	log    *os.File            // of qmp, or nil
	stderr *tail

	done     chan struct{} // closed when the process is reaped and its last event is known
	panicked chan struct{} // closed by GUEST_PANICKED

	mu    sync.Mutex
	state ExitState
	cpu   time.Duration

	starved atomic.Int64 // what Starved last gave

	stopping sync.Once
	closing  sync.Once
	closeErr error
	release  func() bool // forgets the context that ends the process
}

// Start starts QEMU in cfg.Dir and returns when its monitor takes commands; the guest then runs already.
//
// As with exec.CommandContext, ctx is for the life of the process and not only for the start: when it is
// done QEMU is ended. The caller calls Close in any case. If QEMU does not come up the error is a *StartError
// with what it printed, or a *MissingError.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	if err := cfg.Machine.Validate(); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	path, err := lookup(cfg.Binary)
	if err != nil {
		return nil, err
	}
	args := cfg.Machine.Args()
	if err := writeFile(filepath.Join(cfg.Dir, ArgsFile), strings.Join(append([]string{path}, args...), "\n")+"\n", 0o644); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	if err := writeFile(filepath.Join(cfg.Dir, ScriptFile), cfg.Machine.Script(path), 0o755); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	log, err := os.Create(filepath.Join(cfg.Dir, QMPLog))
	if err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	return spawn(ctx, path, args, cfg.Dir, cfg.Machine.FDs(), log)
}

// spawn starts QEMU with one inherited socket per name, the first of which is its monitor. It owns log.
func spawn(ctx context.Context, path string, args []string, dir string, names []string, log *os.File) (*Process, error) {
	p := &Process{
		path:     path,
		conns:    make(map[string]net.Conn),
		log:      log,
		stderr:   &tail{},
		done:     make(chan struct{}),
		panicked: make(chan struct{}),
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Stderr = p.stderr
	cmd.WaitDelay = drainTimeout
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // ^C on the terminal is for the harness, which then ends its guests in order
	}
	var monitor *net.UnixConn
	for i, name := range names {
		ours, theirs, err := socketpair(name)
		if err != nil {
			closeFiles(cmd.ExtraFiles)
			return nil, errors.Join(&StartError{Binary: path, Err: err}, p.closeFDs())
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
		p.conns[name] = ours
		if i == 0 {
			monitor = ours
		}
	}
	// The monitor owns its socket.
	delete(p.conns, names[0])

	// Pdeathsig is sent when the thread ends that forked, not the process: one goroutine keeps its thread
	// from the fork until the process is reaped.
	started := make(chan error)
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		closeFiles(cmd.ExtraFiles)
		started <- err
		if err == nil {
			p.reap(cmd.Wait(), cmd.ProcessState)
		}
	}()
	if err := <-started; err != nil {
		<-reaped
		return nil, errors.Join(&StartError{Binary: path, Err: err}, monitor.Close(), p.closeFDs())
	}
	p.pid = cmd.Process.Pid
	p.kill = cmd.Process.Kill
	// An abort of QEMU must not leave the guest's memory as a core file. These fail only when it has ended.
	_ = unix.Prlimit(p.pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
	_ = unix.Prlimit(p.pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: maxFile, Max: maxFile}, nil)

	opts := qmp.Options{}
	if log != nil {
		opts.Log = log
	}
	p.qmp = qmp.New(monitor, opts)
	watched := make(chan struct{})
	watching, unwatch := context.WithCancel(context.Background())
	events := p.qmp.Subscribe(watching)
	go func() {
		defer close(watched)
		p.watch(events)
	}()
	go func() {
		<-reaped
		// QEMU's end of the socket is closed, so the monitor drains and ends by itself, unless a stranger
		// holds a duplicate.
		select {
		case <-watched:
		case <-time.After(drainTimeout):
		}
		unwatch()
		<-watched
		close(p.done)
	}()

	p.release = context.AfterFunc(ctx, p.stop)
	starting, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no QMP greeting within %v", startTimeout))
	defer cancel()
	if err := p.qmp.Handshake(starting); err != nil {
		if errors.Is(err, qmp.ErrClosed) {
			// It has gone, or is about to: its exit says more than the broken connection.
			select {
			case <-p.done:
				err = p.ExitState().err()
			case <-time.After(drainTimeout):
			}
		}
		err := &StartError{Binary: path, Err: err}
		closeErr := p.Close()
		err.Stderr = p.Stderr()
		return nil, errors.Join(err, closeErr)
	}
	return p, nil
}

// reap notes how the process ended.
func (p *Process) reap(err error, ps *os.ProcessState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Ended = true
	p.state.Code = -1
	if ps == nil {
		p.state.Signal = fmt.Sprintf("wait: %v", err)
		return
	}
	p.state.Code, p.cpu = ps.ExitCode(), ps.UserTime()+ps.SystemTime()
	if ws, ok := ps.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		p.state.Signal = unix.SignalName(ws.Signal())
	}
}

// watch notes what QEMU says about the guest's end.
func (p *Process) watch(events <-chan qmp.Event) {
	for e := range events {
		p.mu.Lock()
		switch e.Event {
		case "SHUTDOWN":
			p.state.Shutdown, _ = e.Data["reason"].(string)
		case "GUEST_PANICKED":
			if !p.state.Panicked {
				p.state.Panicked = true
				close(p.panicked)
			}
		}
		p.mu.Unlock()
	}
}

// QMP is the process's monitor; Close ends it.
func (p *Process) QMP() *qmp.Monitor { return p.qmp }

// Conn is the host's end of a channel of the machine, or nil if it has no such channel. Close closes it;
// the caller may do so earlier.
func (p *Process) Conn(channel string) net.Conn {
	if conn, ok := p.conns[channel]; ok {
		return conn
	}
	return nil
}

// PID of the process, also after its end.
func (p *Process) PID() int { return p.pid }

// CPU is what QEMU took, once it has ended: its own time, its vCPUs', and the host kernel's for them.
func (p *Process) CPU() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cpu
}

// Done is closed when QEMU has ended, for whatever reason, and ExitState is final.
func (p *Process) Done() <-chan struct{} { return p.done }

// Panicked is closed when the guest's kernel has told pvpanic that it panics. The guest still runs then,
// and prints.
func (p *Process) Panicked() <-chan struct{} { return p.panicked }

// Stderr is the end of what QEMU printed, at most 16 KiB.
func (p *Process) Stderr() string { return p.stderr.String() }

// Wait waits until QEMU has ended. The error is nil for exit status 0, else an *ExitError.
func (p *Process) Wait() error {
	<-p.done
	state := p.ExitState()
	if state.Code == 0 {
		return nil
	}
	return &ExitError{ExitState: state, Stderr: p.Stderr()}
}

// Close ends QEMU if it still runs, first by asking it, and releases everything. It may be called twice.
func (p *Process) Close() error {
	p.closing.Do(func() {
		p.release()
		p.stop()
		<-p.done
		p.closeErr = errors.Join(p.qmp.Disconnect(), p.closeFDs())
	})
	return p.closeErr
}

// stop asks QEMU to quit and kills it if it does not. It returns when QEMU has ended.
func (p *Process) stop() {
	p.stopping.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), quitTimeout)
		defer cancel()
		// A QEMU that cannot be asked is killed. When the connection is gone, it is ending already.
		if err := p.qmp.Do(ctx, "quit", nil, nil); err != nil && !errors.Is(err, qmp.ErrClosed) {
			cancel()
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			_ = p.kill() // fails only when it has just ended
		}
	})
	<-p.done
}

func (p *Process) closeFDs() error {
	var errs []error
	for _, c := range p.conns {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if p.log != nil {
		errs = append(errs, p.log.Close())
	}
	return errors.Join(errs...)
}

// socketpair returns a connected pair: a conn of ours and a file for QEMU to inherit.
func socketpair(name string) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair for %s: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer ours.Close() // FileConn duplicates it
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("socketpair for %s: %w", name, err), theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // only sockets that nothing was written to
	}
}

// writeFile replaces a file in one step.
func writeFile(path, text string, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
