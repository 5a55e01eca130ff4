package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"
)

// Size of a terminal in characters.
type Size struct{ Columns, Rows int }

// Terminal is a person's side of a shell.
type Terminal struct {
	Name    string      // TERM; empty: a pipe and not a terminal
	Size    Size        // at the start
	Resized <-chan Size // later sizes; may be nil
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
}

// Shell runs a shell, or command if it is not empty, on a connection of its own (control.PortShell) until
// it ends, and gives its exit status. It closes conn. ctx ends it. A read of t.In may outlive it.
func (g *Guest) Shell(ctx context.Context, conn net.Conn, t Terminal, command string) (int, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	status, err := g.shell(conn, t, command)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return -1, fmt.Errorf("shell: %w", err)
	}
	return status, nil
}

func (g *Guest) shell(conn net.Conn, t Terminal, command string) (int, error) {
	c, channels, requests, err := ssh.NewClientConn(conn, "guest", g.config)
	if err != nil {
		return -1, err
	}
	client := ssh.NewClient(c, channels, requests)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return -1, err
	}
	defer session.Close()
	session.Stdout, session.Stderr = t.Out, t.Err
	in, err := session.StdinPipe()
	if err != nil {
		return -1, err
	}
	if t.Name != "" {
		if err := session.RequestPty(t.Name, t.Size.Rows, t.Size.Columns, ssh.TerminalModes{}); err != nil {
			return -1, err
		}
	}
	if command == "" {
		err = session.Shell()
	} else {
		err = session.Start(command)
	}
	if err != nil {
		return -1, err
	}
	go func() { // not waited for: a person's terminal may never give another byte
		_, _ = io.Copy(in, t.In)
		in.Close()
	}()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case size, ok := <-t.Resized:
				if !ok || session.WindowChange(size.Rows, size.Columns) != nil {
					return
				}
			case <-ended:
				return
			}
		}
	}()
	err = session.Wait()
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.Signal() != "":
		return -1, fmt.Errorf("killed by SIG%s", exit.Signal())
	case errors.As(err, &exit):
		return exit.ExitStatus(), nil
	}
	return -1, err
}
