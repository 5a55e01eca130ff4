package results

import (
	"fmt"
	"math"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/results/record"
)

func TestWilson(t *testing.T) {
	for _, c := range []struct {
		k, n      int
		low, high float64
	}{ // R: prop.test(k, n, correct = FALSE)$conf.int
		{0, 0, 0, 1},
		{0, 20, 0, 0.1611252},
		{20, 20, 0.8388748, 1},
		{1, 1, 0.2065493, 1},
		{0, 1, 0, 0.7934507},
		{5, 10, 0.2365931, 0.7634069},
		{1, 10, 0.0178763, 0.4041500},
		{3, 100, 0.0102545, 0.0845228},
	} {
		low, high := wilson(c.k, c.n)
		assert.Check(t, math.Abs(low-c.low) < 1e-5 && math.Abs(high-c.high) < 1e-5, "%d of %d: %.7f to %.7f", c.k, c.n, low, high)
	}
}

// programRun is a run on disk of a program with these outcomes, and one unfinished cell for each Invalid.
func programRun(t *testing.T, expect string, outcomes ...Outcome) *Run {
	t.Helper()
	h := Header{Program: &Program{Path: "l1.c", Expect: expect}}
	for i := range outcomes {
		h.Cells = append(h.Cells, Planned{Scenario: "exec", Variant: "l1", Kernel: "6.12", Machine: "intel", Repeat: i + 1})
	}
	run, err := Create(t.TempDir(), h)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, run.Close()) })
	for i, o := range outcomes {
		if o.Verdict == record.Invalid {
			continue
		}
		dir, err := run.CellDir(h.Cells[i], 1)
		assert.NilError(t, err)
		assert.NilError(t, run.SaveOutcome(dir, o))
		c := NewCell(h.Cells[i], o)
		c.Dir = dir
		assert.NilError(t, run.Append(c))
	}
	return run
}

func ended(v record.Verdict, titles ...string) Outcome {
	o := Outcome{Step: record.ProgramStep}
	for _, title := range titles {
		o.Reports = append(o.Reports, record.Report{Title: title})
	}
	title := fmt.Sprint(v)
	if len(titles) > 0 {
		title = titles[0]
	}
	return o.end(v, title, "")
}

func TestTally(t *testing.T) {
	const bug = "KASAN: slab-use-after-free in kvm_put_kvm"
	pass, fail, crash, other := ended(record.Pass), ended(record.Fail), ended(record.Crash, "WARNING in x", bug), ended(record.Crash, "WARNING in x")
	early := ended(record.Crash, bug)
	early.Step = "bind edu to vfio-pci"
	for _, c := range []struct {
		expect                string
		outcomes              []Outcome
		hits, runs, undecided int
		endings, status       int
	}{
		{"", []Outcome{pass, pass}, 0, 2, 0, 1, 0},
		{"", []Outcome{pass, fail, crash, other}, 3, 4, 0, 3, 1},
		{"", []Outcome{pass, ended(record.Error)}, 0, 1, 1, 2, 2},
		{"", []Outcome{fail, ended(record.Skip)}, 1, 1, 1, 2, 2},
		{"", []Outcome{pass, {}}, 0, 1, 1, 2, 2},
		{"", []Outcome{early}, 0, 0, 1, 1, 2},
		{"use-after-free in kvm_", []Outcome{crash, crash, pass}, 2, 3, 0, 2, 0},
		{"use-after-free in kvm_", []Outcome{other, pass, fail, ended(record.Hang)}, 0, 4, 0, 4, 1},
		{"use-after-free in kvm_", []Outcome{crash, ended(record.Error), {}}, 1, 1, 2, 3, 0},
		{"use-after-free in kvm_", []Outcome{pass, ended(record.Error)}, 0, 1, 1, 2, 2},
		{"use-after-free in kvm_", []Outcome{early}, 0, 0, 1, 1, 2},
		{"^crash$", []Outcome{ended(record.Crash)}, 1, 1, 0, 1, 0}, // a panic that QEMU saw and no report tells of
	} {
		got, err := programRun(t, c.expect, c.outcomes...).Tally()
		assert.NilError(t, err)
		assert.Check(t, got.Hits == c.hits && got.Runs == c.runs && got.Undecided == c.undecided, "%+v: %+v", c, got)
		assert.Check(t, len(got.Endings) == c.endings, "%+v", got.Endings)
		assert.Check(t, got.Status() == c.status, "%+v: status %d", c, got.Status())
	}
}

// Hits come first, and one example stands for all that ended alike.
func TestTallyEndings(t *testing.T) {
	crash, pass := ended(record.Crash, "BUG: x"), ended(record.Pass)
	got, err := programRun(t, "BUG: x", pass, ended(record.Error), pass, crash).Tally()
	assert.NilError(t, err)
	var list []string
	for _, e := range got.Endings {
		list = append(list, fmt.Sprint(e.Count, e.Verdict, e.Hit, e.Decided, e.Example.Repeat))
	}
	// What the expected report comes with, or after, is no other ending.
	got2, err := programRun(t, "BUG: x", crash, ended(record.Crash, "INFO: rcu stall", "BUG: x"), ended(record.Crash, "INFO: rcu stall")).Tally()
	assert.NilError(t, err)
	assert.Equal(t, fmt.Sprint(got2.Endings[0].Count, got2.Endings[0].Title, got2.Endings[1].Count, got2.Endings[1].Title), "2BUG: x1INFO: rcu stall")
	assert.DeepEqual(t, list, []string{"1 crash true true 4", "2 pass false true 1", "1 error false false 2"})
}

func TestTallyOfARunOfScenarios(t *testing.T) {
	_, err := create(t, t.TempDir()).Tally()
	assert.ErrorContains(t, err, "no run of a program")
	_, err = programRun(t, "(", ended(record.Pass)).Tally()
	assert.ErrorContains(t, err, "expect: ")
}

func TestOutputHasAFileOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	l, err := NewRecordLog(dir)
	assert.NilError(t, err)
	for i, from := range []string{record.FromProgram, "", record.FromExit, record.FromProgram} {
		assert.NilError(t, l.Append(record.Record{Seq: i + 1, Kind: record.KindLog, Log: &record.Log{Text: fmt.Sprintf("%d\x1b", i), From: from}}))
	}
	assert.NilError(t, l.Close())
	text, err := ReadOutput(dir, 100)
	assert.NilError(t, err)
	assert.Equal(t, text, "0\x1b3\x1b")
	text, err = ReadOutput(dir, 3)
	assert.NilError(t, err)
	assert.Equal(t, text, "\x1b3\x1b")
	text, err = ReadOutput(t.TempDir(), 3)
	assert.NilError(t, err)
	assert.Equal(t, text, "")
}

// What is expected may come after the program's end, and after another report, which is judged all the same.
func TestExpectationHoldsToTheEnd(t *testing.T) {
	other, wanted := report("WARNING in f", record.ClassWarn, false, 1), report("BUG: wanted", record.ClassOops, true, 20)
	o := Judge(Input{Records: script("step:run the program", "ok:a", "inv:b"), Reports: []record.Report{other, wanted}, Exit: fine})
	run := programRun(t, "^BUG: wanted$", o)
	tally, err := run.Tally()
	assert.NilError(t, err)
	assert.Equal(t, tally.Hits, 1)
	assert.Equal(t, o.Verdict, record.Crash)
	assert.Equal(t, o.Title, other.Title)
}
