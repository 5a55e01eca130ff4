package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// drain is how long output may still come after a process and its group are dead. What holds the pipe
// then is a process that the kernel does not let die.
const drain = 2 * time.Second

// The signals of RFC 4254 section 6.10 that mean something here.
var signals = map[string]syscall.Signal{
	"ABRT": unix.SIGABRT, "ALRM": unix.SIGALRM, "FPE": unix.SIGFPE, "HUP": unix.SIGHUP, "ILL": unix.SIGILL,
	"INT": unix.SIGINT, "KILL": unix.SIGKILL, "PIPE": unix.SIGPIPE, "QUIT": unix.SIGQUIT, "SEGV": unix.SIGSEGV,
	"TERM": unix.SIGTERM, "USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
}

func signalName(sig syscall.Signal) string {
	for name, s := range signals {
		if s == sig {
			return name
		}
	}
	return strings.TrimPrefix(unix.SignalName(sig), "SIG")
}

// process is a program in a session (setsid) of its own.
type process struct{ pid int }

// signal goes to the whole process group, as a terminal's ^C does.
func (p *process) signal(name string) error { return unix.Kill(-p.pid, signals[name]) }

// kill ends the process, its group, and what left the group but not the session.
func (p *process) kill() {
	_ = unix.Kill(-p.pid, unix.SIGKILL) // ESRCH: nothing is left of it
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it ended meanwhile
		}
		// pid (comm) state ppid pgrp session: comm may hold anything, so count from its end.
		_, rest, _ := strings.Cut(string(data[max(0, strings.LastIndexByte(string(data), ')')):]), ") ")
		fields := strings.Fields(rest)
		if len(fields) > 3 && fields[3] == strconv.Itoa(p.pid) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
}

// command prepares a program of the guest.
func (se *session) command(argv []string) (*exec.Cmd, error) {
	name, err := se.lookup(argv[0])
	if err != nil {
		return nil, err
	}
	return &exec.Cmd{Path: name, Args: argv, Dir: se.dir, Env: se.env, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}, nil
}

// lookup finds a program by the session's PATH, not by the server's own.
func (se *session) lookup(name string) (string, error) {
	if strings.Contains(name, "/") {
		return se.path(name), nil
	}
	for _, kv := range se.env {
		dirs, ok := strings.CutPrefix(kv, "PATH=")
		for dir := range strings.SplitSeq(dirs, ":") {
			full := filepath.Join(dir, name)
			if info, err := os.Stat(full); ok && err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return full, nil
			}
		}
	}
	return "", &os.PathError{Op: "find", Path: name, Err: unix.ENOENT}
}

// failed is the result of a program that could not be started, with the statuses that shells use.
func failed(w io.Writer, err error) result {
	fmt.Fprintln(w, "nestbed:", err)
	if errors.Is(err, unix.ENOENT) {
		return result{status: 127}
	}
	return result{status: 126}
}

// run runs a program on pipes until it ends, or kills it when ctx does.
func (se *session) run(ctx context.Context, argv []string, std streams) result {
	cmd, err := se.command(argv)
	if err != nil {
		return failed(std.err, err)
	}
	var outputs sync.WaitGroup
	var readers []*os.File
	pipe := func(to io.Writer) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		readers = append(readers, r)
		outputs.Go(func() {
			_, _ = io.Copy(to, r) // ends with the pipe, its deadline or the channel
			r.Close()             // a writer that outlives a gone client gets EPIPE
		})
		return w, nil
	}
	stdout, err := pipe(std.out)
	if err != nil {
		return failed(std.err, err)
	}
	defer stdout.Close()
	stderr, err := pipe(std.err)
	if err != nil {
		return failed(std.err, err)
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return failed(std.err, err)
	}
	if err := se.launch(cmd); err != nil {
		stdin.Close()
		return failed(std.err, err)
	}
	stdout.Close()
	stderr.Close()
	go func() { // not waited for: it may sit in a read that only the end of the channel ends
		_, _ = io.Copy(stdin, std.in)
		stdin.Close()
	}()
	r := se.wait(ctx, cmd)
	for _, f := range readers {
		_ = f.SetReadDeadline(time.Now().Add(drain)) // fails on a file that is closed already
	}
	outputs.Wait()
	return r
}

// launch starts a program so that no signal of the client's can fall between its start and its pid.
func (se *session) launch(cmd *exec.Cmd) error {
	se.mu.Lock()
	defer se.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	se.running = &process{pid: cmd.Process.Pid}
	for _, name := range se.early {
		_ = se.running.signal(name) // ESRCH: it has ended
	}
	se.launched = true
	return nil
}

// wait waits for a launched program and kills it, its group and its session when ctx ends; what the
// program leaves behind is killed as well.
func (se *session) wait(ctx context.Context, cmd *exec.Cmd) result {
	p := &process{pid: cmd.Process.Pid}
	stop := context.AfterFunc(ctx, p.kill)
	err := cmd.Wait()
	stop()
	se.mu.Lock()
	se.running = nil
	se.mu.Unlock()
	p.kill()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return result{status: 255}
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return result{signal: signalName(ws.Signal()), core: ws.CoreDump()}
	}
	return result{status: ws.ExitStatus()}
}

// terminal is what pty-req asked for, and its size now.
type terminal struct {
	name string

	mu         sync.Mutex
	cols, rows uint32
	changed    func(cols, rows uint32) // the present user's, may be nil
}

func parseTerminal(payload []byte) (*terminal, error) {
	var req struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	if err := ssh.Unmarshal(payload, &req); err != nil {
		return nil, err
	}
	return &terminal{name: req.Term, cols: req.Columns, rows: req.Rows}, nil
}

func (t *terminal) resize(cols, rows uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cols, t.rows = cols, rows
	if t.changed != nil {
		t.changed(cols, rows)
	}
}

// watch tells f the size now and at every change, until it is replaced; nil ends it.
func (t *terminal) watch(f func(cols, rows uint32)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed = f
	if f != nil {
		f(t.cols, t.rows)
	}
}

// openPTY gives a pseudo terminal's two ends.
func openPTY() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	var n uint32
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		n, err = unix.IoctlGetUint32(fd, unix.TIOCGPTN)
		return err
	})
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(int(n)), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	return master, slave, nil
}

func control(f *os.File, call func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := rc.Control(func(fd uintptr) { err = call(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// runTerminal runs a program on a terminal of its own, fed from keys.
func (se *session) runTerminal(ctx context.Context, argv []string, keys *keys) result {
	cmd, err := se.command(argv)
	if err != nil {
		return failed(crlf{se.ch}, err)
	}
	master, slave, err := openPTY()
	if err != nil {
		return failed(crlf{se.ch}, err)
	}
	defer master.Close()
	defer slave.Close()
	se.term.watch(func(cols, rows uint32) {
		_ = control(master, func(fd int) error {
			return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(cols), Row: uint16(rows)})
		})
	})
	defer se.term.watch(nil)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setctty = true
	if err := se.launch(cmd); err != nil {
		return failed(crlf{se.ch}, err)
	}
	slave.Close()
	var copies sync.WaitGroup
	copies.Go(func() { _, _ = io.Copy(se.ch, master) }) // ends with EIO: the last slave is closed
	typing, stop := context.WithCancel(ctx)
	copies.Go(func() { keys.feed(typing, master) })
	r := se.wait(ctx, cmd)
	stop()
	_ = master.SetDeadline(time.Now().Add(drain))
	copies.Wait()
	return r
}
