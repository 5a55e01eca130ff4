package runner

import (
	"context"
	"sync"

	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/results"
)

// Queue hands out cells and takes their results. A cell that Next gave is ended by exactly one of Done
// and Fail. All methods may be called from several goroutines.
type Queue interface {
	// Next returns a cell, or false when none is left for this worker or ctx is done.
	Next(ctx context.Context) (plan.Cell, bool)
	// Done takes the cell's verdict.
	Done(plan.Cell, results.Cell) error
	// Fail gives the cell back without a verdict: the worker was ended in the middle.
	Fail(plan.Cell)
}

// Local is a queue in memory over the cells of one plan.
type Local struct {
	save func(results.Cell) error

	mu     sync.Mutex
	cells  []plan.Cell
	failed []plan.Cell
}

// NewLocal returns a queue over cells that hands each verdict to save, one at a time.
func NewLocal(cells []plan.Cell, save func(results.Cell) error) *Local {
	return &Local{cells: cells, save: save}
}

// Next returns the next cell in order.
func (q *Local) Next(ctx context.Context) (plan.Cell, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if ctx.Err() != nil || len(q.cells) == 0 {
		return plan.Cell{}, false
	}
	c := q.cells[0]
	q.cells = q.cells[1:]
	return c, true
}

// Done saves the cell's verdict.
func (q *Local) Done(_ plan.Cell, verdict results.Cell) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.save(verdict)
}

// Fail notes that the cell has no verdict; it stays unfinished.
func (q *Local) Fail(c plan.Cell) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failed = append(q.failed, c)
}

// Unfinished returns the cells that were given back or never taken.
func (q *Local) Unfinished() []plan.Cell {
	q.mu.Lock()
	defer q.mu.Unlock()
	return append(append([]plan.Cell(nil), q.failed...), q.cells...)
}
