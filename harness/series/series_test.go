package series

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/checkout"
	"github.com/nestbed/nestbed/kernels/patch"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/effect"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"

	_ "github.com/nestbed/nestbed/scenarios"
)

// bench stands in for git, the compiler and the guests. A commit's tree is named k0, k1 ... as is the kernel
// built of it; endings say how a scenario's runs on a kernel end, one letter each, the last one for ever.
type bench struct {
	t       *testing.T
	at      string
	rejects string            // the subject that does not apply
	needs   map[string]string // subjects, and that which one must be behind at once
	breaks  string            // the tree that does not build
	same    map[string]string // trees that make the same kernel as another
	builds  []string
	endings map[string]map[string]string // scenario -> kernel -> letters
	ran     map[string]int               // "scenario kernel" -> runs
	runs    [][]string
	during  func(ran int) // called before each run of a cell
	applied func(n int)   // called after each patch
	dir     string
}

func (b *bench) Dir() string { return "/tree" }

func (b *bench) Go(_ context.Context, c checkout.Commit) error { b.at = c.Tree; return nil }

func (b *bench) Apply(ctx context.Context, on checkout.Commit, subject string, _ []byte) (checkout.Commit, error) {
	if ctx.Err() != nil {
		return checkout.Commit{}, ctx.Err()
	}
	if subject == b.rejects || b.needs[subject] != "" && b.needs[subject] != on.Subject {
		return checkout.Commit{}, &checkout.ApplyError{Subject: subject, Reason: "virt/kvm/vfio.c, the hunk of line 7", Hunk: "@@ -7,7 +7,7 @@\n-a\n+b"}
	}
	n := 0
	_, err := fmt.Sscanf(on.Tree, "k%d", &n)
	assert.NilError(b.t, err)
	if b.applied != nil {
		b.applied(n + 1)
	}
	made := commit(n + 1)
	made.Subject = subject
	return made, nil
}

func commit(n int) checkout.Commit {
	return checkout.Commit{Hash: fmt.Sprintf("%040d", n), Tree: fmt.Sprintf("k%d", n), Subject: fmt.Sprintf("change %d", n)}
}

func (b *bench) Build(ctx context.Context, dir, flavour string) (kernels.Kernel, error) {
	assert.Equal(b.t, dir, "/tree")
	if ctx.Err() != nil {
		return kernels.Kernel{}, ctx.Err()
	}
	b.builds = append(b.builds, b.at+" "+flavour)
	if b.at == b.breaks {
		return kernels.Kernel{}, &BuildError{First: "vfio.c:7: error: 'x' undeclared", Log: "/log"}
	}
	return b.kernel(b.at, flavour), nil
}

func (b *bench) kernel(tree, flavour string) kernels.Kernel {
	if other, ok := b.same[tree]; ok {
		tree = other
	}
	return kernels.Kernel{Release: "6.12.0-" + flavour, Hash: tree + "-" + flavour}
}

func (b *bench) Run(ctx context.Context, cells []plan.Cell) (string, []results.Cell, error) {
	id := fmt.Sprintf("run%d", len(b.runs))
	var out []results.Cell
	var ids []string
	for _, c := range cells {
		if b.during != nil {
			b.during(len(out))
		}
		if ctx.Err() != nil {
			break
		}
		assert.Equal(b.t, c.Kernel.Hash, cells[0].Kernel.Hash, "a run is of one kernel")
		tree, _, _ := strings.Cut(c.Kernel.Hash, "-")
		key := c.Scenario.Name + " " + tree
		letters := b.endings[c.Scenario.Name][tree]
		if letters == "" {
			letters = "p"
		}
		letter := letters[min(b.ran[key], len(letters)-1)]
		b.ran[key]++
		p := planned(c)
		p.KernelHash = c.Kernel.Hash
		v := results.NewCell(p, results.Outcome{Verdict: record.Crash, Title: "crash " + string(letter), Signature: string(letter)})
		switch letter {
		case 'p':
			v = results.NewCell(p, results.Outcome{Verdict: record.Pass})
		case 's':
			v = results.NewCell(p, results.Outcome{Verdict: record.Skip, Title: "no such option"})
		case 'e':
			v = results.NewCell(p, results.Outcome{Verdict: record.Error, Title: "QEMU is gone"})
		}
		v.Dir, v.Started = strings.ReplaceAll(p.ID(), "/", "_"), time.Now()
		assert.NilError(b.t, os.MkdirAll(filepath.Join(b.dir, "runs", id, v.Dir), 0o755))
		ids = append(ids, p.ID())
		out = append(out, v)
	}
	b.runs = append(b.runs, ids)
	return id, out, nil
}

func newBench(t *testing.T, endings map[string]map[string]string) *bench {
	return &bench{t: t, endings: endings, ran: map[string]int{}, dir: t.TempDir()}
}

// series is a series of n patches on the bench, with one cell for every scenario in the endings.
func (b *bench) series(n int, each Each) *Series {
	b.t.Helper()
	m, err := machine.Named("intel")
	assert.NilError(b.t, err)
	var catalogue []lab.Scenario
	for _, name := range slices.Sorted(maps.Keys(b.endings)) {
		catalogue = append(catalogue, lab.Scenario{Name: name, Timeout: time.Second})
	}
	s := &Series{
		Request: Request{
			Base: commit(0), BaseName: "v6.12", Flavours: []string{"base"}, Machines: []machine.Machine{m}, Catalogue: catalogue, Each: each,
		},
		Tree: b, Builder: b, Runner: b, Say: func(text string) { b.t.Log(text) }, Report: &effect.Report{},
		Store: NewStore(filepath.Join(b.dir, "index"), filepath.Join(b.dir, "runs"), "x", false),
	}
	for i := range n {
		s.Patches = append(s.Patches, patch.Patch{Subject: fmt.Sprintf("change %d", i+1)})
	}
	return s
}

// summary is a report as lines.
func summary(r *effect.Report) []string {
	var out []string
	for _, c := range r.Changes {
		out = append(out, fmt.Sprintf("%s: %s %d/%d -> %d/%d by %d", c.Scenario, c.Kind, c.Before.K, c.Before.N, c.After.K, c.After.N, c.Turned))
	}
	for _, c := range r.Steps {
		out = append(out, fmt.Sprintf("%d to %d: %s: %s %d/%d -> %d/%d", c.From, c.To, c.Scenario, c.Kind, c.Before.K, c.Before.N, c.After.K, c.After.N))
	}
	return out
}

// The story that the detection set tells: one patch fixes, one fixes something else, one breaks, one mends.
func TestFourPatchesEachRunInFull(t *testing.T) {
	b := newBench(t, map[string]map[string]string{
		"unload": {"k0": "a", "k3": "c"}, // the third patch breaks what the first had fixed
		"bind":   {"k0": "b", "k1": "b"},
		"alike":  {}, "still": {"k0": "d", "k1": "d", "k2": "d", "k3": "d", "k4": "d"},
	})
	s := b.series(4, Full)
	assert.NilError(t, s.Go(t.Context()))
	assert.DeepEqual(t, summary(s.Report), []string{
		"bind: fixed 4/4 -> 0/4 by 2",
		"unload: fixed 4/4 -> 0/4 by 1",
		"still: still failing 1/1 -> 1/1 by 0",
		"alike: unchanged 0/1 -> 0/1 by 0",
		"0 to 1: unload: fixed 4/4 -> 0/4",
		"1 to 2: bind: fixed 4/4 -> 0/4",
		"2 to 3: unload: broken 0/4 -> 4/4",
		"3 to 4: unload: fixed 4/4 -> 0/4",
	})
	assert.Equal(t, s.Report.ExitStatus(), 1, "the series does not bisect")
	assert.Equal(t, b.ran["alike k2"], 1, "what does not differ is run once")
}

func TestTurnIsFoundByHalves(t *testing.T) {
	endings := map[string]string{}
	for n := 6; n <= 8; n++ {
		endings[fmt.Sprintf("k%d", n)] = "a"
	}
	b := newBench(t, map[string]map[string]string{"unload": endings})
	s := b.series(8, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.DeepEqual(t, summary(s.Report), []string{"unload: broken 0/4 -> 4/4 by 6"})
	assert.Equal(t, s.Report.Changes[0].Since, 5)
	assert.Equal(t, s.Report.Changes[0].Cell, "unload/6.12.0-base/intel")
	assert.Equal(t, len(b.ran), 5, "%v", b.ran) // the ends, and 4, 6, 5
	assert.Equal(t, len(b.builds), 9, "a series must be bisectable: every patch is built")
	assert.Equal(t, s.Report.ExitStatus(), 1)
}

func TestSmokeIsRunAfterEachPatch(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"attach-group-container": {"k1": "a"}, "slow": {}})
	s := b.series(3, Smoke)
	s.Globs = []string{"slow"}
	assert.NilError(t, s.Go(t.Context()))
	assert.DeepEqual(t, summary(s.Report), []string{
		"attach-group-container: unchanged 0/4 -> 0/1 by 0",
		"slow: unchanged 0/1 -> 0/1 by 0",
		"0 to 1: attach-group-container: broken 0/4 -> 4/4",
		"1 to 2: attach-group-container: fixed 4/4 -> 0/4",
	})
	assert.Equal(t, b.ran["slow k1"], 0)
	assert.Equal(t, s.Report.Stages[1].Bad, 1)
	assert.Equal(t, s.Report.ExitStatus(), 1)
}

func TestFlakyCellIsRepeatedAndNamed(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"flaky": {"k0": "papapapapapa", "k1": "apapapapapap"}})
	s := b.series(1, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.DeepEqual(t, summary(s.Report), []string{"flaky: flaky 5/10 -> 5/10 by 1"})
	assert.Equal(t, s.Report.ExitStatus(), 0)
	// One failure in ten tells nothing either, and needs all ten.
	b = newBench(t, map[string]map[string]string{"rare": {"k1": "ap"}})
	s = b.series(1, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.DeepEqual(t, summary(s.Report), []string{"rare: flaky 0/10 -> 1/10 by 1"})
}

func TestCrashThatBecameAnotherIsWorse(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {"k0": "a", "k1": "a", "k2": "b", "k3": "b"}})
	s := b.series(3, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.DeepEqual(t, summary(s.Report), []string{"x: worse 4/4 -> 4/4 by 2"})
	assert.Equal(t, s.Report.Changes[0].Was, "crash a")
	assert.Equal(t, s.Report.Changes[0].Title, "crash b")
	assert.Equal(t, s.Report.ExitStatus(), 1)
}

func TestSkipsAndErrors(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"newly": {"k1": "s"}, "lost": {"k1": "e"}})
	s := b.series(1, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.DeepEqual(t, summary(s.Report), []string{"lost: no verdict 0/1 -> 0/0 by 1", "newly: newly skipped 0/1 -> 0/0 by 1"})
	assert.Equal(t, s.Report.Changes[0].Reason, "error: QEMU is gone")
	assert.Equal(t, s.Report.Changes[1].Reason, "no such option")
	assert.Equal(t, s.Report.ExitStatus(), 2)
	// An error among the repeats ends them.
	b = newBench(t, map[string]map[string]string{"x": {"k1": "ae"}})
	s = b.series(1, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.DeepEqual(t, summary(s.Report), []string{"x: no verdict 0/4 -> 1/1 by 1"})
}

// What could not run on the base is repeated as what differs is: one failure says nothing.
func TestNewlyRunCellIsRepeated(t *testing.T) {
	b := newBench(t, map[string]map[string]string{
		"always": {"k0": "s", "k1": "a"}, "once": {"k0": "s", "k1": "ap"}, "passes": {"k0": "s"}, "skips": {"k0": "s", "k1": "as"},
	})
	s := b.series(1, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.DeepEqual(t, summary(s.Report), []string{
		"once: flaky 0/0 -> 1/10 by 1",
		"skips: flaky 0/0 -> 1/1 by 1",
		"always: newly run 0/0 -> 4/4 by 1",
		"passes: newly run 0/0 -> 0/1 by 1",
	})
	assert.Equal(t, b.ran["always k0"], 1, "the base said that it cannot")
	assert.Equal(t, s.Report.ExitStatus(), 1)

	b = newBench(t, map[string]map[string]string{"once": {"k0": "s", "k1": "ap"}})
	s = b.series(1, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.Equal(t, s.Report.ExitStatus(), 0)
}

// A guest that skips now and then is not asked for ever.
func TestSkipAmongTheRepeatsEndsThem(t *testing.T) {
	for _, endings := range []string{"aasspap", "apapapapaspa", "apspspspspspspspsp"} {
		b := newBench(t, map[string]map[string]string{"x": {"k1": endings}})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		s := b.series(1, None)
		said := 0
		s.Say = func(string) {
			if said++; said > 100 {
				cancel()
			}
		}
		assert.NilError(t, s.Go(ctx), "%s", endings)
		assert.Assert(t, b.ran["x k1"] <= 2*effect.MaxRuns, "%v", b.ran)
		cancel()
	}
}

// Where the cell cannot run, nothing is learnt: the search goes round it as it does round what does not build.
func TestSearchGoesRoundASkip(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {"k0": "a", "k1": "a", "k2": "s"}})
	s := b.series(4, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.DeepEqual(t, summary(s.Report), []string{"x: fixed 4/4 -> 0/4 by 3"})
	assert.Equal(t, s.Report.Changes[0].Since, 1)

	b = newBench(t, map[string]map[string]string{"x": {"k2": "e", "k3": "a", "k4": "a"}})
	s = b.series(4, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.DeepEqual(t, summary(s.Report), []string{"x: broken 0/4 -> 4/4 by 3"})
	assert.Equal(t, s.Report.Changes[0].Since, 1)
}

func TestPatchThatDoesNotApply(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {}})
	b.rejects = "change 2"
	s := b.series(3, Smoke)
	s.Prepare = func(context.Context) error { return errors.New("a guest was booted") }
	assert.NilError(t, s.Go(t.Context()))
	assert.Equal(t, s.Report.ExitStatus(), 1)
	assert.Equal(t, len(s.Report.Stages), 3)
	assert.Equal(t, s.Report.Stages[2].Rejected, "virt/kvm/vfio.c, the hunk of line 7\n@@ -7,7 +7,7 @@\n-a\n+b")
	assert.Equal(t, len(b.builds), 0, "nothing is compiled for a series that does not apply")
}

// A patch that stands before the one it needs is told from one that is for another tree.
func TestPatchesOutOfOrder(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {}})
	b.needs = map[string]string{"change 2": "change 4"}
	s := b.series(5, Smoke)
	assert.NilError(t, s.Go(t.Context()))
	assert.Equal(t, s.Report.Stages[2].Rejected, "virt/kvm/vfio.c, the hunk of line 7\nit does behind patch 4 (change 4): are they out of order?\n@@ -7,7 +7,7 @@\n-a\n+b")
	assert.Equal(t, s.Report.ExitStatus(), 1)
}

// What the host can do is known before an hour of compiling.
func TestHostIsLookedAtBeforeTheBuild(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {}})
	s := b.series(1, None)
	s.Prepare = func(context.Context) error { return errors.New("no accelerator boots") }
	assert.ErrorContains(t, s.Go(t.Context()), "no accelerator boots")
	assert.Equal(t, len(b.builds), 0)
	assert.Equal(t, s.Report.ExitStatus(), 2)
}

func TestPatchThatDoesNotBuild(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {"k3": "a", "k4": "a"}})
	b.breaks = "k2"
	s := b.series(4, None)
	s.Flavours = []string{"base", "kasan"}
	assert.NilError(t, s.Go(t.Context()))
	assert.Equal(t, s.Report.ExitStatus(), 1)
	assert.Equal(t, s.Report.Stages[2].Builds[1].Failure, "vfio.c:7: error: 'x' undeclared")
	// The search goes round it, and says how near it came.
	assert.Equal(t, s.Report.Changes[0].Turned, 3)
	assert.Equal(t, s.Report.Changes[0].Since, 1)

	b = newBench(t, map[string]map[string]string{"x": {}})
	b.breaks = "k0"
	s = b.series(1, None)
	assert.Error(t, s.Go(t.Context()), "the base does not build (base), so there is nothing to compare with: vfio.c:7: error: 'x' undeclared\nall of it is in /log")
	assert.Equal(t, s.Report.Stages[0].Builds[0].Failure, "vfio.c:7: error: 'x' undeclared")
	assert.DeepEqual(t, s.Report.NotDone, []string{"1 of 2 kernels not built, from patch 1 of 1 (base) on", "nothing was run"})
	assert.Equal(t, s.Report.ExitStatus(), 2)
}

func TestSameKernelIsNotRunAgain(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {"k0": "ap"}})
	b.same = map[string]string{"k1": "k0", "k2": "k0"} // patches of the documentation
	s := b.series(2, Full)
	assert.NilError(t, s.Go(t.Context()))
	assert.Equal(t, b.ran["x k0"], 1)
	assert.Equal(t, s.Report.Ran, 1)
	assert.DeepEqual(t, summary(s.Report), []string{"x: still failing 1/1 -> 1/1 by 0"})
}

func TestEarlierSeriesIsReused(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {"k1": "a"}, "y": {}})
	first := b.series(1, None)
	assert.NilError(t, first.Go(t.Context()))
	assert.Equal(t, first.Report.Ran, 10)
	assert.Equal(t, first.Report.Reused, 0)

	again := b.series(1, None)
	assert.NilError(t, again.Go(t.Context()))
	assert.Equal(t, again.Report.Ran, 0)
	assert.Equal(t, again.Report.Reused, 10)
	assert.DeepEqual(t, summary(again.Report), summary(first.Report))
	assert.Equal(t, again.Report.Changes[0].Run, "run1", "the evidence is the earlier run's")

	// A new patch on top runs the new kernel only.
	more := b.series(2, None)
	assert.NilError(t, more.Go(t.Context()))
	assert.Equal(t, b.ran["x k0"], 4)
	assert.Equal(t, b.ran["x k2"], 1)

	// Another agent, catalogue or QEMU is another experiment.
	other := b.series(1, None)
	other.Store = NewStore(filepath.Join(b.dir, "index"), filepath.Join(b.dir, "runs"), "y", false)
	assert.NilError(t, other.Go(t.Context()))
	assert.Equal(t, other.Report.Reused, 0)

	fresh := b.series(1, None)
	fresh.Store = NewStore(filepath.Join(b.dir, "index"), filepath.Join(b.dir, "runs"), "x", true)
	assert.NilError(t, fresh.Go(t.Context()))
	assert.Equal(t, fresh.Report.Ran, 10)
	last := b.series(1, None)
	assert.NilError(t, last.Go(t.Context()))
	assert.Equal(t, last.Report.Reused, 10, "what --fresh found is in the place of what was")

	// What has no evidence any more is run again.
	assert.NilError(t, os.RemoveAll(filepath.Join(b.dir, "runs")))
	gone := b.series(1, None)
	assert.NilError(t, gone.Go(t.Context()))
	assert.Equal(t, gone.Report.Reused, 0)
}

// What no series takes from the store any more goes; what one does stays.
func TestPruneOfTheStore(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {"k1": "a"}, "y": {}})
	index, runs := filepath.Join(b.dir, "index"), filepath.Join(b.dir, "runs")
	build := func(s *Series) *Series {
		s.BuildKey = func(flavour string) (string, error) { return flavour, nil }
		s.Kernel = func(hash string) (kernels.Kernel, bool) {
			return kernels.Kernel{Release: "6.12.0-base", Hash: hash}, true
		}
		return s
	}
	prune := func() Pruned {
		t.Helper()
		p, err := Prune(t.Context(), index, runs, func(hash string) bool { return hash != "k1-base" })
		assert.NilError(t, err)
		return p
	}
	assert.Equal(t, prune(), Pruned{}, "no series yet")
	assert.NilError(t, build(b.series(1, None)).Go(t.Context())) // x 4 and 4, y 1 and 1
	fresh := build(b.series(1, None))
	fresh.Store = NewStore(index, runs, "x", true)
	assert.NilError(t, fresh.Go(t.Context()))
	assert.Equal(t, fresh.Report.Ran, 10)
	assert.Equal(t, prune(), Pruned{Cells: 10, Builds: 3}, "--fresh replaced them; a kernel is gone")
	assert.Equal(t, prune(), Pruned{})

	again := build(b.series(1, None))
	assert.NilError(t, again.Go(t.Context()))
	assert.Equal(t, again.Report.Reused, 10, "all that fresh ran")
	assert.DeepEqual(t, summary(again.Report), summary(fresh.Report))

	assert.NilError(t, os.RemoveAll(filepath.Join(runs, fresh.Report.Runs[0]))) // the first run of the base: x and y
	assert.Equal(t, prune().Cells, 2)
	assert.NilError(t, os.RemoveAll(runs))
	assert.Equal(t, prune().Cells, 8)
	left, err := filepath.Glob(filepath.Join(index, "*.jsonl"))
	assert.NilError(t, err)
	assert.DeepEqual(t, left, []string{filepath.Join(index, "builds.jsonl")}) // k0 is there
}

func TestKernelThatWasBuiltIsNotBuiltAgain(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {}})
	made := "gcc 12"
	start := func() *Series {
		s := b.series(1, None)
		s.BuildKey = func(flavour string) (string, error) { return flavour + made, nil }
		s.Kernel = func(hash string) (kernels.Kernel, bool) {
			return kernels.Kernel{Release: "6.12.0-base", Hash: hash}, hash != "k1-base" // one was pruned
		}
		return s
	}
	assert.NilError(t, start().Go(t.Context()))
	assert.DeepEqual(t, b.builds, []string{"k0 base", "k1 base"})
	assert.NilError(t, start().Go(t.Context()))
	assert.DeepEqual(t, b.builds[2:], []string{"k1 base"})
	made = "gcc 13"
	assert.NilError(t, start().Go(t.Context()))
	assert.DeepEqual(t, b.builds[3:], []string{"k0 base", "k1 base"})
}

func TestInterruptKeepsWhatIsKnown(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {"k1": "a"}, "y": {"k1": "a"}, "z": {}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.during = func(ran int) {
		if len(b.runs) == 3 && ran == 1 { // in the repeats
			cancel()
		}
	}
	s := b.series(1, None)
	err := s.Go(ctx)
	assert.Assert(t, errors.Is(err, context.Canceled), "%v", err)
	assert.Equal(t, s.Report.ExitStatus(), 2)
	got := strings.Join(summary(s.Report), "\n")
	assert.Assert(t, cmp.Contains(got, "x: no verdict 0/4 -> 2/2"))
	assert.Assert(t, cmp.Contains(got, "z: unchanged 0/1 -> 0/1"))
	assert.Equal(t, s.Report.Changes[0].Reason, "ended before it could be told")

	// The next series goes on from there.
	ran := s.Report.Ran
	next := b.series(1, None)
	b.during = nil
	assert.NilError(t, next.Go(t.Context()))
	assert.Equal(t, next.Report.Reused, ran)
	assert.Equal(t, next.Report.Count(effect.Broken), 2)
}

// A series that is ended says what it has found so far and what it has not come to, whenever that is.
func TestEndedSeriesSaysWhatWasNotDone(t *testing.T) {
	endings := func() map[string]map[string]string {
		return map[string]map[string]string{"x": {"k2": "a", "k3": "a", "k4": "a"}, "y": {"k0": "d", "k1": "d", "k2": "d", "k3": "d", "k4": "d"}, "z": {}}
	}
	for _, c := range []struct {
		name          string
		each          Each
		applied, runs int    // the point is behind this patch, or in this run
		cells         int    // behind so many of its cells
		said          string // or when this was said
		want, notDone []string
	}{
		{name: "applying", each: None, applied: 2, notDone: []string{"patches 3 to 4 were not applied, nothing was built or run"}},
		{name: "applying the last", each: None, applied: 3, notDone: []string{"patch 4 was not applied, nothing was built or run"}},
		{name: "building", each: None, said: "patch 1 of 4 (change 1), kasan", notDone: []string{"6 of 10 kernels not built, from patch 2 of 4 (base) on", "nothing was run"}},
		{name: "before building", each: None, said: "4 patches: applied", notDone: []string{"no kernel was built, nothing was run"}},
		{name: "the first run", each: None, runs: 0, cells: 2, notDone: []string{"4 of 6 cells not run on the base", "6 of 6 cells not run on the end"}},
		{name: "the second run", each: None, runs: 1, cells: 2, want: []string{"x: no verdict 0/1 -> 1/1 by 0", "y: still failing 1/1 -> 1/1 by 0"},
			notDone: []string{"3 of 6 cells not run on the base", "4 of 6 cells not run on the end", "1 cell that differs was not repeated often enough to say what became of it"}},
		{name: "between", each: Full, runs: 2, cells: 1, want: []string{"1 to 2: x: no verdict 0/1 -> 1/1"},
			notDone: []string{"3 of 6 cells not run on the base", "14 of 18 cells not run on the patches between", "6 of 6 cells not run on the end",
				"1 cell that differs was not repeated often enough to say what became of it"}},
		{name: "searching", each: None, runs: 8, cells: 0, want: []string{"x: broken 0/4 -> 4/4 by 0", "x: broken 0/4 -> 4/4 by 0", "y: still failing 1/1 -> 1/1 by 0", "y: still failing 1/1 -> 1/1 by 0", "z: unchanged 0/1 -> 0/1 by 0", "z: unchanged 0/1 -> 0/1 by 0"},
			notDone: []string{"the patch at which 2 cells turned was not searched for"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, endings())
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			stop := func() { cancel(errors.New("ended by interrupt")) }
			s := b.series(4, c.each)
			s.Flavours = []string{"base", "kasan"}
			s.Say = func(text string) {
				t.Log(text)
				if c.said != "" && strings.HasPrefix(text, c.said) {
					stop()
				}
			}
			switch {
			case c.applied > 0:
				b.applied = func(n int) {
					if n == c.applied {
						stop()
					}
				}
			case c.said == "":
				b.during = func(ran int) {
					if len(b.runs) == c.runs && ran == c.cells {
						stop()
					}
				}
			}
			err := s.Go(ctx)
			assert.Assert(t, errors.Is(err, context.Canceled), "%v", err)
			assert.DeepEqual(t, s.Report.NotDone, c.notDone)
			assert.DeepEqual(t, summary(s.Report), c.want)
			assert.DeepEqual(t, s.Report.Trouble, []string{"ended by interrupt"})
			assert.Equal(t, s.Report.ExitStatus(), 2)
		})
	}
	s := newBench(t, endings()).series(4, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.Equal(t, len(s.Report.NotDone), 0)
}

func TestDamagedIndexIsNoReasonToFail(t *testing.T) {
	b := newBench(t, map[string]map[string]string{"x": {}})
	index := filepath.Join(b.dir, "index")
	assert.NilError(t, os.MkdirAll(index, 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(index, "k0-base.jsonl"), []byte("{\"schema\":\"nestbed/series-cell/1\",\"key\":\"x\n\n{}\nnull\n"), 0o644))
	s := b.series(1, None)
	assert.NilError(t, s.Go(t.Context()))
	assert.Equal(t, s.Report.Ran, 2)
}

func TestEachIsRead(t *testing.T) {
	for _, text := range []string{"smoke", "full", "none"} {
		e, err := ParseEach(text)
		assert.NilError(t, err)
		assert.Equal(t, string(e), text)
	}
	_, err := ParseEach("some")
	assert.ErrorContains(t, err, `--each takes smoke, full or none, not "some"`)
}

// A smoke run of scenarios that were renamed would be green for nothing.
func TestSmokeIsInTheCatalogue(t *testing.T) {
	there := 0
	for _, s := range lab.All() {
		if slices.Contains(smoke, s.Name) {
			there++
		}
	}
	assert.Assert(t, there >= 2, "%d of %v", there, smoke)
}
