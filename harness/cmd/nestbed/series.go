package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/nestbed/nestbed/harness/doctor"
	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/harness/repro"
	"github.com/nestbed/nestbed/harness/runner"
	"github.com/nestbed/nestbed/harness/series"
	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/build"
	"github.com/nestbed/nestbed/kernels/checkout"
	"github.com/nestbed/nestbed/kernels/fragments"
	"github.com/nestbed/nestbed/kernels/patch"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/effect"
	"github.com/nestbed/nestbed/results/render"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// The files of a series, in its folder.
const (
	seriesFile = "series.json"
	letterFile = "cover-letter.txt"
)

type seriesFlags struct {
	cellFlags
	tree, commits, mbox, patches, base string
	flavours                           []string
	each, with                         string
	fresh                              bool
}

func newSeries() *cobra.Command {
	var f seriesFlags
	cmd := &cobra.Command{
		Use:   "series --tree TREE (--range BASE..HEAD | --mbox FILE|- | --patches DIR) [SCENARIO-GLOB...]",
		Short: "validate a patch series: does each patch apply and build, what breaks, what is fixed",
		Long: `Builds and runs a base, applies patch after patch, builds each, runs a few scenarios after each (--each) and all
that the globs match on the end, and compares base and end cell by cell. A cell that differs is run again on both
sides until chance does not explain it any more, ten times at most: then it is called flaky. If the end is worse
than the base, the patch that did it is searched for by halves. No known issue is consulted.

TREE is a git tree of Linux. It is only read: patches are applied in the cache, uncommitted changes are left out,
and that is said. Patches go on top of --base, else of the commit that a base-commit: line names, else of HEAD.
Cover letters and replies in an mbox are passed over.

What an earlier series ran of the same kernel (by its content), machine and scenario is not run again (--fresh
does). Kernels are built incrementally.

The folder that is named at the end holds series.json and cover-letter.txt, ready to paste.

Exit status: 0 nothing is worse; 1 something is worse at the end or between two patches, or a patch does not apply
or build; 2 error, usage, or a cell has no verdict; 130 and 143 ended by ^C and SIGTERM.`,
		Example: `  nestbed series --tree ~/linux --range v6.12..HEAD 'unload-*'
  b4 am -o - MSGID | nestbed series --tree ~/linux --mbox -
  nestbed series --tree ~/linux --patches outgoing/ --flavours base,kasan -m intel,amd --each full
  nestbed series --tree ~/linux --range HEAD~1..HEAD --with repro.c 'attach-*'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSeries(cmd.Context(), f, args, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	f.add(flags)
	flags.StringVar(&f.tree, "tree", "", "git tree of Linux")
	flags.StringVar(&f.commits, "range", "", "the series as commits of the tree: BASE..HEAD")
	flags.StringVar(&f.mbox, "mbox", "", "the series as an mbox; - is standard input")
	flags.StringVar(&f.patches, "patches", "", "the series as a folder that git format-patch wrote")
	flags.StringVar(&f.base, "base", "", "revision that the mailed patches go on top of")
	flags.StringSliceVarP(&f.machines, "machine", "m", []string{"intel"}, "machine by its vIOMMU: "+strings.Join(machine.Names(), ", "))
	flags.StringSliceVar(&f.flavours, "flavours", []string{"base"}, "kernels to build of each patch (nestbed kernel build --help lists them)")
	flags.StringVar(&f.each, "each", string(series.Smoke), "what to run after each patch: smoke, full or none")
	flags.StringVar(&f.with, "with", "", "reproducer to run before and after, as nestbed exec would: repro.c")
	flags.BoolVar(&f.fresh, "fresh", false, "build and run everything, whatever an earlier series knows")
	flags.BoolVar(&f.json, "json", false, "print series.json")
	cmd.MarkFlagsMutuallyExclusive("range", "mbox", "patches")
	cmd.MarkFlagsMutuallyExclusive("range", "base")
	return cmd
}

// request is what can be said of the flags without the tree, QEMU or a kernel.
func (f *seriesFlags) request(globs []string) (series.Request, error) {
	r := series.Request{Catalogue: lab.All(), Globs: globs}
	switch {
	case f.tree == "":
		return r, errors.New("series of which tree? nestbed series --tree ~/linux --range BASE..HEAD")
	case f.commits == "" && f.mbox == "" && f.patches == "":
		return r, errors.New("which patches? give --range BASE..HEAD, --mbox FILE (- for standard input) or --patches DIR")
	}
	f.repeat = 1
	var err error
	if r.Machines, err = f.check(); err != nil {
		return r, err
	}
	if r.Each, err = series.ParseEach(f.each); err != nil {
		return r, err
	}
	for _, name := range f.flavours {
		if _, err := fragments.Named(name); err != nil {
			return r, err
		}
		if !slices.Contains(r.Flavours, name) {
			r.Flavours = append(r.Flavours, name)
		}
	}
	if len(r.Flavours) == 0 {
		return r, errors.New("--flavours is empty: base is the small and fast one")
	}
	_, err = plan.Make(plan.Request{Catalogue: r.Catalogue, Globs: globs})
	return r, err
}

func runSeries(ctx context.Context, f seriesFlags, globs []string, stdin io.Reader, stdout, stderr io.Writer) error {
	req, err := f.request(globs)
	if err != nil {
		return err
	}
	mailed, err := f.read(stdin)
	if err != nil {
		return err
	}
	var program *results.Program
	var files []guest.File
	if f.with != "" {
		loaded, err := repro.Load(ctx, f.with, nil)
		if err != nil {
			return err
		}
		if loaded.Warnings != "" {
			fmt.Fprintln(stderr, render.EscapeLines(loaded.Warnings))
		}
		reproducer := execFlags{devices: []string{lab.EDU.Name}, timeout: time.Minute}
		p, err := reproducer.program()
		if err != nil {
			return err
		}
		p.Name, p.Argv = loaded.Name, loaded.Argv
		req.Program, files = &p, loaded.Files
		if program, err = reproducer.programOf([]string{f.with}, loaded); err != nil {
			return err
		}
	}
	status := newStatusLine(stderr)
	defer status.end()
	path, qemuVersion, err := qemu.Find(f.qemu)
	if err != nil {
		return err
	}
	t, err := openTools(f.output, path, status.say)
	if err != nil {
		return err
	}
	tree, err := checkout.Open(ctx, t.kernels.Sources(), f.tree, func() {
		status.say("waiting for another series on " + f.tree)
	})
	if err != nil {
		return err
	}
	defer tree.Close()
	report := &effect.Report{
		Schema: effect.Schema, Started: time.Now().UTC(), Args: append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...),
		Version: version(), Host: host(), QEMU: qemuVersion, Catalogue: lab.Catalogue(), Program: program,
		Tree: f.tree, Globs: globs, Flavours: req.Flavours, Machines: names(req.Machines), Each: f.each, Fresh: f.fresh,
		Title: mailed.Title, Revision: mailed.Version,
	}
	if err := f.stand(ctx, tree, mailed, &req); err != nil {
		return err
	}
	if err := tree.IsKernel(ctx, req.Base); err != nil {
		return err
	}
	req.BaseName = tree.Describe(ctx, req.Base)
	for _, note := range mailed.Notes {
		status.say(note)
	}
	if mailed.Needs > 0 {
		status.say(fmt.Sprintf("the series says that it needs %d other patches on its base: they are not here", mailed.Needs))
	}
	if report.Dirty, err = tree.Changes(ctx); err != nil {
		return err
	}
	if report.Dirty > 0 {
		status.say(fmt.Sprintf("%s has uncommitted changes in %d files: they are left out", f.tree, report.Dirty))
	}
	identity, err := seriesIdentity(qemuVersion, program)
	if err != nil {
		return err
	}
	root := t.home.series(f.output)
	held := &heldKernels{t.kernels, map[string]func(){}}
	defer held.release()
	builder := &seriesBuilder{tree: tree.Dir(), hold: held.hold, build: (&build.Builder{
		Cache: t.kernels, Progress: build.Progress{Say: status.say, Compiled: status.compiled},
	}).Build}
	tools := sync.OnceValues(func() (build.Toolchain, error) { return build.FindToolchain(ctx) })
	run := &seriesRunner{flags: f.cellFlags, tools: t, version: qemuVersion, program: req.Program, files: files, told: program, stderr: stderr}
	s := &series.Series{
		Request: req, Tree: tree, Say: status.say, Report: report,
		Builder:  builder,
		Runner:   run,
		Store:    series.NewStore(t.home.seriesIndex(f.output), t.home.runs, identity, f.fresh),
		BuildKey: buildKey(tools),
		Kernel: func(hash string) (kernels.Kernel, bool) {
			k, err := t.kernels.Show(hash)
			if err == nil {
				err = held.hold(k)
			}
			if err != nil {
				return k, false
			}
			k.Spec = k.HashSpec()
			return k, true
		},
	}
	s.Prepare = func(ctx context.Context) (err error) {
		if _, err := tools(); err != nil {
			return err
		}
		if run.accel, err = t.doctor.Choose(ctx); err != nil {
			return err
		}
		for i := range s.Machines {
			s.Machines[i].Accel = run.accel.Accel
		}
		report.Accelerator, report.NotCovered = string(run.accel.Accel), run.accel.NotCovered()
		s.QEMU, err = qemu.Ask(ctx, path)
		return err
	}
	dir, err := seriesFolder(root, report)
	if err != nil {
		return err
	}
	builder.dir = dir
	failed := s.Go(ctx)
	if last := report.Stages[len(report.Stages)-1]; last.Rejected != "" && f.base == "" && mailed.Base == "" {
		status.say("the series names no base-commit, so that it was applied to HEAD: --base REV takes another")
	}
	status.end()
	if err := writeSeries(dir, report); err != nil {
		return errors.Join(failed, err)
	}
	if f.json {
		err = printSeries(stdout, report)
	} else {
		err = render.Series(stdout, *report, dir)
	}
	switch {
	case err != nil:
		return err
	case failed != nil:
		if ctx.Err() == nil && !errors.As(failed, new(toldError)) { // a signal is named last
			complain(stderr, failed)
		}
		return statusError(2)
	case report.ExitStatus() != 0:
		return statusError(report.ExitStatus())
	}
	return nil
}

// read reads the patches, if they are mailed.
func (f seriesFlags) read(stdin io.Reader) (patch.Series, error) {
	switch {
	case f.patches != "":
		return patch.ReadDir(f.patches)
	case f.mbox == "-":
		return patch.ReadMbox("standard input", stdin)
	case f.mbox != "":
		file, err := os.Open(f.mbox)
		if err != nil {
			return patch.Series{}, err
		}
		defer file.Close()
		if info, err := file.Stat(); err == nil && info.IsDir() {
			return patch.Series{}, fmt.Errorf("%s: is a folder: --patches %s reads the patches in it", f.mbox, f.mbox)
		}
		return patch.ReadMbox(f.mbox, file)
	}
	return patch.Series{}, nil
}

// stand finds what the series stands on, and its commits if it is a range.
func (f seriesFlags) stand(ctx context.Context, tree *checkout.Checkout, mailed patch.Series, req *series.Request) (err error) {
	if f.commits != "" {
		req.Base, req.Commits, err = tree.Range(ctx, f.commits)
		return err
	}
	req.Patches = mailed.Patches
	rev := f.base
	if rev == "" {
		rev = mailed.Base
	}
	if rev == "" {
		rev = "HEAD"
	}
	req.Base, err = tree.Find(ctx, rev)
	if _, missing := errors.AsType[*checkout.TreeError](err); missing && rev == mailed.Base {
		return fmt.Errorf("the series is for base-commit: %s, which %s does not have: fetch it, or name another with --base", rev, f.tree)
	}
	return err
}

func names(ms []machine.Machine) []string {
	var out []string
	for _, m := range ms {
		out = append(out, m.Name)
	}
	return out
}

// seriesIdentity is all that decides how a cell ends besides its kernel, machine and scenario.
func seriesIdentity(qemuVersion string, program *results.Program) (string, error) {
	init, agent, err := images.Payload()
	if err != nil {
		return "", fmt.Errorf("read the guest's programs: %w", err)
	}
	sum := sha256.New()
	for _, part := range [][]byte{init, agent, []byte(qemuVersion), []byte(lab.Catalogue())} {
		fmt.Fprintf(sum, "%d\n%s", len(part), part)
	}
	if program != nil {
		fmt.Fprintf(sum, "%s %v", program.SHA256, program.Devices)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)), nil
}

// buildKey names a flavour's configuration, the compiler and the linker.
func buildKey(tools func() (build.Toolchain, error)) func(string) (string, error) {
	return func(name string) (string, error) {
		flavour, err := fragments.Named(name)
		if err != nil {
			return "", err
		}
		parts, err := flavour.Fragments()
		if err != nil {
			return "", err
		}
		made, err := tools()
		if err != nil {
			return "", err
		}
		sum := sha256.New()
		fmt.Fprintf(sum, "%s\n%s\n%s\n", name, made.Compiler, made.Linker)
		for _, p := range parts {
			fmt.Fprintf(sum, "%d\n%s", len(p.Text), p.Text)
		}
		return fmt.Sprintf("%x", sum.Sum(nil)), nil
	}
}

// seriesBuilder is package build for a series.
type seriesBuilder struct {
	tree   string
	dir    string // of the report: the next build writes over the log of one that failed
	build  func(context.Context, build.Request) (build.Result, error)
	hold   func(kernels.Kernel) error
	failed int // builds
}

func (b *seriesBuilder) Build(ctx context.Context, dir, flavour string) (kernels.Kernel, error) {
	r, err := b.build(ctx, build.Request{Tree: dir, Flavour: flavour})
	if failed, ok := errors.AsType[*build.FailedError](err); ok {
		log, err := b.keep(failed.Log, flavour)
		if err != nil {
			return r.Kernel, err
		}
		// As the developer's own make would name the files.
		return r.Kernel, &series.BuildError{First: strings.ReplaceAll(failed.First, b.tree+"/", ""), Log: log}
	}
	if missing, ok := errors.AsType[*build.OptionsError](err); ok {
		// The tree's own fault as well: a patch that makes an option depend on something.
		return r.Kernel, &series.BuildError{First: strings.Join(missing.Missing, "\n")}
	}
	if err == nil {
		r.Kernel.Spec = r.Kernel.HashSpec() // the build's name is the next patch's in a moment
		err = b.hold(r.Kernel)
	}
	return r.Kernel, err
}

// heldKernels are the kernels of a series, which stay in the cache until it ends.
type heldKernels struct {
	cache *kernels.Cache
	held  map[string]func() // releases, by hash
}

func (h *heldKernels) hold(k kernels.Kernel) error {
	if h.held[k.Hash] != nil {
		return nil
	}
	release, err := h.cache.Hold(k)
	if err == nil {
		h.held[k.Hash] = release
	}
	return err
}

func (h *heldKernels) release() {
	for _, release := range h.held {
		release()
	}
}

// keep copies the log of a build that failed to where it stays.
func (b *seriesBuilder) keep(log, flavour string) (string, error) {
	text, err := os.ReadFile(log)
	if err != nil {
		return "", fmt.Errorf("keep the build's log: %w", err)
	}
	b.failed++
	kept := filepath.Join(b.dir, fmt.Sprintf("build-%d-%s.log", b.failed, flavour))
	if err := kernels.WriteFile(kept, text); err != nil {
		return "", fmt.Errorf("keep the build's log: %w", err)
	}
	return kept, nil
}

// seriesRunner runs a series' cells as nestbed run and exec would.
type seriesRunner struct {
	flags   cellFlags
	tools   *tools
	accel   doctor.Choice
	version string
	program *lab.Program
	files   []guest.File
	told    *results.Program
	stderr  io.Writer
}

func (r *seriesRunner) Run(ctx context.Context, cells []plan.Cell) (id string, verdicts []results.Cell, err error) {
	p := plan.Plan{Cells: cells}
	h := header(p, []kernels.Kernel{cells[0].Kernel})
	h.QEMU, h.QEMUBinary, h.Accelerator, h.NotCovered = r.version, r.flags.qemu, string(r.accel.Accel), r.accel.NotCovered()
	do := &runner.Runner{}
	if cells[0].Scenario.Name == lab.ExecName {
		do.Program, do.Files, h.Program = r.program, r.files, r.told
	}
	flags := r.flags
	flags.json = false // the cells are in the report's runs
	prepared := &prepared{flags: flags, tools: r.tools, accel: r.accel, plan: p, header: h, jobs: jobs(flags.jobs, p)}
	err = prepared.run(ctx, do, io.Discard, r.stderr, func(run *results.Run) error {
		id = run.ID()
		verdicts, err = run.Cells()
		return err
	})
	if err != nil {
		err = fmt.Errorf("run %s on %s: %w", id, cells[0].Kernel.Release, err)
	}
	return id, verdicts, err
}

// seriesFolder makes the report's folder, which its id names.
func seriesFolder(root string, report *effect.Report) (string, error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", fmt.Errorf("write the report: %w", err)
	}
	for n := 0; ; n++ {
		report.ID = report.Started.Format("20060102-150405")
		if n > 0 {
			report.ID += fmt.Sprintf("-%d", n)
		}
		dir := filepath.Join(root, report.ID)
		if err := os.Mkdir(dir, 0o755); errors.Is(err, os.ErrExist) {
			continue
		} else if err != nil {
			return "", fmt.Errorf("write the report: %w", err)
		}
		return dir, nil
	}
}

// writeSeries writes the report into its folder.
func writeSeries(dir string, report *effect.Report) error {
	var text, letter bytes.Buffer
	err := errors.Join(printSeries(&text, report), render.CoverLetter(&letter, *report))
	if err == nil {
		err = errors.Join(kernels.WriteFile(filepath.Join(dir, seriesFile), text.Bytes()),
			kernels.WriteFile(filepath.Join(dir, letterFile), letter.Bytes()))
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func printSeries(w io.Writer, report *effect.Report) error {
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", render.EscapeJSON(text))
	return err
}
