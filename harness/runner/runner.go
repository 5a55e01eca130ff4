// Package runner takes cells from a Queue and brings each from a fresh guest to a verdict.
//
// It owns one cell's life: boot, push, the conversation with the agent, deadlines, host actions, the end of
// the guest, the evidence, the retry of what was our own fault. It does not own what cells there are
// (harness/plan), how a guest comes up (harness/pool), what the facts mean (results.Judge) or what a person
// sees (results/render, through Progress).
//
// A queue needs no lease yet: the only one is in memory, and a worker that dies takes it along. A queue
// between machines will need one.
package runner

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// Progress hears what workers do. Its methods are called from several goroutines.
type Progress interface {
	Begin(worker int, id string)
	Phase(worker int, text string)
	End(worker int, cell results.Cell)
}

// Guests makes guests: *pool.Pool does.
type Guests interface {
	Get(context.Context, pool.Spec) (*pool.Guest, error)
}

// Runner runs the cells of one run. Its fields are set before Go and not changed afterwards.
type Runner struct {
	Guests   Guests
	Agent    []byte // the agent's program
	Run      *results.Run
	Known    results.Known
	Progress Progress
	Workers  int
	QEMU     string // version of the QEMU that the guests run on: what a skip of the guest's may blame it for
	Boot     bool   // every guest boots, although saved ones would be at hand

	// Program, if not nil, is what the agent runs in every cell in the place of the scenario that it makes;
	// Files are pushed into the guest before.
	Program *lab.Program
	Files   []guest.File

	// BootProven names the machines on which some kernel is known to reach userspace on this host with this
	// accelerator: there, a kernel that does not is at fault itself. A boot in this run proves a machine too.
	BootProven map[string]bool

	mu     sync.Mutex
	proven map[string]bool // by boots of this run

	// Keep, if not nil, is given the guest of a cell that ended badly, while it still runs; the guest ends
	// when it returns.
	Keep func(context.Context, Kept)

	room func(dir string) error // nil: pool.Room
}

// Kept is a guest that is kept for a person to look at.
type Kept struct {
	Cell  results.Planned
	Guest *pool.Guest
}

// maxAttempts is how often a cell is tried whose attempts end in error, or before userspace under TCG.
// Nothing else is ever tried again, and that something was is shown.
const maxAttempts = 2

// again says whether an attempt is worth another one. An error is ours. A crash before init's first word,
// under TCG, is the emulator's more often than the kernel's: once in several hundred boots of stock kernels
// QEMU 7.2 leaves garbage in EFLAGS after cmpxchg16b, TF among it, and the kernel dies of a debug exception
// in start_kernel. No scenario has begun then; a kernel that really cannot boot does not boot twice. What
// was an error after a claim had turned out false is not tried until that claim holds.
func again(o results.Outcome, booted bool, accel machine.Accel) bool {
	return o.Verdict == record.Error && o.Failed == 0 || o.Verdict == record.Crash && !booted && accel != machine.KVM
}

// Go works until the queue gives no more cells or ctx is done. Cells in progress then end without a
// verdict. The errors are those of the disk and the queue; verdicts are no errors.
func (r *Runner) Go(ctx context.Context, q Queue) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs *multierror.Error
	)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for worker := range max(r.Workers, 1) {
		wg.Go(func() {
			if err := r.work(ctx, worker, q); err != nil {
				mu.Lock()
				errs = multierror.Append(errs, err)
				mu.Unlock()
				cancel() // a run that cannot be written down is over
			}
		})
	}
	wg.Wait()
	if errs != nil {
		errs.ErrorFormat = oneLine
	}
	return errs.ErrorOrNil()
}

// oneLine is several errors as one: workers tend to fail of the same.
func oneLine(errs []error) string {
	var texts []string
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	return strings.Join(texts, "; ")
}

func (r *Runner) work(ctx context.Context, worker int, q Queue) error {
	for {
		c, ok := q.Next(ctx)
		if !ok {
			return nil
		}
		verdict, err := r.cell(ctx, worker, c)
		if err != nil {
			q.Fail(c)
			return err
		}
		if verdict.Verdict == record.Invalid {
			q.Fail(c)
			return nil
		}
		if err := q.Done(c, verdict); err != nil {
			return err
		}
		r.Progress.End(worker, verdict)
	}
}

// cell brings one cell to its verdict, which is Invalid when ctx ended it.
func (r *Runner) cell(ctx context.Context, worker int, c plan.Cell) (results.Cell, error) {
	planned := Planned(c)
	r.Progress.Begin(worker, planned.ID())
	started := time.Now()
	retried := ""
	for n := 1; ; n++ {
		dir, err := r.Run.CellDir(planned, n)
		if err != nil {
			return results.Cell{}, err
		}
		outcome, booted, timing := r.attempt(ctx, worker, c, n, filepath.Join(r.Run.Dir(), dir))
		// On a full disk nothing is what it seems, except a crash that was written down.
		room := r.room
		if room == nil {
			room = pool.Room
		}
		if err := room(r.Run.Dir()); err != nil && outcome.Verdict != record.Crash {
			return results.Cell{}, fmt.Errorf("%s: %w", planned.ID(), err)
		}
		if again(outcome, booted, c.Machine.Accel) && n < maxAttempts && ctx.Err() == nil {
			retried = outcome.Title
			if err := r.Run.SaveOutcome(dir, outcome); err != nil {
				return results.Cell{}, err
			}
			r.Progress.Phase(worker, "once more: "+outcome.Title)
			continue
		}
		outcome = r.Known.Explain(planned, outcome)
		if outcome.Verdict == record.Invalid {
			return results.Cell{}, nil
		}
		if err := r.Run.SaveOutcome(dir, outcome); err != nil {
			return results.Cell{}, err
		}
		cell := results.NewCell(planned, outcome)
		cell.Attempts, cell.Retried, cell.Dir, cell.Timing = n, retried, dir, timing
		cell.Started, cell.Duration = started.UTC(), time.Since(started).Seconds()
		return cell, nil
	}
}

func (r *Runner) attempt(ctx context.Context, worker int, c plan.Cell, number int, dir string) (outcome results.Outcome, booted bool, timing *results.Timing) {
	a := &attempt{runner: r, worker: worker, cell: c, number: number, dir: dir}
	a.in.Exit.BootProven = r.bootProven(c.Machine.Name)
	a.run(ctx)
	outcome = results.Judge(a.in)
	if a.in.Exit.Booted {
		timing = &a.timing
	}
	return outcome, a.in.Exit.Booted, timing
}

// booted notes that a kernel came up on a machine.
func (r *Runner) booted(machine string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proven == nil {
		r.proven = map[string]bool{}
	}
	r.proven[machine] = true
}

func (r *Runner) bootProven(machine string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.BootProven[machine] || r.proven[machine]
}

// Planned is the cell as a run's files know it.
func Planned(c plan.Cell) results.Planned {
	accel := c.Machine.Accel
	return results.Planned{
		Scenario: c.Scenario.Name, Variant: c.Variant, Repeat: c.Repeat,
		Kernel: c.Kernel.Release, KernelSpec: c.Kernel.Spec, KernelHash: c.Kernel.Hash,
		Machine: c.Machine.Name, Accelerator: string(accel),
	}
}

// checkHello refuses an agent that is not the one that this host planned with.
func checkHello(h record.Hello, c plan.Cell) error {
	switch {
	case h.Catalogue != lab.Catalogue():
		return fmt.Errorf("the agent was built from other scenarios than this nestbed (%.12s, not %.12s): run make build", h.Catalogue, lab.Catalogue())
	case h.Scenario != c.Scenario.Name || h.Variant != c.Variant:
		return fmt.Errorf("the agent runs %.64q@%.64q, asked for %s@%s", h.Scenario, h.Variant, c.Scenario.Name, c.Variant)
	}
	return nil
}
