// Package series validates a patch series: it applies patch after patch, builds each, runs the base, the patches
// and the end, and repeats what differs until it is told from chance.
//
// It owns the order of these things, what is run how often and what need not be run again. It does not own git
// (kernels/checkout), compiling (a Builder), how a cell comes to its verdict (a Runner, which is package runner
// for users), what a difference means or the report's files (results/effect).
package series

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/checkout"
	"github.com/nestbed/nestbed/kernels/patch"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/effect"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// Tree is the files that are built: *checkout.Checkout.
type Tree interface {
	Dir() string
	Go(context.Context, checkout.Commit) error
	Apply(ctx context.Context, on checkout.Commit, subject string, message []byte) (checkout.Commit, error)
}

// Builder makes a kernel of the files in a folder. That they do not build is a *BuildError.
type Builder interface {
	Build(ctx context.Context, dir, flavour string) (kernels.Kernel, error)
}

// BuildError says that a kernel does not build: the tree's own fault.
type BuildError struct {
	First string // the compiler's first error, or the options that the configuration lacks
	Log   string // path of the whole log, "" where there is none
}

func (e *BuildError) Error() string {
	if e.Log == "" {
		return e.First
	}
	return e.First + "\nall of it is in " + e.Log
}

// Runner runs cells of one kernel, all of the catalogue or all of the reproducer, and writes them down as one run. A cell that was not brought to a verdict is
// missing in what it returns. The error is one of the host, and comes with the cells that were finished.
type Runner interface {
	Run(ctx context.Context, cells []plan.Cell) (run string, verdicts []results.Cell, err error)
}

// Each says what is run after every patch.
type Each string

// What can be run after every patch.
const (
	Smoke Each = "smoke" // the few scenarios that smoke names
	Full  Each = "full"  // all that is run at the end
	None  Each = "none"  // nothing: patches are built
)

// ParseEach reads an Each.
func ParseEach(s string) (Each, error) {
	if e := Each(s); e == Smoke || e == Full || e == None {
		return e, nil
	}
	return "", fmt.Errorf("--each takes smoke, full or none, not %q", s)
}

// smoke names the scenarios that load every module, attach a device and let it go, and look whether all of it
// came back, in a few seconds.
var smoke = []string{"attach-group-container", "attach-cdev-iommufd", "unload-vfio-pci-idle-bound"}

// Request is what to validate, and on what.
type Request struct {
	Base     checkout.Commit
	BaseName string            // as people call it; "" is its hash
	Patches  []patch.Patch     // to be applied to Base
	Commits  []checkout.Commit // instead of Patches: commits that are there

	Flavours  []string
	Machines  []machine.Machine // with their accelerators
	Catalogue []lab.Scenario
	Globs     []string
	Program   *lab.Program // the reproducer, or nil
	Each      Each
	QEMU      plan.QEMU
}

// Series is one validation. Report is filled in as things become known, and can be used whenever Go has returned.
type Series struct {
	Request
	Tree    Tree
	Builder Builder
	Runner  Runner
	Store   *Store
	Say     func(string)
	Report  *effect.Report

	// Prepare finds out what this host can do, and says it in Machines, QEMU and the report. It may boot a guest: it is
	// called once, when it is known that the series applies and before anything is built. It may be nil.
	Prepare func(context.Context) error

	// BuildKey names, besides the files, all that a kernel of a flavour is made of, and Kernel finds one that was
	// made by the hash of its content. Either may be nil: then every stage is built.
	BuildKey func(flavour string) (string, error)
	Kernel   func(hash string) (kernels.Kernel, bool)

	stages  []*stage
	pairs   []*pair
	lost    map[string]string      // why a cell has no verdict, by its key
	planned map[string][]plan.Cell // by kernel, and whether it is an end
}

// stage is the tree after some of the patches.
type stage struct {
	commit  checkout.Commit
	kernels map[string]kernels.Kernel // by flavour; those that were built
}

// Go validates the series. Its error is ours, or ctx's; that the series is bad stands in the report.
func (s *Series) Go(ctx context.Context) error {
	began := time.Now()
	s.lost = map[string]string{}
	s.planned = map[string][]plan.Cell{}
	s.Report.Patches = max(len(s.Patches), len(s.Commits))
	err := s.steps(ctx)
	if err != nil {
		why := err
		if ctx.Err() != nil {
			why = context.Cause(ctx)
		}
		s.Report.Trouble = append(s.Report.Trouble, strings.SplitN(why.Error(), "\n", 2)[0])
		err = errors.Join(err, s.breakOff())
	}
	s.conclude()
	s.Report.Seconds = time.Since(began).Seconds()
	return err
}

// breakOff makes the best of what was run until the series was ended, and notes what was not done.
func (s *Series) breakOff() (err error) {
	if s.pairs == nil {
		if err = s.pairUp(); err != nil {
			return err
		}
	}
	s.Report.NotDone, err = s.undone()
	s.pairs = slices.DeleteFunc(s.pairs, func(p *pair) bool { return s.silent(p.before) || s.silent(p.after) })
	return err
}

func (s *Series) steps(ctx context.Context) error {
	whole, err := s.apply(ctx)
	if err != nil || !whole {
		return err
	}
	if s.Prepare != nil {
		if err := s.Prepare(ctx); err != nil {
			return err
		}
	}
	if err := s.build(ctx); err != nil {
		return err
	}
	end := len(s.stages) - 1
	for _, flavour := range s.Flavours {
		if !s.comparable(flavour) {
			continue
		}
		for i, st := range s.stages {
			k, ok := st.kernels[flavour]
			if !ok {
				continue
			}
			cells, err := s.cellsOf(k, i == 0 || i == end)
			if err != nil {
				return err
			}
			err = s.need(ctx, cells, 1)
			s.sayHow(i, flavour, cells)
			if err != nil {
				return err
			}
		}
	}
	if err := s.pairUp(); err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	return s.search(ctx)
}

// comparable says whether any patch builds: without one there is nothing to compare the base with.
func (s *Series) comparable(flavour string) bool {
	return slices.ContainsFunc(s.stages[1:], func(st *stage) bool {
		_, ok := st.kernels[flavour]
		return ok
	})
}

// apply makes the commits of all stages. A series that does not apply ends here: whole is false.
func (s *Series) apply(ctx context.Context) (whole bool, err error) {
	s.stage(s.Base, effect.Stage{Name: s.BaseName})
	for i, c := range s.Commits {
		s.stage(c, effect.Stage{Patch: i + 1})
	}
	if len(s.Patches) == 0 {
		return true, nil
	}
	on := s.Base
	for i, p := range s.Patches {
		c, err := s.Tree.Apply(ctx, on, p.Subject, p.Message)
		if failed, ok := errors.AsType[*checkout.ApplyError](err); ok {
			later, err := s.before(ctx, on, i)
			if err != nil {
				return false, err
			}
			why := []string{failed.Reason}
			if failed.Applied {
				why[0] += " (the tree has this change already)"
			}
			if later > 0 {
				why = append(why, fmt.Sprintf("it does behind patch %d (%s): are they out of order?", later+1, s.Patches[later].Subject))
			}
			s.Say(fmt.Sprintf("%s (%s) does not apply: %s", s.nth(i+1), p.Subject, strings.Join(why, "; ")))
			if failed.Hunk != "" {
				why = append(why, failed.Hunk)
			}
			s.Report.Stages = append(s.Report.Stages, effect.Stage{Patch: i + 1, Subject: p.Subject, Rejected: strings.Join(why, "\n")})
			return false, nil
		} else if err != nil {
			return false, err
		}
		s.stage(c, effect.Stage{Patch: i + 1})
		on = c
	}
	s.Say(fmt.Sprintf("%s: applied to %s", count(len(s.Patches), "patch", "patches"), s.Base.Short()))
	return true, nil
}

// before finds a later patch behind which patch n applies, which it does not on the commit by itself; 0 if none is.
func (s *Series) before(ctx context.Context, on checkout.Commit, n int) (later int, err error) {
	const far = 10 // patches that are tried, a second each
	for i := n + 1; i < min(n+1+far, len(s.Patches)); i++ {
		c, err := s.Tree.Apply(ctx, on, s.Patches[i].Subject, s.Patches[i].Message)
		if err == nil {
			_, err = s.Tree.Apply(ctx, c, s.Patches[n].Subject, s.Patches[n].Message)
		}
		if err == nil {
			return i, nil
		}
		if !errors.As(err, new(*checkout.ApplyError)) {
			return 0, err
		}
	}
	return 0, nil
}

func (s *Series) stage(c checkout.Commit, st effect.Stage) {
	st.Subject, st.Commit = c.Subject, c.Hash
	s.Report.Stages = append(s.Report.Stages, st)
	s.stages = append(s.stages, &stage{commit: c, kernels: map[string]kernels.Kernel{}})
}

// nth is how a stage is named to the user.
func (s *Series) nth(i int) string {
	if i == 0 {
		return "base"
	}
	return fmt.Sprintf("patch %d of %d", i, s.Report.Patches)
}

// build builds every stage in every flavour. A patch that does not build is noted, and the next one tried; a base
// that does not is nothing to compare with.
func (s *Series) build(ctx context.Context) error {
	for i, st := range s.stages {
		for _, flavour := range s.Flavours {
			began := time.Now()
			k, old, err := s.kernel(ctx, st, flavour)
			b := effect.Build{Flavour: flavour, Seconds: time.Since(began).Seconds()}
			if failed, ok := errors.AsType[*BuildError](err); ok {
				b.Failure, b.Log = failed.First, failed.Log
				s.Report.Stages[i].Builds = append(s.Report.Stages[i].Builds, b)
				if i == 0 {
					return fmt.Errorf("the base does not build (%s), so there is nothing to compare with: %w", flavour, failed)
				}
				first, _, _ := strings.Cut(failed.First, "\n")
				text := fmt.Sprintf("%s (%s) does not build (%s): %s", s.nth(i), st.commit.Subject, flavour, first)
				if failed.Log != "" {
					text += "; all of it is in " + failed.Log
				}
				s.Say(text)
				continue
			} else if err != nil {
				return fmt.Errorf("build %s, %s: %w", s.nth(i), flavour, err)
			}
			st.kernels[flavour] = k
			b.Release, b.Hash = k.Release, k.Hash
			s.Report.Stages[i].Builds = append(s.Report.Stages[i].Builds, b)
			how := fmt.Sprintf("built in %.0f s", b.Seconds)
			if old {
				how = "built before"
			}
			if i > 0 && s.stages[i-1].kernels[flavour].Hash == k.Hash {
				how += ", the same kernel as before it"
			}
			s.Say(fmt.Sprintf("%s (%s), %s: %s", s.nth(i), st.commit.Subject, flavour, how))
		}
	}
	return nil
}

// kernel gives the kernel of a stage; old says that it had been built before.
func (s *Series) kernel(ctx context.Context, st *stage, flavour string) (k kernels.Kernel, old bool, err error) {
	key := ""
	if s.BuildKey != nil && s.Kernel != nil {
		made, err := s.BuildKey(flavour)
		if err != nil {
			return k, false, err
		}
		key = st.commit.Tree + " " + made
		if hash, ok := s.Store.Built(key); ok {
			if k, ok := s.Kernel(hash); ok {
				return k, true, nil
			}
		}
	}
	if err := s.Tree.Go(ctx, st.commit); err != nil {
		return k, false, err
	}
	if k, err = s.Builder.Build(ctx, s.Tree.Dir(), flavour); err != nil {
		return k, false, err
	}
	if key != "" {
		err = s.Store.SaveBuilt(key, k.Hash)
	}
	return k, false, err
}

// cellsOf plans what is run of a kernel: at the ends everything, between them what --each asks for.
func (s *Series) cellsOf(k kernels.Kernel, end bool) ([]plan.Cell, error) {
	id := fmt.Sprint(k.Hash, end)
	if cells, ok := s.planned[id]; ok {
		return cells, nil
	}
	ask := func(catalogue []lab.Scenario, globs []string) ([]plan.Cell, error) {
		p, err := plan.Make(plan.Request{Catalogue: catalogue, Globs: globs, Kernels: []kernels.Kernel{k}, Machines: s.Machines, QEMU: s.QEMU})
		return p.Cells, err
	}
	var cells []plan.Cell
	if end || s.Each == Full {
		var err error
		if cells, err = ask(s.Catalogue, s.Globs); err != nil {
			return nil, err
		}
		if s.Program != nil {
			more, err := ask([]lab.Scenario{s.Program.Scenario()}, nil)
			if err != nil {
				return nil, err
			}
			cells = append(more, cells...)
		}
	}
	if s.Each == Smoke {
		var few []lab.Scenario
		for _, sc := range s.Catalogue {
			if slices.Contains(smoke, sc.Name) {
				few = append(few, sc)
			}
		}
		more, err := ask(few, nil)
		if err != nil {
			return nil, err
		}
		for _, c := range more {
			if !slices.ContainsFunc(cells, func(o plan.Cell) bool { return cellName(o) == cellName(c) && o.Machine.Name == c.Machine.Name }) {
				cells = append(cells, c)
			}
		}
	}
	s.planned[id] = cells
	return cells, nil
}

func cellName(c plan.Cell) string {
	if c.Variant == "" {
		return c.Scenario.Name
	}
	return c.Scenario.Name + "@" + c.Variant
}

// need sees to it that every cell has n runs that tell something. Cells may be of several kernels.
func (s *Series) need(ctx context.Context, cells []plan.Cell, n int) error {
	// A reproducer's cells are a run of their own: it runs in the place of scenarios.
	type group struct {
		kernel  string
		program bool
	}
	byKernel := map[group][]plan.Cell{}
	var order []group
	taken := map[string]bool{}
	for _, c := range cells {
		key := s.Store.Key(c)
		if c.Skip != "" || taken[key] || s.lost[key] != "" {
			continue
		}
		taken[key] = true
		have := s.Store.Runs(c)
		s.Report.Reused += s.Store.Reuse(c)
		if len(have) > 0 && !slices.ContainsFunc(have, func(r results.Cell) bool { return r.Verdict != record.Skip }) {
			continue // the guest said so; it will again
		}
		for i := len(have); i < n; i++ {
			if n > 1 || i > 0 {
				c.Repeat = i + 1
			}
			g := group{c.Kernel.Hash, c.Scenario.Name == lab.ExecName}
			if len(byKernel[g]) == 0 {
				order = append(order, g)
			}
			byKernel[g] = append(byKernel[g], c)
		}
	}
	for _, g := range order {
		if err := s.run(ctx, byKernel[g]); err != nil {
			return err
		}
	}
	return nil
}

// run runs cells of one kernel and keeps what came of them.
func (s *Series) run(ctx context.Context, cells []plan.Cell) error {
	id, verdicts, err := s.Runner.Run(ctx, cells)
	if id != "" {
		s.Report.Runs = append(s.Report.Runs, id)
	}
	s.Report.Ran += len(verdicts)
	byID := map[string]results.Cell{}
	for _, v := range verdicts {
		byID[v.ID()] = v
	}
	for _, c := range cells {
		switch v, ok := byID[planned(c).ID()]; {
		case ok && v.Verdict != record.Error && v.Verdict != record.Invalid:
			if err := s.Store.Add(c, id, v); err != nil {
				return err
			}
		case ok:
			s.lost[s.Store.Key(c)] = "error: " + v.Title
		case err == nil && ctx.Err() == nil: // asking again would give nothing again
			s.lost[s.Store.Key(c)] = "the run has no verdict"
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// planned is the cell as a run's files know it.
func planned(c plan.Cell) results.Planned {
	return results.Planned{
		Scenario: c.Scenario.Name, Variant: c.Variant, Kernel: c.Kernel.Release, Machine: c.Machine.Name, Repeat: c.Repeat,
	}
}

// runsOf is what is known of a cell: its runs, or one skip by plan.
func (s *Series) runsOf(c plan.Cell) []results.Cell {
	if c.Skip != "" {
		return []results.Cell{results.Skip{Planned: planned(c), Reason: c.Skip, Remedy: c.Remedy}.Cell()}
	}
	return s.Store.Runs(c)
}

// silent says that nothing is known of a cell, not even why: it was not run.
func (s *Series) silent(c plan.Cell) bool {
	return len(s.runsOf(c)) == 0 && s.lost[s.Store.Key(c)] == ""
}

// sayHow tells how a stage's first runs ended.
func (s *Series) sayHow(i int, flavour string, cells []plan.Cell) {
	ran, bad, skipped := 0, 0, 0
	for _, c := range cells {
		switch runs := s.runsOf(c); {
		case len(runs) == 0:
		case runs[0].Verdict == record.Skip:
			skipped++
		default:
			ran++
			if slices.ContainsFunc(runs, func(r results.Cell) bool { return r.Verdict.Bad() }) {
				bad++
			}
		}
	}
	s.Report.Stages[i].Ran += ran
	s.Report.Stages[i].Bad += bad
	if ran+skipped > 0 {
		s.Say(fmt.Sprintf("%s, %s: %s, %d bad, %d skipped", s.nth(i), flavour, count(ran, "cell", "cells"), bad, skipped))
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
