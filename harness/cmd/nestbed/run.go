package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/nestbed/nestbed/harness/doctor"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/harness/runner"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/results/render"
	"github.com/nestbed/nestbed/scenarios/lab"

	_ "github.com/nestbed/nestbed/scenarios" // the catalogue
)

type runFlags struct {
	kernels  []string
	machines []string
	jobs     int
	repeat   int
	json     bool
	output   string
	keep     bool
	known    string
	noKnown  bool
	qemu     string
}

func newRun() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [SCENARIO-GLOB...]",
		Short: "run scenarios on kernels and machines, and print verdicts",
		Long: `Runs every scenario that a glob matches (all without one; NAME@VARIANT names one variant) on every
kernel and machine, each in a guest of its own.

Exit status: 0 all well or known, 1 a cell is fail, crash or hang, 2 error, unfinished or usage,
130 and 143 ended by ^C and SIGTERM.`,
		Example: `  nestbed run
  nestbed run 'unload-*' -k debian:6.1 -k debian:6.12 --no-known
  nestbed run attach-group-container -k /path/to/build/tree -m amd --repeat 10`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runScenarios(cmd.Context(), f, args, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.kernels, "kernel", "k", []string{defaultKernel}, "kernel SPEC, may be repeated (nestbed kernel add --help)")
	flags.StringSliceVarP(&f.machines, "machine", "m", []string{"intel"}, "machine by its vIOMMU: "+strings.Join(machine.Names(), ", "))
	flags.IntVarP(&f.jobs, "jobs", "j", 0, "guests at once (default: one per CPU, as memory allows)")
	flags.IntVar(&f.repeat, "repeat", 1, "run every cell so often")
	flags.BoolVar(&f.json, "json", false, "one JSON object per cell per line")
	flags.StringVar(&f.output, "output", "", "folder for runs (default: $XDG_STATE_HOME/nestbed/runs)")
	flags.BoolVar(&f.keep, "keep", false, "open a shell in the guest of a cell that ends badly, before it ends")
	flags.StringVar(&f.known, "known", "", "known-issues file instead of the one that ships with nestbed")
	flags.BoolVar(&f.noKnown, "no-known", false, "consult no known issues: show every verdict raw")
	flags.StringVar(&f.qemu, "qemu", "", "QEMU binary (default: "+qemu.DefaultBinary+" in PATH)")
	cmd.MarkFlagsMutuallyExclusive("known", "no-known")
	cmd.MarkFlagsMutuallyExclusive("json", "keep")
	return cmd
}

func runScenarios(ctx context.Context, f runFlags, globs []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if f.repeat < 1 || f.jobs < 0 {
		return errors.New("--repeat and --jobs take a number from 1")
	}
	known, err := loadKnown(f)
	if err != nil {
		return err
	}
	// What can be wrong without booting anything is said first.
	machines, err := namedMachines(f.machines)
	if err != nil {
		return err
	}
	if _, err := plan.Make(plan.Request{Catalogue: lab.All(), Globs: globs}); err != nil {
		return err
	}
	path, version, err := qemu.Find(f.qemu)
	if err != nil {
		return err
	}
	say := func(s string) { fmt.Fprintln(stderr, "nestbed: "+render.Escape(s)) }
	t, err := openTools(f.output, path, say)
	if err != nil {
		return err
	}
	ks, err := resolve(ctx, t.kernels, f.kernels, say)
	if err != nil {
		return err
	}
	accel, err := t.doctor.Choose(ctx)
	if err != nil {
		return err
	}
	for i := range machines {
		machines[i].Accel = accel.Accel
	}
	p, err := plan.Make(plan.Request{Catalogue: lab.All(), Globs: globs, Kernels: ks, Machines: machines, Repeat: f.repeat, Others: t.others()})
	if err != nil {
		return err
	}
	if len(p.Cells) == 0 {
		return errors.New("nothing to run: this nestbed has no scenarios")
	}
	run, err := results.Create(t.home.runs, header(p, ks, accel.NotCovered(), string(accel.Accel), f.qemu, version))
	if err != nil {
		return err
	}
	defer run.Close()

	live := !f.json && !f.keep && isTerminal(stderr)
	progress := render.NewProgress(stderr, render.ProgressOptions{Live: live, Total: len(p.Runs()), Workers: jobs(f.jobs, machines)})
	save := func(c results.Cell) error {
		if err := run.Append(c); err != nil || !f.json {
			return err
		}
		return render.JSON(stdout, run, c)
	}
	if f.json {
		if err := eachJSON(stdout, run); err != nil { // what the plan skipped: nothing else has a verdict yet
			return err
		}
	}
	r := &runner.Runner{
		Guests: t.pool, Agent: t.agent, Run: run, Known: known, Progress: progress,
		Workers: jobs(f.jobs, machines), QEMU: version, BootProven: map[string]bool{doctor.Machine: accel.Proven},
	}
	if f.keep {
		r.Keep = keeper(stdin, stdout, stderr)
	}
	began := time.Now()
	runErr := r.Go(ctx, runner.NewLocal(p.Runs(), save))
	progress.Close()
	reported := report(run, known, f, time.Since(began), stdout)
	if runErr != nil {
		complain(stderr, fmt.Errorf("the run ended early: %w", runErr))
		return statusError(2)
	}
	return reported
}

// keeper opens a shell in each guest that it is given, one at a time.
func keeper(stdin io.Reader, stdout, stderr io.Writer) func(context.Context, runner.Kept) {
	var mu sync.Mutex
	return func(ctx context.Context, k runner.Kept) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(stderr, "nestbed: %s ended badly; a shell in its guest (exit goes on with the run):\n", k.Cell.ID())
		if _, err := attach(ctx, k.Guest, "", stdin, stdout, stderr); err != nil {
			fmt.Fprintln(stderr, "nestbed: "+render.Escape(err.Error()))
		}
	}
}

// report prints how the run ended and turns it into an exit status.
func report(run *results.Run, known results.Known, f runFlags, elapsed time.Duration, stdout io.Writer) error {
	cells, err := run.Cells()
	if err != nil {
		return err
	}
	unfinished, err := run.Unfinished()
	if err != nil {
		return err
	}
	if !f.json {
		for _, c := range cells {
			if c.Verdict.Bad() || c.Verdict == record.Error {
				if err := render.Detail(stdout, run, c); err != nil {
					return err
				}
				fmt.Fprintln(stdout)
			}
		}
		if err := render.Table(stdout, summary(run, f.output != "", cells, unfinished, known, elapsed)); err != nil {
			return err
		}
	}
	return status(cells, unfinished)
}

// summary names the run by its folder where its id alone would not be found again.
func summary(run *results.Run, elsewhere bool, cells []results.Cell, unfinished []results.Planned, known results.Known, elapsed time.Duration) render.Summary {
	ref := run.ID()
	if elsewhere {
		ref = run.Dir()
	}
	return render.Summary{
		RunID: ref, Cells: cells, Unfinished: unfinished,
		Passes: known.UnexpectedPasses(cells), NotCovered: run.Header().NotCovered, Elapsed: elapsed,
	}
}

func status(cells []results.Cell, unfinished []results.Planned) error {
	verdicts := make([]record.Verdict, len(unfinished)) // Invalid
	for _, c := range cells {
		verdicts = append(verdicts, c.Verdict)
	}
	if s := record.ExitStatus(verdicts...); s != 0 {
		return statusError(s)
	}
	return nil
}

func loadKnown(f runFlags) (results.Known, error) {
	switch {
	case f.noKnown:
		return results.Known{}, nil
	case f.known != "":
		return results.LoadKnown(f.known)
	}
	return results.ShippedKnown()
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
func jobs(asked int, machines []machine.Machine) int {
	if asked > 0 {
		return asked
	}
	largest := 1
	for _, m := range machines {
		largest = max(largest, m.MemoryMB)
	}
	const qemuMB = 256 // QEMU's own, translated code included
	return max(1, min(runtime.NumCPU(), availableMB()/(largest+qemuMB)))
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

func header(p plan.Plan, ks []kernels.Kernel, notCovered []string, accel, binary, qemuVersion string) results.Header {
	h := results.Header{
		Args: append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...), Version: version(), Catalogue: lab.Catalogue(),
		Host: host(), QEMU: qemuVersion, QEMUBinary: binary, Accelerator: accel, NotCovered: notCovered,
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

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
