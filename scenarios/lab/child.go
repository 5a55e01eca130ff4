package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ChildFunc is what runs in a process of its own. It uses the wrappers of guestagent directly; its error,
// if it gets that far, is the end of the process.
type ChildFunc func(*C) error

// Child names a function that T.Child can start, registered when the program starts.
type Child string

// RegisterChild announces a function. A name twice is a mistake in the program, hence the panic.
func RegisterChild(name string, run ChildFunc) Child {
	if _, twice := registry.children[name]; twice || !nameForm.MatchString(name) {
		panic(fmt.Errorf("child %q: registered twice, or no name", name))
	}
	if registry.children == nil {
		registry.children = map[string]ChildFunc{}
	}
	registry.children[name] = run
	return Child(name)
}

// C is a child's side: its arguments, the descriptors it was given, and its word with the scenario.
type C struct {
	Args  []string
	out   io.Writer
	words chan string
	ctx   context.Context // done when the scenario is gone
}

// FD is the nth descriptor that T.ChildWith passed, from 0. It is the child's to close.
func (c *C) FD(n int) int { return firstPassed + n }

// firstPassed is where os/exec puts the first of ExtraFiles.
const firstPassed = 3

// Say sends one line to the scenario.
func (c *C) Say(line string) error {
	_, err := io.WriteString(c.out, line+"\n")
	return err
}

// Hear waits for the scenario's next line.
func (c *C) Hear() (string, error) {
	select {
	case line := <-c.words:
		return line, nil
	case <-c.ctx.Done():
		return "", errGone
	}
}

// Sleep waits to be killed.
func (c *C) Sleep() error {
	<-c.ctx.Done()
	return nil
}

var errGone = errors.New("the scenario is gone")

// maxUnheard is how many words a child may leave unheard. More are a mistake in the scenario: its words must
// not keep the child from seeing that it is gone.
const maxUnheard = 64

// RunChild is the agent's `child` command. The scenario holds the other end of in; when it is gone, so is
// the child.
func RunChild(name string, args []string, in io.Reader, out io.Writer) error {
	run, ok := registry.children[name]
	if !ok {
		return fmt.Errorf("unknown child %q", name)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	words := make(chan string, maxUnheard)
	go func() {
		for lines := bufio.NewScanner(in); lines.Scan(); {
			select {
			case words <- lines.Text():
			default:
				cancel(errors.New("the scenario says more than the child hears"))
				return
			}
		}
		cancel(errGone)
	}()
	go func() { ended <- run(&C{Args: args, out: out, words: words, ctx: ctx}) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Process is a child that runs.
type Process struct {
	t      *T
	name   Child
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  *bufio.Reader
	stderr bytes.Buffer
	reap   func() // waits until nothing is left of it, once
	reaped bool
}

// Child starts the function in a process of its own. It is killed at the end at the latest.
func (t *T) Child(child Child, args ...string) *Process { return t.ChildWith(child, nil, args...) }

// ChildWith is Child with descriptors that the child inherits, as C.FD(0) and so on. They stay open here too.
func (t *T) ChildWith(child Child, fds []int, args ...string) *Process {
	cmd := exec.CommandContext(t.ctx, t.env.Self, append([]string{"child", string(child)}, args...)...)
	// With WaitDelay, Wait does not outlast the process for a pipe that somebody inherited.
	cmd.WaitDelay = time.Second
	p := &Process{t: t, name: child, cmd: cmd}
	cmd.Stderr = &p.stderr
	for _, fd := range fds {
		// os/exec wants files, and a file closes what it has: it gets a descriptor of its own.
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		t.mustHost("pass a descriptor to a child", err)
		f := os.NewFile(uintptr(dup), "passed to "+string(child))
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	var err error
	p.stdin, err = cmd.StdinPipe() // held open: its end tells the child that we are gone
	t.mustHost("start a child", err)
	stdout, err := cmd.StdoutPipe()
	t.mustHost("start a child", err)
	p.lines = bufio.NewReader(stdout)
	t.mustHost("start a child", cmd.Start())
	p.reap = sync.OnceFunc(func() {
		cmd.Wait() // its error is the status in other words
		p.stdin.Close()
		p.reaped = true
	})
	t.atEnd("kill the child", func() error {
		if p.reaped {
			return nil // and judged
		}
		return p.kill()
	})
	return p
}

// PID is the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Line waits for the child's next line.
func (p *Process) Line() string {
	line, err := p.lines.ReadString('\n')
	if err != nil {
		// A child ends early when the kernel refuses it something, which is a claim that did not hold.
		p.t.must(errors.Join(p.kill(), err))
	}
	return line[:len(line)-1]
}

// Tell sends one line to the child.
func (p *Process) Tell(line string) {
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.must(errors.Join(p.kill(), err))
	}
}

// Ask tells the child something and waits for its answer.
func (p *Process) Ask(line string) string {
	p.Tell(line)
	return p.Line()
}

// Wait waits for the child to end by itself and without an error. The kernel has then closed its files.
func (p *Process) Wait() {
	p.reap()
	if !p.cmd.ProcessState.Success() {
		p.t.must(p.ended())
	}
}

// Kill sends SIGKILL and waits until nothing is left of the process. The kernel has then closed its files.
// A child that ended before, because the kernel refused it something, is a claim that did not hold.
func (p *Process) Kill() { p.t.must(p.kill()) }

// WaitKilled waits for the child to end by SIGKILL, from whomever, as Kill does, and gives the lines that it had
// still said.
func (p *Process) WaitKilled() []string {
	text, err := io.ReadAll(p.lines) // before Wait, which closes it
	p.t.mustHost("read from a child", err)
	p.reap()
	if !p.killed() {
		p.t.must(p.ended())
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func (p *Process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signal() == unix.SIGKILL
}

func (p *Process) kill() error {
	kill := p.cmd.Process.Kill()
	if errors.Is(kill, os.ErrProcessDone) {
		kill = nil // how it ended is in its status
	}
	p.reap()
	if !p.killed() {
		return errors.Join(kill, p.ended())
	}
	return kill
}

// ended says how the child ended when it should not have.
func (p *Process) ended() error {
	return fmt.Errorf("child %s ended by itself (%v): %s", p.name, p.cmd.ProcessState, bytes.TrimSpace(p.stderr.Bytes()))
}

// BlockedIn waits until one of the child's threads is inside a function of the kernel, and reports whether one
// got there.
func (p *Process) BlockedIn(symbol string, limit time.Duration) bool {
	ctx, cancel := p.t.patience(limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		stacks := stacksOf(filepath.Join(p.t.env.Root, "/proc", fmt.Sprint(p.PID())))
		if strings.Contains(stacks, " "+symbol+"+") {
			return true
		}
		select {
		case <-ctx.Done():
			p.t.Log(fmt.Sprintf("child %s is not in %s:\n%s", p.name, symbol, stacks))
			return false
		case <-tick.C:
		}
	}
}

// stacksOf is where a process's threads are inside the kernel, as far as it can be read.
func stacksOf(proc string) string {
	var b strings.Builder
	tasks, err := os.ReadDir(filepath.Join(proc, "task"))
	if err != nil {
		return err.Error()
	}
	for _, task := range tasks {
		stack, err := os.ReadFile(filepath.Join(proc, "task", task.Name(), "stack"))
		if err == nil {
			fmt.Fprintf(&b, "thread %s\n%s", task.Name(), stack)
		}
	}
	return b.String()
}

// SocketPair makes two connected sockets, one for each of two children, which are closed at the end at the latest.
func (t *T) SocketPair() (a, b *Descriptor) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	t.mustHost("socketpair", err)
	return t.own(pair[0], "socket"), t.own(pair[1], "socket")
}
