package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/harness/doctor"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/harness/runner"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/render"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// cellFlags are what every command that runs cells takes: on what, how often, how many at once, and where it
// is written down.
type cellFlags struct {
	kernels      []string
	machines     []string
	repeat, jobs int
	json, boot   bool
	output, qemu string
}

// add defines the flags that mean the same to all of them.
func (f *cellFlags) add(flags *pflag.FlagSet) {
	flags.IntVarP(&f.jobs, "jobs", "j", 0, "guests at once (default: one per CPU, as memory allows)")
	flags.StringVar(&f.output, "output", "", "folder for runs (default: $XDG_STATE_HOME/nestbed/runs)")
	flags.BoolVar(&f.boot, "boot", false, "boot every guest; without it guests are restored that booted before")
	flags.StringVar(&f.qemu, "qemu", "", "QEMU binary (default: "+qemu.DefaultBinary+" in PATH)")
}

// prepared is a run of which nothing has booted yet.
type prepared struct {
	flags  cellFlags
	tools  *tools
	accel  doctor.Choice
	plan   plan.Plan
	header results.Header
	jobs   int
}

// check says what is wrong with the flags themselves, and gives the machines.
func (f cellFlags) check() ([]machine.Machine, error) {
	if f.repeat < 1 || f.jobs < 0 {
		return nil, errors.New("--repeat and --jobs take a number from 1")
	}
	return namedMachines(f.machines)
}

// prepare finds QEMU, the kernels and an accelerator, and plans what req and the flags ask for. What can be
// wrong without booting anything is said first.
func (f cellFlags) prepare(ctx context.Context, req plan.Request, stderr io.Writer) (*prepared, error) {
	machines, err := f.check()
	if err != nil {
		return nil, err
	}
	if _, err := plan.Make(req); err != nil {
		return nil, err
	}
	path, version, err := qemu.Find(f.qemu)
	if err != nil {
		return nil, err
	}
	say := func(s string) { fmt.Fprintln(stderr, "nestbed: "+render.Escape(s)) }
	t, err := openTools(f.output, path, say)
	if err != nil {
		return nil, err
	}
	ks, err := resolve(ctx, t.kernels, f.kernels, say)
	if err != nil {
		return nil, err
	}
	accel, err := t.doctor.Choose(ctx)
	if err != nil {
		return nil, err
	}
	can, err := qemu.Ask(ctx, path)
	if err != nil {
		return nil, err
	}
	for i := range machines {
		machines[i].Accel = accel.Accel
	}
	req.Kernels, req.Machines, req.Repeat, req.Others = ks, machines, f.repeat, t.others()
	req.QEMU = can
	p, err := plan.Make(req)
	if err != nil {
		return nil, err
	}
	h := header(p, ks)
	h.QEMU, h.QEMUBinary, h.Accelerator, h.NotCovered = version, f.qemu, string(accel.Accel), accel.NotCovered()
	return &prepared{flags: f, tools: t, accel: accel, plan: p, header: h, jobs: jobs(f.jobs, p)}, nil
}

// run runs the cells and reports how they ended. r has what the command adds to what was prepared.
func (p *prepared) run(ctx context.Context, r *runner.Runner, stdout, stderr io.Writer, report func(*results.Run) error) error {
	cells := longestFirst(p.plan.Runs(), results.Durations(p.tools.home.runs))
	run, err := results.Create(p.tools.home.runs, p.header)
	if err != nil {
		return err
	}
	defer run.Close()
	save := func(c results.Cell) error {
		if err := run.Append(c); err != nil || !p.flags.json {
			return err
		}
		return render.JSON(stdout, run, c)
	}
	if p.flags.json {
		if err := eachJSON(stdout, run); err != nil { // what the plan skipped: nothing else has a verdict yet
			return err
		}
	}
	progress := render.NewProgress(stderr, render.ProgressOptions{
		Live: !p.flags.json && r.Keep == nil && isTerminal(stderr), Total: len(cells), Workers: p.jobs,
	})
	r.Guests, r.Agent, r.Run, r.Progress, r.Workers, r.QEMU = p.tools.pool, p.tools.agent, run, progress, p.jobs, p.header.QEMU
	r.Boot = p.flags.boot
	r.BootProven = map[string]bool{doctor.Machine: p.accel.Proven}
	runErr := r.Go(ctx, runner.NewLocal(cells, save))
	progress.Close()
	reported := report(run)
	if runErr != nil {
		complain(stderr, fmt.Errorf("the run ended early: %w", runErr))
		return toldError{runErr}
	}
	return reported
}

// toldError is an error that the user was told: it ends the command without another word.
type toldError struct{ error }

func (e toldError) Unwrap() []error { return []error{e.error, statusError(2)} }

// longestFirst orders cells by what they took before: a long one that begins last would hold up the run's end.
// Those that nobody knows come first: they may be long too. Repeats stay one behind the other.
func longestFirst(cells []plan.Cell, before func(results.Planned) (float64, bool)) []plan.Cell {
	expected := func(c plan.Cell) float64 {
		if seconds, ok := before(runner.Planned(c)); ok {
			return seconds
		}
		return math.Inf(1)
	}
	slices.SortStableFunc(cells, func(a, b plan.Cell) int { return cmp.Compare(expected(b), expected(a)) })
	return cells
}

// eachJSON writes the cells that have a verdict.
func eachJSON(w io.Writer, run *results.Run) error {
	cells, err := run.Cells()
	if err != nil {
		return err
	}
	for _, c := range cells {
		if err := render.JSON(w, run, c); err != nil {
			return err
		}
	}
	return nil
}

func namedMachines(names []string) ([]machine.Machine, error) {
	var ms []machine.Machine
	for _, name := range names {
		m, err := machine.Named(name)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(ms, func(other machine.Machine) bool { return other.Name == m.Name }) {
			ms = append(ms, m)
		}
	}
	return ms, nil
}

// resolve finds the kernels, each once, and shows imports as they go.
func resolve(ctx context.Context, cache *kernels.Cache, specs []string, say func(string)) ([]kernels.Kernel, error) {
	var ks []kernels.Kernel
	byRelease := map[string]kernels.Kernel{}
	for _, spec := range specs {
		k, err := cache.Resolve(ctx, spec, say)
		if err != nil {
			return nil, err
		}
		switch other, ok := byRelease[k.Release]; {
		case !ok:
			ks = append(ks, k)
			byRelease[k.Release] = k
		case other.Hash != k.Hash: // a cell is named by its kernel's release
			return nil, fmt.Errorf("%s and %s are different kernels that both call themselves %s: set CONFIG_LOCALVERSION in one, or run one at a time", other.Spec, spec, k.Release)
		}
	}
	return ks, nil
}

// jobs is how many guests run at once: as many as asked for, or one per CPU as far as memory goes.
func jobs(asked int, p plan.Plan) int {
	if asked > 0 {
		return asked
	}
	const qemuMB = 256 // QEMU's own, translated code included
	return max(1, min(runtime.NumCPU(), availableMB()/(p.LargestMB()+qemuMB)))
}

func availableMB() int {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var kb int
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kb); err == nil {
			return kb >> 10
		}
	}
	return 0
}

// header is run.json of a plan; the caller adds what it knows of the QEMU and the accelerator.
func header(p plan.Plan, ks []kernels.Kernel) results.Header {
	h := results.Header{
		Args: append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...), Version: version(), Catalogue: lab.Catalogue(),
		Host: host(),
	}
	for _, k := range ks {
		h.Kernels = append(h.Kernels, results.Kernel{Spec: k.Spec, Release: k.Release, Hash: k.Hash})
	}
	for _, c := range p.Cells {
		planned := runner.Planned(c)
		if c.Skip != "" {
			h.Skips = append(h.Skips, results.Skip{Planned: planned, Reason: c.Skip, Remedy: c.Remedy})
		} else {
			h.Cells = append(h.Cells, planned)
		}
	}
	return h
}

func host() results.Host {
	h := results.Host{CPUs: runtime.NumCPU()}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		h.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		h.MemoryMB = int(uint64(info.Totalram) * uint64(info.Unit) >> 20)
	}
	return h
}
