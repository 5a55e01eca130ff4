package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/harness/runner"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/results/render"
	"github.com/nestbed/nestbed/scenarios/lab"

	_ "github.com/nestbed/nestbed/scenarios" // the catalogue
)

type runFlags struct {
	cellFlags
	keep    bool
	timing  bool
	known   string
	noKnown bool
}

func newRun() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [SCENARIO-GLOB...]",
		Short: "run scenarios on kernels and machines, and print verdicts",
		Long: `Runs every scenario that a glob matches (all without one; NAME@VARIANT names one variant) on every
kernel and machine, each in a guest of its own. Scenarios of the area detect, which have the kernel report bugs
to see that nestbed reads them right, run only for a glob that begins with detect.

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
	flags.IntVar(&f.repeat, "repeat", 1, "run every cell so often")
	flags.BoolVar(&f.json, "json", false, "one JSON object per cell per line")
	flags.BoolVar(&f.keep, "keep", false, "open a shell in the guest of a cell that ends badly, before it ends")
	flags.BoolVar(&f.timing, "timing", false, "say where the time went")
	flags.StringVar(&f.known, "known", "", "known-issues file instead of the one that ships with nestbed")
	flags.BoolVar(&f.noKnown, "no-known", false, "consult no known issues: show every verdict raw")
	f.add(flags)
	cmd.MarkFlagsMutuallyExclusive("known", "no-known")
	cmd.MarkFlagsMutuallyExclusive("json", "keep")
	cmd.MarkFlagsMutuallyExclusive("json", "timing") // each cell has it there
	return cmd
}

func runScenarios(ctx context.Context, f runFlags, globs []string, stdin io.Reader, stdout, stderr io.Writer) error {
	known, err := loadKnown(f)
	if err != nil {
		return err
	}
	p, err := f.prepare(ctx, plan.Request{Catalogue: lab.All(), Globs: globs}, stderr)
	if err != nil {
		return err
	}
	if len(p.plan.Cells) == 0 {
		return errors.New("nothing to run: this nestbed has no scenarios")
	}
	r := &runner.Runner{Known: known}
	if f.keep {
		r.Keep = keeper(stdin, stdout, stderr)
	}
	began := time.Now()
	return p.run(ctx, r, stdout, stderr, func(run *results.Run) error {
		return report(run, known, f, time.Since(began), stdout)
	})
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
		if f.timing {
			if err := render.Timing(stdout, cells, ownCPU(), elapsed); err != nil {
				return err
			}
		}
	}
	return status(cells, unfinished)
}

// ownCPU is the CPU time of this process, without that of its guests.
func ownCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
