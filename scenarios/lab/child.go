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

// C is a child's side: its arguments and its word to the scenario.
type C struct {
	Args []string
	out  io.Writer
	ctx  context.Context
}

// Say sends one line to the scenario.
func (c *C) Say(line string) error {
	_, err := io.WriteString(c.out, line+"\n")
	return err
}

// Sleep waits to be killed.
func (c *C) Sleep() error {
	<-c.ctx.Done()
	return nil
}

// RunChild is the agent's `child` command. The scenario holds the other end of in; when it is gone, so is
// the child.
func RunChild(name string, args []string, in io.Reader, out io.Writer) error {
	run, ok := registry.children[name]
	if !ok {
		return fmt.Errorf("unknown child %q", name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		io.Copy(io.Discard, in)
		cancel()
	}()
	go func() { ended <- run(&C{Args: args, out: out, ctx: ctx}) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return errors.New("the scenario is gone")
	}
}

// Process is a child that runs.
type Process struct {
	t      *T
	cmd    *exec.Cmd
	lines  *bufio.Reader
	stderr bytes.Buffer
	end    func() error
}

// Child starts the function in a process of its own. It is killed at the end at the latest.
func (t *T) Child(child Child, args ...string) *Process {
	cmd := exec.CommandContext(t.ctx, t.env.Self, append([]string{"child", string(child)}, args...)...)
	// With WaitDelay, Wait does not outlast the process for a pipe that somebody inherited.
	cmd.WaitDelay = time.Second
	p := &Process{t: t, cmd: cmd}
	cmd.Stderr = &p.stderr
	stdin, err := cmd.StdinPipe() // held open: its end tells the child that we are gone
	t.mustHost("start a child", err)
	stdout, err := cmd.StdoutPipe()
	t.mustHost("start a child", err)
	p.lines = bufio.NewReader(stdout)
	t.mustHost("start a child", cmd.Start())
	p.end = sync.OnceValue(func() error {
		kill := cmd.Process.Kill()
		if errors.Is(kill, os.ErrProcessDone) {
			kill = nil // how it ended is in its status
		}
		cmd.Wait() // its error is the status in other words
		stdin.Close()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != unix.SIGKILL {
			return errors.Join(kill, fmt.Errorf("child %s ended by itself (%v): %s", child, cmd.ProcessState, bytes.TrimSpace(p.stderr.Bytes())))
		}
		return kill
	})
	t.atEnd("kill the child", p.end)
	return p
}

// Line waits for the child's next line.
func (p *Process) Line() string {
	line, err := p.lines.ReadString('\n')
	if err != nil {
		// A child ends early when the kernel refuses it something, which is a claim that did not hold.
		p.t.must(errors.Join(p.end(), err))
	}
	return line[:len(line)-1]
}

// Kill sends SIGKILL and waits until nothing is left of the process. The kernel has then closed its files.
// A child that ended before, because the kernel refused it something, is a claim that did not hold.
func (p *Process) Kill() { p.t.must(p.end()) }
