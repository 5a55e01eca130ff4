package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/results/record"
)

// program is a user's program that runs in a session of its own, with all that it starts.
//
// Whatever it leaves behind is killed before the closing invariant is taken: its process group at once, and
// what has left that (a daemon) as an orphan, because the agent is the subreaper of all below it.
type program struct {
	t       *T
	cmd     *exec.Cmd
	others  []int         // children of the agent that were there before
	ended   chan struct{} // closed when the program itself has been reaped
	output  *output
	read    chan struct{} // closed when nobody has its terminal open any more
	started time.Time
	took    time.Duration
	lost    error  // KVM's events overflowed meanwhile
	end     func() // killAll, once
}

// startProgram starts argv on a terminal, so that a C program writes its lines one by one: those on a pipe
// would die with it in stdio's buffer, when the kernel dies.
func (t *T) startProgram(argv, environ []string) *program {
	t.mustHost("become the subreaper", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	t.atEnd("be subreaper no more", func() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	master, slave, err := openTerminal()
	t.mustHost("start the program", err)
	p := &program{
		t: t, others: children(), ended: make(chan struct{}), output: &output{t: t}, read: make(chan struct{}), started: time.Now(),
		cmd: &exec.Cmd{
			Path: argv[0], Args: argv, Env: environ, Dir: "/", Stdout: slave, Stderr: slave,
			SysProcAttr: &syscall.SysProcAttr{Setsid: true},
		},
	}
	err = p.cmd.Start()
	slave.Close()
	if err != nil {
		master.Close()
		t.Broken("start the program: " + err.Error())
	}
	p.end = sync.OnceFunc(p.killAll)
	t.atEnd("end the program", func() error { p.end(); return nil })
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // its error is the status in other words
		p.took = time.Since(p.started)
	}()
	go func() {
		defer close(p.read)
		defer master.Close()
		buf := make([]byte, maxPiece)
		for {
			n, err := master.Read(buf)
			p.output.write(buf[:n])
			if err != nil { // EIO: the last one has closed it
				return
			}
		}
	}()
	return p
}

// wait waits for the program's own end, and says whether it came in time.
func (p *program) wait(limit time.Duration) bool {
	ctx, cancel := p.t.patience(limit)
	defer cancel()
	if p.until(ctx.Done(), p.ended) {
		return true
	}
	p.t.Log(fmt.Sprintf("the program has not ended within %v\n%s", limit, inKernel(p.cmd.Process.Pid)))
	return false
}

// until waits for something, or for the end of patience, and takes in KVM's events meanwhile: nobody else
// does, and what overflows is lost. It says whether the thing came.
func (p *program) until(over <-chan struct{}, thing <-chan struct{}) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-thing:
			return true
		case <-over:
			return false
		case <-tick.C:
			p.lost = errors.Join(p.lost, p.t.events.pump())
		}
	}
}

// killAll kills the program and all that it has started and returns when nothing is left of them. A process
// that the kernel does not let die is shown, and waited for: the scenario's time runs out over it.
func (p *program) killAll() {
	p.kill(-p.cmd.Process.Pid)
	p.gone(p.cmd.Process.Pid, p.ended)
	for {
		// The group once more: a member that was just being forked.
		p.kill(-p.cmd.Process.Pid)
		left := slices.DeleteFunc(children(), func(pid int) bool { return slices.Contains(p.others, pid) })
		if len(left) == 0 {
			break
		}
		for _, pid := range left {
			p.t.Log(fmt.Sprintf("left behind by the program, killed: %d %s", pid, comm(pid)))
			p.kill(pid)
			reaped := make(chan struct{})
			go func() {
				defer close(reaped)
				for {
					if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
						return
					}
				}
			}()
			p.gone(pid, reaped)
		}
	}
	p.until(nil, p.read)
	p.output.close()
}

// kill sends SIGKILL to a process or, with a negative number, to a group. There may be none any more.
func (p *program) kill(pid int) {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
		p.t.stream.broken("kill the program: " + err.Error())
	}
}

// gone waits for the end of a killed process.
func (p *program) gone(pid int, end <-chan struct{}) {
	ctx, cancel := p.t.patience(dieGrace / 2)
	defer cancel()
	if p.until(ctx.Done(), end) {
		return
	}
	stack := inKernel(pid)
	p.t.Log(fmt.Sprintf("process %d does not die of SIGKILL\n%s", pid, stack))
	_, frame, _ := strings.Cut(stack, "[<0>] ")
	frame, _, _ = strings.Cut(frame, "+")
	p.t.exit(fmt.Sprintf("%s does not die of SIGKILL, the kernel holds it in %s", comm(pid), frame))
	p.until(nil, end)
}

// how says how the program ended, once it has.
func (p *program) how() string {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return p.cmd.ProcessState.String()
	case status.Signaled():
		return "killed by " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// openTerminal gives the two ends of a terminal that passes everything on as it is.
func openTerminal() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var n uint32
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return fmt.Errorf("TIOCSPTLCK: %w", err)
		}
		n, err = unix.IoctlGetUint32(fd, unix.TIOCGPTN)
		return err
	})
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	}
	if err == nil {
		err = control(slave, func(fd int) error {
			mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
			if err != nil {
				return err
			}
			mode.Oflag &^= unix.OPOST
			mode.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
			return unix.IoctlSetTermios(fd, unix.TCSETS, mode)
		})
	}
	if err != nil {
		err = fmt.Errorf("open a terminal: %w", errors.Join(err, master.Close()))
		if slave != nil {
			slave.Close()
		}
		return nil, nil, err
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

// children lists this process's children, adopted ones and zombies included.
func children() []int {
	var pids []int
	self := strconv.Itoa(os.Getpid())
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended meanwhile
		}
		// pid (comm) state ppid: comm may hold anything, so count from its end.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) > 1 && fields[1] == self {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func comm(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// inKernel shows where a process's threads are.
func inKernel(pid int) string {
	var b strings.Builder
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid)) // the pattern is well formed
	for _, task := range tasks {
		status, _ := os.ReadFile(filepath.Join(task, "status")) // it may end any time
		stack, _ := os.ReadFile(filepath.Join(task, "stack"))
		state := ""
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, "State:"); ok {
				state = strings.TrimSpace(value)
			}
		}
		fmt.Fprintf(&b, "thread %s, %s\n%s", filepath.Base(task), state, stack)
	}
	return b.String()
}

// What is kept of a program's output. The beginning is written down as it comes, so that it survives the
// kernel's death; of what goes beyond, the end.
const (
	maxOutput = 256 << 10
	maxTail   = 16 << 10
	maxPiece  = 2 << 10 // becomes three times as long if it is no text
	fewPieces = 4000    // written down as they come; later ones are collected up to maxPiece
)

// output takes down what a program writes.
type output struct {
	t      *T
	held   []byte // not yet written down
	kept   int    // bytes written down
	pieces int
	tail   []byte // the end of what is beyond maxOutput
	beyond int
}

func (o *output) write(b []byte) {
	if room := maxOutput - o.kept - len(o.held); len(b) > room {
		o.tail = append(o.tail, b[room:]...)
		o.tail = o.tail[max(0, len(o.tail)-maxTail):]
		o.beyond += len(b) - room
		b = b[:room]
	}
	o.held = append(o.held, b...)
	for len(o.held) > 0 {
		if o.pieces >= fewPieces && len(o.held) < maxPiece {
			return
		}
		n := whole(o.held[:min(len(o.held), maxPiece)])
		if n == 0 {
			return // the rest of the character comes
		}
		o.piece(n)
	}
}

// piece writes down the first n bytes of what is held.
func (o *output) piece(n int) {
	text := strings.ToValidUTF8(string(o.held[:n]), "\uFFFD")
	o.t.stream.write(record.Record{Kind: record.KindLog, Log: &record.Log{Text: text, From: record.FromProgram}})
	o.held = append([]byte(nil), o.held[n:]...)
	o.kept += n
	o.pieces++
}

// close writes down what is left when the output has ended.
func (o *output) close() {
	for len(o.held) > 0 {
		o.piece(min(len(o.held), maxPiece))
	}
	if o.beyond == 0 {
		return
	}
	o.held = o.tail
	if dropped := o.beyond - len(o.tail); dropped > 0 {
		o.held = append(fmt.Appendf(nil, "\n[%d bytes left out here]\n", dropped), o.tail...)
	}
	for len(o.held) > 0 {
		o.piece(min(len(o.held), maxPiece))
	}
}

// whole is how much of b does not end within a character.
func whole(b []byte) int {
	for i := 1; i <= min(len(b), utf8.UTFMax-1); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}
