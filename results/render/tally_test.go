package render

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// programRun is a run of a reproducer with one cell of each kind, and its first crash has written something.
func programRun(t *testing.T, p results.Program) *results.Run {
	t.Helper()
	h := results.Header{Started: started, Program: &p}
	var outcomes []results.Outcome
	for _, o := range []results.Outcome{
		crashed(), crashed(),
		{Verdict: record.Pass, Checks: 9},
		{Verdict: record.Fail, Title: "the program exits with status 0", Reason: "want exit status 0, got exit status 3"},
		{Verdict: record.Error, Title: evil},
		{},
	} {
		o.Step = record.ProgramStep
		outcomes = append(outcomes, o)
		cell := planned("exec")
		cell.Variant, cell.Repeat = "l1", len(outcomes)
		h.Cells = append(h.Cells, cell)
	}
	run, err := results.Create(t.TempDir(), h)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, run.Close()) })
	for i, o := range outcomes {
		if o.Verdict == record.Invalid {
			continue
		}
		dir, err := run.CellDir(h.Cells[i], 1)
		assert.NilError(t, err)
		assert.NilError(t, run.SaveOutcome(dir, o))
		c := results.NewCell(h.Cells[i], o)
		c.Dir, c.Attempts = dir, 1
		assert.NilError(t, run.Append(c))
	}
	note(t, run, 3, record.Log{Text: "exit status 1 after 0.3s", From: record.FromExit})
	note(t, run, 1, record.Log{Text: strings.Repeat("a line\n", 30) + evil, From: record.FromProgram},
		record.Log{Text: "killed by SIGSEGV after 0.2s", From: record.FromExit})
	return run
}

// note writes the records of the run's n-th cell.
func note(t *testing.T, run *results.Run, n int, logs ...record.Log) {
	t.Helper()
	log, err := results.NewRecordLog(fmt.Sprintf("%s/exec@l1_6.12.117+deb12-amd64_intel#%d", run.Dir(), n))
	assert.NilError(t, err)
	assert.NilError(t, log.Append(record.Record{Seq: 1, Kind: record.KindHello, Hello: &record.Hello{Schema: record.Schema}}))
	for i, l := range logs {
		assert.NilError(t, log.Append(record.Record{Seq: i + 2, Kind: record.KindLog, Log: &l}))
	}
	assert.NilError(t, log.Close())
}

func TestTally(t *testing.T) {
	run := programRun(t, results.Program{Path: "/home/me/l1.c", Args: []string{"it's"}, Devices: []string{"edu"}, Timeout: 60, Expect: "^BUG: .*kvm_vcpu"})
	tally, err := run.Tally()
	assert.NilError(t, err)
	var out bytes.Buffer
	assert.NilError(t, Tally(&out, tally))
	sane(t, out.String())
	golden.Assert(t, out.String(), "tally.golden")

	out.Reset()
	cells, err := run.Cells()
	assert.NilError(t, err)
	assert.NilError(t, Detail(&out, run, cells[0]))
	text := strings.ReplaceAll(out.String(), run.Dir(), "RUN")
	sane(t, text)
	golden.Assert(t, text, "detail-exec.golden")
}

func TestTallyOfOneRun(t *testing.T) {
	for _, c := range []struct {
		tally results.Tally
		want  string
	}{
		{results.Tally{Runs: 1}, "not pass 0 of 1\n"},
		{results.Tally{Runs: 1, Hits: 1, Expect: "x"}, "reproduced 1 of 1\n"},
		{results.Tally{Undecided: 1, Endings: []results.Ending{{Verdict: record.Skip, Count: 1}}}, "undecided: no run came to a verdict on the program\n"},
		{results.Tally{Undecided: 2, Endings: []results.Ending{{Verdict: record.Invalid, Count: 2}}}, "    2  unfinished\nundecided: no run came to a verdict on the program\n"},
		{results.Tally{Runs: 1000, Hits: 3, Rate: .003, Low: .00102, High: .00878}, "not pass 3 of 1000: 0.3%, 95% confidence interval 0.1% to 0.9%\n"},
	} {
		var out bytes.Buffer
		assert.NilError(t, Tally(&out, c.tally))
		assert.Equal(t, out.String(), c.want)
	}
}

// The command must be the same words when a shell has read it.
func TestAgain(t *testing.T) {
	cell := planned("exec")
	for _, c := range []struct {
		program results.Program
		want    string
	}{
		{results.Program{Path: "/b", Timeout: 90}, "--device none --timeout 1m30s -- /b"},
		{results.Program{Path: "/a b", Args: []string{"", "$x"}, Devices: []string{"edu", "nvme"}, Timeout: 120, Expect: "a.*b"}, "--device edu --device nvme --timeout 2m --expect 'a.*b' -- '/a b' '' '$x'"},
	} {
		assert.Equal(t, Again(results.Header{Program: &c.program}, cell), fmt.Sprintf("nestbed exec -k debian:6.12 -m intel %s", c.want))
	}
	h := results.Header{QEMUBinary: "./qemu", Program: &results.Program{Path: "/b", Timeout: 1}}
	assert.Equal(t, Again(h, cell), "nestbed exec -k debian:6.12 -m intel --qemu ./qemu --device none --timeout 1s -- /b")
}
