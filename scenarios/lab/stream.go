package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/nestbed/nestbed/results/record"
)

// stream is the agent's end of the record protocol: one writer of records, one reader of the host's answers.
type stream struct {
	start time.Time

	mu      sync.Mutex
	out     io.Writer
	seq     int
	calls   int
	waiting map[int]chan record.Reply
	gone    bool  // the host closes its end: no more answers
	err     error // the first failed write; nothing is written after it
	checks  int
	failed  int
	logs    int
	events  hostEvents
}

// maxLogs leaves room in record.MaxRecords for everything that matters more.
const maxLogs = 20_000

func newStream(in io.Reader, out io.Writer) *stream {
	s := &stream{start: time.Now(), out: out, waiting: map[int]chan record.Reply{}}
	go s.read(in)
	return s
}

// write numbers a record and sends it at once: the next system call may be the last one of this guest.
func (s *stream) write(rec record.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeLocked(rec)
}

func (s *stream) writeLocked(rec record.Record) {
	if s.err != nil {
		return
	}
	switch {
	case rec.Check != nil:
		s.checks++
		if !rec.Check.OK {
			s.failed++
		}
	case rec.Log != nil:
		if s.logs++; s.logs > maxLogs {
			return
		}
		if s.logs == maxLogs {
			rec.Log = &record.Log{Text: "no more logs: too many"}
		}
	}
	s.seq++
	rec.Seq = s.seq
	rec.T = time.Since(s.start).Seconds()
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false) // "<" as six bytes could push a kernel's stack trace over the line limit
	err := enc.Encode(rec)
	if err == nil {
		_, err = s.out.Write(line.Bytes())
	}
	if err != nil {
		s.err = fmt.Errorf("record %d: %w", s.seq, err)
	}
}

func (s *stream) log(text string) {
	// What the kernel or a child printed may hold anything; control characters would be six bytes each.
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return '?'
		}
		return r
	}, text)
	s.write(record.Record{Kind: record.KindLog, Log: &record.Log{Text: record.Cut(text)}})
}

func (s *stream) check(c record.Check) {
	c.Claim, c.Op, c.Want, c.Got = record.Cut(c.Claim), record.Cut(c.Op), record.Cut(c.Want), record.Cut(c.Got)
	s.write(record.Record{Kind: record.KindCheck, Check: &c})
}

func (s *stream) broken(reason string) {
	s.write(record.Record{Kind: record.KindBroken, Broken: &record.Broken{Reason: record.Cut(reason)}})
}

// done closes the stream and returns what went wrong in writing it.
func (s *stream) done() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeLocked(record.Record{Kind: record.KindDone, Done: &record.Done{Checks: s.checks, Failed: s.failed}})
	return s.err
}

// call asks the host and waits for its answer.
func (s *stream) call(ctx context.Context, c record.Call) (record.Reply, error) {
	answer := make(chan record.Reply, 1)
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return record.Reply{}, errors.New("the host answers no more")
	}
	s.calls++
	c.ID = s.calls
	s.waiting[c.ID] = answer
	s.writeLocked(record.Record{Kind: record.KindCall, Call: &c})
	s.mu.Unlock()

	select {
	case reply, ok := <-answer:
		if !ok {
			return record.Reply{}, errors.New("the host answers no more")
		}
		if reply.Error != "" {
			return reply, errors.New(reply.Error)
		}
		return reply, nil
	case <-ctx.Done():
		return record.Reply{}, fmt.Errorf("no answer from the host: %w", ctx.Err())
	}
}

// read hands the host's answers to their callers. Events are evidence, and what somebody may wait for.
func (s *stream) read(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, record.MaxLine)
	for lines.Scan() {
		var input record.Input
		if err := json.Unmarshal(lines.Bytes(), &input); err != nil {
			s.broken("the host's line is no input: " + err.Error())
			continue
		}
		switch {
		case input.Reply != nil:
			s.mu.Lock()
			answer := s.waiting[input.Reply.ID]
			delete(s.waiting, input.Reply.ID)
			s.mu.Unlock()
			if answer == nil {
				s.broken(fmt.Sprintf("the host answers call %d, which nobody made", input.Reply.ID))
				continue
			}
			answer <- *input.Reply
		case input.Event != nil:
			s.log(fmt.Sprintf("host: %s %s", input.Event.Name, input.Event.Device))
			s.events.add(*input.Event)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	for id, answer := range s.waiting {
		delete(s.waiting, id)
		close(answer)
	}
}

// beat says once a second that the agent is alive, until the returned function is called.
func (s *stream) beat() (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				s.write(record.Record{Kind: record.KindBeat})
			}
		}
	})
	return sync.OnceFunc(func() {
		close(end)
		wg.Wait()
	})
}
