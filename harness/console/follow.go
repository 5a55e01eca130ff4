package console

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/results/record"
)

// Options of a Follower. The zero value is usable.
type Options struct {
	// Quiet is how long the log must say nothing for an open report to count as complete when it has no
	// end mark, or never reached it. 500 ms when zero: a busy host
	// may stop a guest for long in the middle of a stack trace.
	Quiet time.Duration
	// Limit is how many bytes a guest may print, 64 MiB when zero. The rest is not read.
	Limit int64
	// Line is called with every line, clean and without its stamp; Report with every complete report, not
	// grouped. Both are called by one goroutine, in order, and must return soon.
	Line   func(string)
	Report func(record.Report)
}

// State is what a Follower has seen so far.
type State struct {
	Bytes    int64
	LastLine string    // the last line that said something, clean and without its stamp
	LastByte time.Time // when the log last grew; when the Follower started if it never did
}

// Follower reads a serial log while QEMU writes it. It wakes up when the file grows, never in between.
type Follower struct {
	o     Options
	log   *os.File
	watch *os.File // inotify
	fatal chan struct{}
	full  chan struct{}
	stop  chan struct{}
	ended chan struct{}

	// Of the reading goroutine alone.
	scan    scanner
	no      int
	partial []byte // the last line, as far as it was written
	skip    bool   // it is too long; drop the rest of it
	isFatal bool
	isFull  bool

	mu     sync.Mutex
	state  State
	groups groups

	closing sync.Once
	err     error
}

// Follow starts to follow the file, which is made when it does not exist: QEMU truncates and writes it.
// The caller must Close the Follower.
func Follow(path string, o Options) (*Follower, error) {
	if o.Quiet <= 0 {
		o.Quiet = 500 * time.Millisecond
	}
	if o.Limit <= 0 {
		o.Limit = 64 << 20
	}
	log, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("follow console: %w", err)
	}
	watch, err := watchFile(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("follow console %s: %w", path, err), log.Close())
	}
	f := &Follower{
		o: o, log: log, watch: watch,
		fatal: make(chan struct{}), full: make(chan struct{}), stop: make(chan struct{}), ended: make(chan struct{}),
		state: State{LastByte: time.Now()},
	}
	f.scan.report = f.found
	go f.run()
	return f, nil
}

func watchFile(path string) (*os.File, error) {
	// Non-blocking, so that reads go through the runtime's poller and Close ends them.
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	w := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		return nil, errors.Join(fmt.Errorf("inotify: %w", err), w.Close())
	}
	return w, nil
}

// Fatal is closed when the first fatal report is complete: the guest may be ended after a short drain.
func (f *Follower) Fatal() <-chan struct{} { return f.fatal }

// Full is closed when the log has passed its limit: the guest should be ended.
func (f *Follower) Full() <-chan struct{} { return f.full }

// State gives what has been seen so far.
func (f *Follower) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// Reports gives the complete reports so far, grouped.
func (f *Follower) Reports() []record.Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	return cloneReports(f.groups.reports)
}

func cloneReports(in []record.Report) []record.Report {
	var out []record.Report
	for _, r := range in {
		r.Followers = cloneReports(r.Followers)
		out = append(out, r)
	}
	return out
}

// Close reads what the log still holds, completes an open report and stops. Call it when QEMU is gone.
func (f *Follower) Close() error {
	f.closing.Do(func() {
		close(f.stop)
		<-f.ended
		if err := f.log.Close(); err != nil && f.err == nil {
			f.err = err
		}
		if f.err != nil {
			f.err = fmt.Errorf("follow console: %w", f.err)
		}
	})
	return f.err
}

// run is the reading goroutine. A second one only waits for inotify.
func (f *Follower) run() {
	defer close(f.ended)
	grown := make(chan struct{}, 1)
	waiting := make(chan struct{})
	broken := make(chan error, 1)
	go func() {
		defer close(waiting)
		events := make([]byte, 4<<10)
		for {
			if _, err := f.watch.Read(events); err != nil {
				if !errors.Is(err, os.ErrClosed) {
					broken <- err
				}
				return
			}
			select {
			case grown <- struct{}{}:
			default: // the reader has not come round yet and will see all of it
			}
		}
	}()
	defer func() {
		f.err = errors.Join(f.err, f.watch.Close())
		<-waiting
	}()

	quiet := time.NewTimer(f.o.Quiet)
	defer quiet.Stop()
	f.read()
	for {
		if open, _ := f.scan.pending(); open {
			quiet.Reset(f.o.Quiet)
		} else {
			quiet.Stop()
		}
		select {
		case <-grown:
			f.read()
		case err := <-broken:
			f.err = errors.Join(f.err, fmt.Errorf("inotify: %w", err))
		case <-quiet.C:
			f.scan.end()
		case <-f.stop:
			f.read()
			if len(f.partial) > 0 {
				f.line()
			}
			f.scan.end()
			return
		}
	}
}

// read takes what the log holds beyond what was read.
func (f *Follower) read() {
	buf := make([]byte, 64<<10)
	for !f.isFull {
		n, err := f.log.Read(buf)
		f.feed(buf[:n])
		if err != nil {
			if err != io.EOF {
				f.err = errors.Join(f.err, err)
			}
			return
		}
	}
}

func (f *Follower) feed(data []byte) {
	if len(data) == 0 {
		return
	}
	f.mu.Lock()
	f.state.Bytes += int64(len(data))
	f.state.LastByte = time.Now()
	full := f.state.Bytes >= f.o.Limit
	f.mu.Unlock()
	for len(data) > 0 {
		part := data
		end := bytes.IndexByte(data, '\n')
		if end >= 0 {
			part = data[:end]
		}
		if room := maxText - len(f.partial); !f.skip && len(part) > room {
			part, f.skip = part[:room], true
			f.partial = append(f.partial, part...)
		} else if !f.skip {
			f.partial = append(f.partial, part...)
		}
		if end < 0 {
			break
		}
		f.line()
		f.skip = false
		data = data[end+1:]
	}
	if text := clean(parseLine(0, f.partial).text); text != "" {
		f.mu.Lock()
		f.state.LastLine = text // a kernel may die in the middle of a line
		f.mu.Unlock()
	}
	if full && !f.isFull {
		f.isFull = true
		close(f.full)
	}
}

// line takes the collected line.
func (f *Follower) line() {
	f.no++
	l := parseLine(f.no, f.partial)
	if text := clean(l.text); text != "" {
		f.mu.Lock()
		f.state.LastLine = text
		f.mu.Unlock()
		if f.o.Line != nil {
			f.o.Line(text)
		}
	}
	f.scan.line(l)
	f.partial = f.partial[:0]
}

// found is called by the scanner.
func (f *Follower) found(r record.Report) {
	f.mu.Lock()
	f.groups.add(r)
	f.mu.Unlock()
	if f.o.Report != nil {
		f.o.Report(r)
	}
	if r.Fatal && !f.isFatal {
		f.isFatal = true
		close(f.fatal)
	}
}
