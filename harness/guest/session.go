package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nestbed/nestbed/results/record"
)

const (
	maxStderr  = 16 << 10        // of an agent: what a Go program says when it dies
	maxPending = 1000            // inputs that an agent has not read yet
	killGrace  = 5 * time.Second // for the guest's answer to a kill (it drains the output for 2), before the session counts as lost
)

// Exit is how an agent's session ended.
type Exit struct {
	Code   int    // exit status, when Signal is empty and the session is not Lost
	Signal string // what killed the agent, as "KILL"
	Lost   bool   // the guest never said how it ended: the connection is gone, or the guest hangs
	Err    error  // the agent broke the record protocol (wraps record.ErrProtocol) and was killed for it
	Stderr string // the end of what it wrote there
}

// Session is a running agent.
type Session struct {
	session *ssh.Session
	records chan record.Record
	input   chan []byte
	stderr  tail

	kill    func()          // once; returns at once
	patient context.Context // ends when the guest has not answered a kill, and with the Guest
	ended   chan struct{}   // closed when exit holds
	exit    Exit
}

// StartAgent starts the agent's command. The caller reads Records to the end, or calls Kill, and then
// Wait. The agent's process group is killed in the guest when the session's channel or connection ends.
func (g *Guest) StartAgent(ctx context.Context, command string) (*Session, error) {
	s := &Session{
		records: make(chan record.Record),
		input:   make(chan []byte, maxPending),
		stderr:  tail{max: maxStderr},
		ended:   make(chan struct{}),
	}
	patient, abandon := context.WithCancel(g.closing)
	s.patient = patient
	var stdout io.Reader
	var stdin io.WriteCloser
	session, err := g.start(ctx, command, func(session *ssh.Session) (err error) {
		session.Stderr = &s.stderr
		if stdin, err = session.StdinPipe(); err != nil {
			return err
		}
		stdout, err = session.StdoutPipe()
		return err
	})
	if err != nil {
		abandon()
		return nil, fmt.Errorf("start agent: %w", err)
	}
	s.session = session
	s.kill = sync.OnceFunc(func() {
		late := time.AfterFunc(killGrace, abandon)
		g.tasks.Go(func() { // on a guest that hangs the request waits for the connection's end
			_ = session.Signal(ssh.SIGKILL)
			<-s.ended
			late.Stop()
			_ = session.Close()
		})
	})

	// Only the goroutine that ends may be left behind on a guest that hangs, so each hands over to one that
	// can be told to stop waiting: read -> forward -> the caller.
	parsed := make(chan record.Record)
	violation := make(chan error, 1)
	read := make(chan struct{})
	g.tasks.Go(func() {
		defer close(read)
		defer close(parsed)
		if err := s.read(stdout, parsed); err != nil {
			violation <- err
			s.kill()
			_, _ = io.Copy(io.Discard, stdout) // the exit comes behind it
		}
	})
	waited := make(chan error, 1)
	g.tasks.Go(func() { waited <- session.Wait() })
	g.tasks.Go(func() { s.write(stdin) })
	g.tasks.Go(func() {
		s.forward(parsed)
		s.exit = s.outcome(waited, read)
		select {
		case s.exit.Err = <-violation:
		default:
		}
		close(s.ended)
		abandon()
	})
	return s, nil
}

// read parses the agent's lines until its output ends. Its error is a breach of the record protocol.
func (s *Session) read(stdout io.Reader, to chan<- record.Record) error {
	var stream record.Reader
	lines := bufio.NewReaderSize(stdout, record.MaxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("%w: line of more than %d bytes", record.ErrProtocol, record.MaxLine)
		}
		if err != nil {
			return nil // a cut last line: the agent died in it, and its exit says how
		}
		rec, err := stream.Parse(line[:len(line)-1])
		if err != nil {
			return err
		}
		select {
		case to <- rec:
		case <-s.patient.Done():
			return nil
		}
	}
}

// forward is the only sender on records, so that it may close it while read still hangs on the guest.
func (s *Session) forward(parsed <-chan record.Record) {
	defer close(s.records)
	for {
		select {
		case rec, ok := <-parsed:
			if !ok {
				return
			}
			select {
			case s.records <- rec:
			case <-s.patient.Done():
				return
			}
		case <-s.patient.Done():
			return
		}
	}
}

// outcome waits for the guest's word on the exit and for the end of the output, or for the end of patience.
func (s *Session) outcome(waited <-chan error, read <-chan struct{}) Exit {
	e := Exit{Lost: true}
	said := func(err error) {
		var exit *ssh.ExitError
		if errors.As(err, &exit) {
			e.Code, e.Signal = exit.ExitStatus(), exit.Signal()
			if e.Signal != "" {
				e.Code = 0 // not x/crypto's 128+n, which no program said
			}
		}
		e.Lost = err != nil && exit == nil
	}
	select {
	case err := <-waited:
		said(err)
	case <-s.patient.Done():
		select { // it may be the records' reader whom patience ran out on
		case err := <-waited:
			said(err)
		default:
		}
	}
	select {
	case <-read:
	case <-s.patient.Done():
	}
	e.Stderr = s.stderr.String()
	return e
}

// write gives the agent its inputs until the session ends.
func (s *Session) write(stdin io.WriteCloser) {
	for {
		select {
		case line := <-s.input:
			if _, err := stdin.Write(line); err != nil {
				return // the session ends; Wait says how
			}
		case <-s.ended:
			return
		}
	}
}

// Records gives the agent's records as they come. It is closed when there are no more. A record that
// nobody takes holds up the agent, but never Kill.
func (s *Session) Records() <-chan record.Record { return s.records }

// Send queues one input for the agent. It does not wait for the guest.
func (s *Session) Send(in record.Input) error {
	line, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("send to agent: %w", err)
	}
	select {
	case <-s.ended:
		return fmt.Errorf("send to agent: %w", net.ErrClosed)
	default:
	}
	select {
	case s.input <- append(line, '\n'):
		return nil
	default:
		return fmt.Errorf("send to agent: it has not read %d inputs", maxPending)
	}
}

// Kill has the guest kill the agent's process group. It does not wait: Wait tells when it is over, at
// the latest after a short grace with a session that counts as lost.
func (s *Session) Kill() { s.kill() }

// Wait waits for the end of the session. Records must have been read to their end, unless Kill was called.
func (s *Session) Wait() Exit {
	<-s.ended
	return s.exit
}
