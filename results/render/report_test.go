package render

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"
	"unicode"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// exampleReport is a run with one cell of each kind, one finding twice, and words of a guest that would hurt.
func exampleReport(t *testing.T) Report {
	t.Helper()
	run, _ := example(t)
	cells, err := run.AllCells()
	assert.NilError(t, err)
	h := run.Header()
	h.ID, h.QEMU, h.Accelerator, h.Version = "20261122-151000-abcd", "7.2.22", "tcg", "v0.3"
	h.NotCovered = []string{"SVM only, emulated (TCG); no VMX", "no posted interrupts"}
	for i := range cells {
		if cells[i].Verdict == record.Fail {
			again := cells[i]
			again.Machine = "amd"
			cells = append(cells, again)
		}
	}
	areas := map[string]string{}
	for _, c := range cells {
		areas[c.Scenario], _, _ = strings.Cut(c.Scenario, "-")
	}
	return Report{Header: h, Cells: cells, Outcome: run.Outcome, Areas: areas, Claims: map[string]string{
		"attach-group-container": "a device attaches <through> its group, with a `container`",
	}}
}

func TestReports(t *testing.T) {
	for name, write := range map[string]func(io.Writer, Report) error{
		"report.txt": ReportText, "report.md": ReportMarkdown, "report.xml": ReportJUnit, "report.ktap": ReportKTAP,
	} {
		var out bytes.Buffer
		assert.NilError(t, write(&out, exampleReport(t)), name)
		harmless(t, out.String())
		golden.Assert(t, out.String(), name)
	}
}

func harmless(t *testing.T, s string) {
	t.Helper()
	for _, c := range s {
		assert.Assert(t, c == '\n' || unicode.IsPrint(c), "%q in the output", c)
	}
}

// A line that is longer than a mail's is a line that comes back broken.
func TestReportFitsMail(t *testing.T) {
	r := exampleReport(t)
	for i := range r.Cells {
		r.Cells[i].Title += strings.Repeat(" and a long tail", 20)
	}
	r.Cells[0].Title += strings.Repeat("x", 200)
	r.Header.Kernels[0].Spec = "/" + strings.Repeat("a/long/way/", 12)
	var out bytes.Buffer
	assert.NilError(t, ReportText(&out, r))
	for line := range strings.Lines(out.String()) {
		assert.Assert(t, len(strings.TrimRight(line, "\n")) < 80, line)
	}
}

func TestColumns(t *testing.T) {
	rows := [][]string{{"kernel", "one", "two", "three"}, {"6.12", "1", "2+3k", "-"}}
	assert.DeepEqual(t, columns(rows, 1, 40), []string{"kernel one two  three", "6.12   1   2+3k -"})
	assert.DeepEqual(t, columns(rows, 1, 15), []string{"kernel one two", "6.12   1   2+3k", "", "kernel three", "6.12   -"})
}

// What is broken over lines for the mail is still the command.
func TestPasted(t *testing.T) {
	command := "nestbed run unload-vendor-while-vfio-holds-kvm -k debian:trixie-backports/7.3 -m intel"
	lines := pasted(command, 40)
	assert.Assert(t, len(lines) > 1)
	assert.Equal(t, strings.Join(strings.Fields(strings.ReplaceAll(strings.Join(lines, "\n"), "\\\n", " ")), " "), command)
	quoted := `nestbed exec --expect 'BUG: unable to  handle it'\''s way of things' -k debian:6.12 -- l1.c`
	assert.DeepEqual(t, pasted(quoted, 30), []string{
		`nestbed exec --expect \`, `  'BUG: unable to  handle it'\''s way of things' \`, `  -k debian:6.12 -- l1.c`,
	})
	assert.DeepEqual(t, pasted("nestbed run x", 40), []string{"nestbed run x"})
}

func TestJUnitCounts(t *testing.T) {
	var out bytes.Buffer
	assert.NilError(t, ReportJUnit(&out, exampleReport(t)))
	var got junitSuites
	assert.NilError(t, xml.Unmarshal(out.Bytes(), &got))
	cases, failures, skips := 0, 0, 0
	for _, s := range got.Suites {
		for _, c := range s.Cases {
			cases++
			if c.Failure != nil {
				failures++
			}
			if c.Skipped != nil {
				skips++
			}
		}
	}
	assert.Equal(t, cases, got.Tests)
	assert.Equal(t, failures, got.Failures)
	assert.Equal(t, skips, got.Skipped)
	assert.Assert(t, failures > 0 && skips > 0 && got.Errors > 0)
}

func TestMarkdownFence(t *testing.T) {
	var out bytes.Buffer
	fence(&out, []string{"a", "```", "````x"})
	assert.Assert(t, strings.HasPrefix(strings.TrimSpace(out.String()), "`````\n"))
	assert.Equal(t, markdown("<b> a_b *c* [d](e) \x1b"), `&lt;b&gt; a\_b \*c\* \[d\](e) \\x1b`)
}

func TestCompareText(t *testing.T) {
	cell := func(scenario, machine string, v record.Verdict, title string) results.Cell {
		p := planned(scenario)
		p.Machine = machine
		c := results.NewCell(p, results.Outcome{Verdict: v, Title: title})
		if v.Bad() || v == record.Known {
			c.Signature = title
		}
		return c
	}
	old := []results.Cell{
		cell("a-fixed", "intel", record.Crash, "BUG: one"), cell("b-still", "intel", record.Known, "BUG: two"),
		cell("c-worse", "intel", record.Fail, "a claim"), cell("d-new", "intel", record.Pass, ""),
		cell("e-gone", "intel", record.Fail, "lost"), cell("p-one", "amd", record.Pass, ""), cell("p-two", "amd", record.Pass, ""), cell("q", "virtio", record.Pass, ""),
	}
	now := []results.Cell{
		cell("a-fixed", "intel", record.Pass, ""), cell("b-still", "intel", record.Crash, "BUG: two"),
		cell("c-worse", "intel", record.Crash, "BUG: three"+evil), cell("d-new", "intel", record.Hang, "no progress"),
		cell("e-gone", "intel", record.Skip, "needs more"), cell("q", "virtio", record.Error, "no disk"),
		cell("r-added", "intel", record.Fail, "nobody looked before"),
	}
	h := func(id, qemu string) results.Header {
		return results.Header{ID: id, QEMU: qemu, Accelerator: "tcg", Kernels: []results.Kernel{{Release: "6.12"}}, Cells: make([]results.Planned, 3)}
	}
	var out bytes.Buffer
	assert.NilError(t, Compare(&out, h("old", "7.2.22"), h("new", "10.0.2"), results.Compare(old, now)))
	harmless(t, out.String())
	golden.Assert(t, out.String(), "compare.txt")
}
