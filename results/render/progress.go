package render

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// ProgressOptions of a Progress.
type ProgressOptions struct {
	Live    bool // w is a terminal: a line per worker that changes in place
	Total   int  // cells to run
	Workers int
}

// Progress shows a run while it runs: finished cells line by line, and on a terminal what each worker does.
// It is safe for concurrent use. The caller must Close it.
type Progress struct {
	o ProgressOptions

	mu      sync.Mutex
	out     io.Writer
	done    int
	bad     int
	workers []worker
	closed  bool

	live *mpb.Progress
	bars []*mpb.Bar
}

type worker struct {
	cell  string
	phase string
	since time.Time
}

// NewProgress starts to show progress on w.
func NewProgress(w io.Writer, o ProgressOptions) *Progress {
	p := &Progress{o: o, out: w, workers: make([]worker, max(o.Workers, 1))}
	if !o.Live {
		return p
	}
	p.live = mpb.New(mpb.WithOutput(w), mpb.WithWidth(width), mpb.WithAutoRefresh())
	for n := range p.workers {
		p.bars = append(p.bars, p.bar(func() string { return p.workerLine(n) }))
	}
	p.bars = append(p.bars, p.bar(p.totalLine))
	p.out = p.live // lines go above what is live
	return p
}

// bar is one live line of text.
func (p *Progress) bar(line func() string) *mpb.Bar {
	return p.live.MustAdd(1, nil, mpb.BarFillerTrim(), mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return line() })))
}

func (p *Progress) workerLine(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.workers[n]
	if w.cell == "" {
		return fmt.Sprintf("  %d  idle", n+1)
	}
	return fit(fmt.Sprintf("  %d  %s  %s  %s", n+1, elapsed(time.Since(w.since)), w.cell, w.phase), width)
}

func (p *Progress) totalLine() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := fmt.Sprintf("  %d of %s", p.done, plural(p.o.Total, "cell"))
	if p.bad > 0 {
		line += fmt.Sprintf(", %d bad", p.bad)
	}
	return line
}

// Begin says that a worker (0, 1 ...) starts a cell.
func (p *Progress) Begin(n int, id string) { p.set(n, worker{cell: id, since: time.Now()}) }

func (p *Progress) set(n int, w worker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n >= 0 && n < len(p.workers) {
		p.workers[n] = w
	}
}

// Phase says what the worker is at: "boot", a step of the scenario. Only a terminal shows it.
func (p *Progress) Phase(n int, phase string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n >= 0 && n < len(p.workers) {
		p.workers[n].phase = phase
	}
}

// End says that a worker finished a cell.
func (p *Progress) End(n int, c results.Cell) {
	p.set(n, worker{})
	p.mu.Lock()
	p.done++
	if c.Verdict.Bad() || c.Verdict == record.Error {
		p.bad++
	}
	digits := len(fmt.Sprint(p.o.Total))
	line := fmt.Sprintf("[%*d/%d] %-6s %s", digits, p.done, p.o.Total, word(c.Verdict), Escape(c.ID()))
	p.mu.Unlock()
	if c.Duration > 0 {
		line += "  " + seconds(c.Duration)
	}
	line += "\n"
	if title := c.Title; title != "" && c.Verdict != record.Pass {
		if c.Known != "" {
			title = c.Known + ": " + title
		}
		line += fmt.Sprintf("%*s%s\n", 2*digits+4, "", fit(title, width-2*digits-4))
	}
	p.print(line)
}

// print writes whole lines. p.mu is not held: mpb's own goroutine takes it to draw.
func (p *Progress) print(lines string) {
	p.mu.Lock()
	closed, live := p.closed, p.live != nil
	if !live && !closed {
		defer p.mu.Unlock()
		_, _ = io.WriteString(p.out, lines) // a progress that nobody can read must not end the run
		return
	}
	p.mu.Unlock()
	if !closed {
		_, _ = io.WriteString(p.out, lines)
	}
}

// Close takes the live lines away.
func (p *Progress) Close() {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	p.mu.Unlock()
	if closed || p.live == nil {
		return
	}
	for _, b := range p.bars {
		b.Abort(true)
	}
	p.live.Wait()
}
