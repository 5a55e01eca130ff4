package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/harness/repro"
	"github.com/nestbed/nestbed/harness/runner"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/results/render"
	"github.com/nestbed/nestbed/scenarios/lab"
)

type execFlags struct {
	cellFlags
	kernel, machine string
	devices         []string
	expect          string
	timeout         time.Duration
}

func newExec() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] -- PROG [ARG...]",
		Short: "run a program or a reproducer in a guest, beside a device bound to vfio-pci",
		Long: `Boots a guest as run would, loads kvm, its vendor module, vfio_pci and vfio_iommu_type1, hot-adds the device,
sees that it is alive, binds it to vfio-pci and runs PROG there as root. The run is judged by the program's exit
status, the kernel's console, IOMMU faults and the closing invariant: what the program took, the kernel has back
once the program and all that it started are killed. No known issue is consulted.

PROG is a static program for x86-64; a .c file, which is compiled first (cc -static -O2 -g -pthread); or a shell
script, for which a static busybox is taken along from PATH. It finds in its environment:

  NESTBED_BDF          0000:01:00.0, the device's address, as VFIO_GROUP_GET_DEVICE_FD takes it
  NESTBED_GROUP        its IOMMU group: /dev/vfio/$NESTBED_GROUP
  NESTBED_CDEV         /dev/vfio/devices/vfio0, unset where the kernel has no VFIO_DEVICE_CDEV
  NESTBED_DEVICE       edu, nvme ...
  NESTBED_DEVICES      how many there are; the second is NESTBED_BDF_2, NESTBED_GROUP_2 and so on
  NESTBED_IOMMU        intel, amd, virtio or none
  NESTBED_KVM_MODULE   kvm_amd or kvm_intel

Its output is kept in output.log of the cell's folder, 256 KB of it. What it forks is killed with it. A module
that it unloads is loaded again for the closing invariant.

With --expect PROG is a reproducer: a run in which the kernel reports such a title is a hit, and how PROG ends is
no claim any more. A hit is still a crash in nestbed show, compare and report.

Exit status                without --expect               with --expect
  0                        every run passed               a run, or more, reproduced
  1                        a run is fail, crash or hang   no run did
  2                        cannot be told: error, skip, unfinished, usage
  130, 143                 ended by ^C and SIGTERM

To bisect to the commit that broke it, where 0 must say that the kernel is good and 125 that nobody knows:

  git bisect run sh -c 'make -sj8 || exit 125
    nestbed exec -k . --repeat 3 --expect TITLE -- bug.c
    case $? in 0) exit 1;; 1) exit 0;; 2) exit 125;; *) exit 255;; esac'

--json prints a cell per line, as run does, and last one line of schema ` + results.TallySchema + `.`,
		Example: `  nestbed exec -- bug.c
  nestbed exec -k debian:6.12 --repeat 20 --expect 'simple_recursive_removal' -- l1.c
  nestbed exec -k ~/linux -m amd --device nvme --device edu --timeout 5m -- ./stress -n 1000
  nestbed exec --device none -- script.sh`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return execProgram(cmd.Context(), f, args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows PROG is PROG's
	flags.StringVarP(&f.kernel, "kernel", "k", defaultKernel, "kernel SPEC (nestbed kernel add --help)")
	flags.StringVarP(&f.machine, "machine", "m", "intel", "machine by its vIOMMU: "+strings.Join(machine.Names(), ", "))
	flags.StringSliceVar(&f.devices, "device", []string{lab.EDU.Name}, "device to bind, may be repeated; none: no device")
	flags.IntVar(&f.repeat, "repeat", 1, "run it so often, each time in a guest of its own")
	flags.StringVar(&f.expect, "expect", "", "title of the kernel report that PROG is to provoke, a regular expression")
	flags.DurationVar(&f.timeout, "timeout", time.Minute, "PROG is killed after so long; more on a slow guest")
	flags.BoolVar(&f.json, "json", false, "one JSON object per line: the cells, then their tally")
	f.add(flags)
	return cmd
}

// program is what the flags ask for, without the program itself.
func (f execFlags) program() (lab.Program, error) {
	p := lab.Program{Timeout: f.timeout, Reproducer: f.expect != ""}
	if f.timeout <= 0 {
		return p, errors.New("--timeout takes a time, such as 30s or 5m")
	}
	if _, err := regexp.Compile(f.expect); err != nil {
		return p, fmt.Errorf("--expect: %w", err)
	}
	if slices.Equal(f.devices, []string{"none"}) {
		return p, nil
	}
	for _, name := range f.devices {
		d, err := lab.DeviceNamed(name)
		if err != nil {
			return p, fmt.Errorf("--device: %w, or none alone", err)
		}
		p.Devices = append(p.Devices, d)
	}
	return p, nil
}

func execProgram(ctx context.Context, f execFlags, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errors.New("exec which program? nestbed exec [flags] -- PROG [ARG...] (nestbed exec --help)")
	}
	// What can be wrong without booting anything is said first.
	p, err := f.program()
	if err != nil {
		return err
	}
	f.kernels, f.machines = []string{f.kernel}, []string{f.machine}
	if _, err := f.check(); err != nil { // before PROG is compiled
		return err
	}
	loaded, err := repro.Load(ctx, args[0], args[1:])
	if err != nil {
		return err
	}
	if loaded.Warnings != "" {
		fmt.Fprintln(stderr, render.EscapeLines(loaded.Warnings))
	}
	p.Name, p.Argv = loaded.Name, loaded.Argv
	cells, err := f.prepare(ctx, plan.Request{Catalogue: []lab.Scenario{p.Scenario()}}, stderr)
	if err != nil {
		return err
	}
	if cells.header.Program, err = f.programOf(args, loaded); err != nil {
		return err
	}
	return cells.run(ctx, &runner.Runner{Program: &p, Files: loaded.Files}, stdout, stderr, func(run *results.Run) error {
		return f.report(run, stdout)
	})
}

// programOf is the program as the run's files tell of it.
func (f execFlags) programOf(args []string, loaded repro.Program) (*results.Program, error) {
	path, err := filepath.Abs(args[0]) // so that the command to run it again works anywhere
	devices := f.devices
	if slices.Equal(devices, []string{"none"}) {
		devices = nil
	}
	return &results.Program{
		Path: path, Args: args[1:], SHA256: loaded.SHA256, Devices: devices, Timeout: f.timeout.Seconds(), Expect: f.expect,
	}, err
}

// report prints each way in which the program's runs ended once, then how often each came, and gives the
// exit status.
func (f execFlags) report(run *results.Run, stdout io.Writer) error {
	tally, err := run.Tally()
	if err != nil {
		return err
	}
	if f.json {
		line, err := json.Marshal(tally)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s\n", render.EscapeJSON(line))
		return tallied(tally)
	}
	for _, e := range tally.Endings {
		if e.Verdict == record.Invalid || e.Verdict == record.Pass && f.repeat > 1 {
			continue
		}
		if err := render.Detail(stdout, run, e.Example); err != nil {
			return err
		}
		fmt.Fprintln(stdout)
	}
	if err := render.Tally(stdout, tally); err != nil {
		return err
	}
	ref := run.ID()
	if f.output != "" {
		ref = run.Dir()
	}
	return errors.Join(render.Footer(stdout, run.Header().NotCovered, ref), tallied(tally))
}

func tallied(t results.Tally) error {
	if s := t.Status(); s != 0 {
		return statusError(s)
	}
	return nil
}
