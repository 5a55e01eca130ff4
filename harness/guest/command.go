package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"sync"

	scp "github.com/bramvdbogaerde/go-scp"
	"golang.org/x/crypto/ssh"
)

// Run runs a command in the guest until it ends and gives its exit status. A command that a signal
// killed, a connection that ended and a ctx that did are errors; the guest then kills what is left of the
// command. Nothing is written to stdout and stderr after Run has returned; stdin is read as long as its
// Read takes.
func (g *Guest) Run(ctx context.Context, command string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	out, errs := &gate{w: stdout}, &gate{w: stderr}
	defer out.shut()
	defer errs.shut()
	session, err := g.start(ctx, command, func(s *ssh.Session) error {
		s.Stdout, s.Stderr = out, errs
		if stdin == nil {
			return nil // an empty one
		}
		in, err := s.StdinPipe()
		if err != nil {
			return err
		}
		go func() { // not waited for: a person's terminal may never give another byte
			_, _ = io.Copy(in, stdin)
			in.Close()
		}()
		return nil
	})
	if err != nil {
		return -1, fmt.Errorf("run %q: %w", command, err)
	}
	_, err = do(ctx, g, func() (struct{}, error) { return struct{}{}, session.Wait() }, func(struct{}) {})
	if ctx.Err() != nil {
		g.tasks.Go(func() { session.Close() }) // may wait for a guest that hangs, until Close
	}
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.Signal() != "":
		return -1, fmt.Errorf("run %q: killed by SIG%s", command, exit.Signal())
	case errors.As(err, &exit):
		return exit.ExitStatus(), nil
	}
	return -1, fmt.Errorf("run %q: %w", command, err)
}

// start opens a session, prepares it and starts the command.
func (g *Guest) start(ctx context.Context, command string, prepare func(*ssh.Session) error) (*ssh.Session, error) {
	return do(ctx, g, func() (*ssh.Session, error) {
		s, err := g.client.NewSession()
		if err != nil {
			return nil, err
		}
		if err = prepare(s); err == nil {
			err = s.Start(command)
		}
		if err != nil {
			s.Close()
			return nil, err
		}
		return s, nil
	}, func(s *ssh.Session) { s.Close() })
}

// maxOutput bounds what Output takes from a guest.
const maxOutput = 256 << 10

// Output runs a command and gives what it wrote. A status other than 0 is an error that quotes stderr.
func (g *Guest) Output(ctx context.Context, command string) (string, error) {
	stdout, stderr := &head{max: maxOutput}, &head{max: 1 << 10}
	status, err := g.Run(ctx, command, nil, stdout, stderr)
	if err != nil {
		return "", err
	}
	if status != 0 {
		return "", fmt.Errorf("run %q: exit status %d: %q", command, status, strings.TrimSpace(stderr.String()))
	}
	if stdout.cut {
		return "", &ProtocolError{Op: fmt.Sprintf("run %q", command), Err: fmt.Errorf("more than %d bytes of output", maxOutput)}
	}
	return stdout.String(), nil
}

// Names that no quoting on the way can change.
var pushable = regexp.MustCompile(`^/[A-Za-z0-9._/+-]+$`)

// Push writes a file into the guest and has its content checked there. When ctx ends during the copy, the
// guest's whole SSH connection is given up: go-scp cannot be cancelled otherwise without a data race.
func (g *Guest) Push(ctx context.Context, name string, mode fs.FileMode, data []byte) error {
	if !pushable.MatchString(name) || path.Clean(name) != name {
		return fmt.Errorf("push %q: not a plain absolute name", name)
	}
	client, err := scp.NewClientBySSH(g.client)
	if err != nil {
		return fmt.Errorf("push %s: %w", name, err)
	}
	stop := context.AfterFunc(ctx, func() { g.client.Close() })
	err = client.Copy(context.Background(), bytes.NewReader(data), name, fmt.Sprintf("%04o", mode.Perm()), int64(len(data)))
	stop()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("push %s: %w", name, err)
	}
	sum, err := g.Output(ctx, "sha256sum "+name)
	if err != nil {
		return fmt.Errorf("push %s: %w", name, err)
	}
	if want := fmt.Sprintf("%x  %s\n", sha256.Sum256(data), name); sum != want {
		return fmt.Errorf("push %s: the guest has other bytes: sha256 %q, want %q", name, cut(sum, 80), want)
	}
	return nil
}

func cut(s string, n int) string { return s[:min(len(s), n)] }

// gate passes writes on until it is shut; a nil writer drops them.
type gate struct {
	mu sync.Mutex
	w  io.Writer
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.w == nil {
		return len(p), nil
	}
	return g.w.Write(p)
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.w = nil
}

// head keeps the first bytes of a stream.
type head struct {
	bytes.Buffer
	max int
	cut bool
}

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), h.max-h.Len())
	h.cut = h.cut || n < len(p)
	h.Buffer.Write(p[:n])
	return len(p), nil
}

// tail keeps the last bytes of a stream.
type tail struct {
	mu  sync.Mutex
	buf []byte
	max int
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-t.max):]...)
	t.buf = t.buf[max(0, len(t.buf)-t.max):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.buf), "")
}
