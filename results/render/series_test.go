package render

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/results/effect"
	"github.com/nestbed/nestbed/results/record"
)

func seriesReport(changes int) effect.Report {
	r := effect.Report{
		Version: "0123456789ab", QEMU: "7.2.22", Accelerator: "tcg", Each: "smoke", Patches: 3, Tree: "/home/me/linux",
		Flavours: []string{"base"}, Machines: []string{"intel"}, Globs: []string{"unload-*"}, Ran: 30, Reused: 4, Seconds: 61,
		NotCovered: []string{"SVM only, emulated (TCG)", "no VMX", "no posted interrupts", "no real DMA ordering"},
		Stages:     []effect.Stage{{Name: "v6.12-3-g0123456789ab", Subject: "Linux 6.12", Builds: []effect.Build{{Flavour: "base", Release: "6.12.0-base", Hash: "aa", Seconds: 61}}}},
	}
	for n := range 3 {
		r.Stages = append(r.Stages, effect.Stage{Patch: n + 1, Subject: fmt.Sprint("KVM: change ", n+1), Builds: []effect.Build{{Flavour: "base", Release: "6.12.0-base", Hash: fmt.Sprint(n)}}})
	}
	for n := range changes {
		r.Changes = append(r.Changes, effect.Change{
			Effect:  effect.Effect{Kind: effect.Broken, Before: effect.Count{K: 0, N: 4}, After: effect.Count{K: 4, N: 4}},
			Flavour: "base", Scenario: fmt.Sprintf("unload-vendor-while-vfio-holds-kvm-%d", n), Machine: "intel", Turned: 2, Since: 1,
			Verdict: record.Crash, Title: "BUG: in /home/me/linux/virt/kvm/vfio.c\x1b[2J", Run: "20260101-000000-abcd", Cell: fmt.Sprintf("unload-%d/6.12.0-base/intel", n),
		})
	}
	return r
}

func letter(t *testing.T, r effect.Report) string {
	t.Helper()
	var out bytes.Buffer
	assert.NilError(t, CoverLetter(&out, r))
	return out.String()
}

func TestCoverLetterFits(t *testing.T) {
	long := seriesReport(40)
	long.Globs = []string{strings.Repeat("unload-vendor-while-vfio-holds-kvm ", 5)}
	broken := seriesReport(0)
	for i := range broken.Stages {
		broken.Stages[i].Builds[0].Failure = "/home/me/.cache/linux/virt/kvm/vfio.c:7:1: error: 'x' undeclared\nmore"
	}
	rejected := seriesReport(0)
	rejected.Stages[2].Rejected = "virt/kvm/vfio.c, the hunk of line 7: patch does not apply\n@@ -7,7 +7,7 @@"
	trouble := seriesReport(3)
	trouble.Trouble = []string{"write /home/me/state/x: no space left on device"}
	wordy := seriesReport(30)
	wordy.Globs = []string{strings.Repeat("unload-vendor-while-vfio-holds-kvm ", 60)}
	wordy.Trouble = trouble.Trouble
	for n := range 3 {
		wordy.Stages[n+1].Builds[0].Failure = "vfio.c:7:1: error: " + strings.Repeat("expected this ", 100)
	}
	for _, r := range []effect.Report{seriesReport(0), seriesReport(1), long, broken, rejected, trouble, wordy} {
		text := letter(t, r)
		rows := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		assert.Assert(t, len(rows) <= 25, "%d lines:\n%s", len(rows), text)
		for _, row := range rows {
			assert.Assert(t, utf8.RuneCountInString(row) <= 75, "%q", row)
		}
		assert.Assert(t, !strings.Contains(text, "/home"), text)
		assert.Assert(t, !strings.Contains(text, "\x1b"), text)
		assert.Assert(t, cmp.Contains(text, "Not covered: SVM only, emulated (TCG); no VMX;"))
	}
	many := seriesReport(30)
	many.Trouble = trouble.Trouble
	assert.Assert(t, cmp.Contains(letter(t, many), "not complete: write x: no space left on device"), "whatever else there is to tell")
	assert.Assert(t, cmp.Contains(letter(t, wordy), "not complete: "))
	assert.Assert(t, cmp.Contains(letter(t, broken), "does not build (base): vfio.c:7:1: error:"))
	assert.Assert(t, cmp.Contains(letter(t, rejected), "does not apply: virt/kvm/vfio.c, the hunk of"))
}

func TestCoverLetter(t *testing.T) {
	r := seriesReport(1)
	r.Changes[0].Kind, r.Changes[0].Before.K, r.Changes[0].After.K = effect.Fixed, 4, 0
	r.Steps = []effect.Change{{
		Effect:  effect.Effect{Kind: effect.Broken, Before: effect.Count{K: 0, N: 4}, After: effect.Count{K: 4, N: 4}},
		Flavour: "base", Scenario: "attach-group-container", Machine: "intel", From: 1, To: 2,
	}}
	assert.Equal(t, letter(t, r), `Tested with nestbed 0123456789ab: 3 patches on top of
v6.12-3-g0123456789ab.
Every patch applies and builds (base).
Run on the base and on the end, a smoke run after each patch: the scenarios
unload-*, 1 cell; vIOMMU intel; kernels 6.12.0-base (base); QEMU 7.2.22,
TCG.
0 broken, 1 fixed.

  fixed: unload-vendor-while-vfio-holds-kvm-0 (base, intel): bad 4 of 4
  before, 0 of 4 after; patch 2
  patch 2: broken: attach-group-container (base, intel): bad 0 of 4 before,
  4 of 4 after

Not covered: SVM only, emulated (TCG); no VMX; no posted interrupts; no
real DMA ordering.
`)
}

// What could not run on either side was not tested, and is not counted as if.
func TestCellsThatWereSkippedAreNoCellsThatRan(t *testing.T) {
	r := seriesReport(0)
	for n := range 5 {
		c := effect.Change{Effect: effect.Effect{Kind: effect.Unchanged}, Flavour: "base", Scenario: fmt.Sprint("s", n), Machine: "intel"}
		if n < 2 {
			c.Before.N, c.After.N = 1, 1
		}
		r.Changes = append(r.Changes, c)
	}
	text := letter(t, r)
	assert.Assert(t, cmp.Contains(text, "unload-*, 2 cells;"), text)
	assert.Assert(t, cmp.Contains(text, "0 broken, 0 fixed, 2 unchanged, 3 skipped on both."), text)
	var out bytes.Buffer
	assert.NilError(t, Series(&out, r, "/state/series/1"))
	assert.Assert(t, cmp.Contains(out.String(), "0 broken, 0 fixed, 2 unchanged, 3 skipped on both\n"), out.String())
}

// A series that was ended claims no more than was run, neither to the user nor to a list.
func TestEndedSeries(t *testing.T) {
	r := seriesReport(1)
	r.Trouble = []string{"ended by interrupt"}
	r.NotDone = []string{"9 of 12 cells not run on the end", "the patch at which 1 cell turned was not searched for"}
	r.Changes[0].Turned, r.Changes[0].Since = 0, 0
	assert.Equal(t, letter(t, r), `Tested with nestbed 0123456789ab: 3 patches on top of
v6.12-3-g0123456789ab.
Every patch applies and builds (base).
Run on the base and on the end until then: of the scenarios unload-*, 1
cell; vIOMMU intel; kernels 6.12.0-base (base); QEMU 7.2.22, TCG.
1 broken, 0 fixed.

  not complete: ended by interrupt
  not done: 9 of 12 cells not run on the end
  not done: the patch at which 1 cell turned was not searched for
  broken: unload-vendor-while-vfio-holds-kvm-0 (base, intel): bad 0 of 4
  before, 4 of 4 after

Not covered: SVM only, emulated (TCG); no VMX; no posted interrupts; no
real DMA ordering.
`)
	var out bytes.Buffer
	assert.NilError(t, Series(&out, r, "/state/series/1"))
	assert.Assert(t, cmp.Contains(out.String(), `trouble      ended by interrupt
not done     9 of 12 cells not run on the end
not done     the patch at which 1 cell turned was not searched for
`), out.String())

	// Ended while it was applied, and while it was built.
	r = seriesReport(0)
	r.Trouble, r.NotDone = []string{"ended by interrupt"}, []string{"patches 2 to 3 were not applied, nothing was built or run"}
	r.Stages = r.Stages[:2]
	for i := range r.Stages {
		r.Stages[i].Builds = nil
	}
	text := letter(t, r)
	assert.Assert(t, cmp.Contains(text, "Not every patch was tried: 1 of 3 apply.\n\n  not complete: ended by interrupt\n  not done: patches 2 to 3"), text)
	r = seriesReport(0)
	r.Trouble, r.NotDone = []string{"ended by interrupt"}, []string{"1 of 4 kernels not built, from patch 3 of 3 (base) on", "nothing was run"}
	r.Stages[3].Builds = nil
	text = letter(t, r)
	assert.Assert(t, cmp.Contains(text, "Not every patch was built.\n\n  not complete: ended by interrupt\n  not done: 1 of 4 kernels"), text)
}

func TestSeriesTable(t *testing.T) {
	r := seriesReport(1)
	r.Dirty = 2
	r.Stages[3].Builds[0] = effect.Build{Flavour: "base", Failure: "vfio.c:7: error: 'x' undeclared", Log: "/cache/base.log"}
	r.Changes[0].Since = 0
	var out bytes.Buffer
	assert.NilError(t, Series(&out, r, "/state/series/1"))
	for _, want := range []string{
		"base   v6.12-3-g0123456789ab, Linux 6.12", "base FAILS", "       vfio.c:7: error: 'x' undeclared\n       /cache/base.log\n",
		"broken  unload-vendor-while-vfio-holds-kvm-0  base     intel    0 of 4  4 of 4  1 to 2",
		"nestbed show 20260101-000000-abcd unload-0/6.12.0-base/intel",
		"result       1 broken, 0 fixed\n", "ran          30 cells in 1m1s; 4 taken from earlier series",
		"left out     uncommitted changes in 2 files of the tree\n", "report       /state/series/1\n",
	} {
		assert.Assert(t, cmp.Contains(out.String(), want))
	}
	assert.Assert(t, !strings.Contains(out.String(), "\x1b"))
}
