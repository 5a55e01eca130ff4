package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// Summary is what the table at the end of a run says.
type Summary struct {
	RunID      string
	Cells      []results.Cell // with the plan's skips, as Run.Cells gives them
	Unfinished []results.Planned
	Passes     []results.UnexpectedPass
	NotCovered []string      // what green does not say
	Elapsed    time.Duration // 0 when not known
	Damage     []string      // what is wrong with the run's files, as Run.Damage gives it
}

// Table writes the cells, findings first, and a summary.
func Table(w io.Writer, s Summary) error {
	cells := slices.Clone(s.Cells)
	for _, p := range s.Unfinished {
		cells = append(cells, results.NewCell(p, results.Outcome{}))
	}
	slices.SortStableFunc(cells, results.FindingsFirst)

	t := plainTable("verdict", "scenario", "kernel", "machine", "time")
	for _, c := range cells {
		name := c.Name()
		if c.Repeat > 0 {
			name += fmt.Sprintf("#%d", c.Repeat)
		}
		took := ""
		if c.Duration > 0 {
			took = seconds(c.Duration)
		}
		t.AppendRow(table.Row{word(c.Verdict), fit(name, 44), fit(c.Kernel, 26), fit(c.Machine, 8), took})
	}
	var out bytes.Buffer
	for i, row := range lines(t) {
		fmt.Fprintln(&out, row)
		if i > 0 {
			finding(&out, cells[i-1])
		}
	}
	fmt.Fprintln(&out)
	tally(&out, s, cells)
	return flush(w, &out)
}

// finding writes the lines below a cell: what it did not pass for, or what the kernel reported as it was to.
func finding(out *bytes.Buffer, c results.Cell) {
	const indent = "            "
	note := func(s string) {
		for _, line := range wrap(s, width-len(indent)) {
			fmt.Fprintln(out, indent+line)
		}
	}
	switch c.Verdict {
	case record.Pass:
		note(c.Reason) // what was declared and came
	case record.Skip:
		note(c.Title)
		if c.Remedy != "" {
			note("to run it: " + c.Remedy)
		}
	case record.Known:
		note(c.Known + ": " + c.Title)
	case record.Invalid:
	default:
		note(c.Title)
		note(c.Reason)
	}
	if c.Attempts > 1 {
		retry := plural(c.Attempts, "attempt")
		if c.Retried != "" {
			retry += ", before: " + c.Retried
		}
		note(retry)
	}
}

func tally(out *bytes.Buffer, s Summary, cells []results.Cell) {
	line := plural(len(cells), "cell")
	if len(cells) > 0 {
		line += ": " + tallied(cells)
	}
	if s.Elapsed > 0 {
		line += " in " + elapsed(s.Elapsed)
	}
	fmt.Fprintln(out, line)
	for _, p := range s.Passes {
		fmt.Fprintln(out, fit(fmt.Sprintf("unexpected pass: %s, where %s is known", p.Cell.ID(), p.Known), width))
	}
	for _, d := range s.Damage {
		labelled(out, "damaged: ", d)
	}
	footer(out, s.NotCovered, s.RunID)
}

// labelled writes a text of up to three lines, the label before the first.
func labelled(out *bytes.Buffer, label, text string) {
	for _, line := range wrap(text, width-len(label)) {
		fmt.Fprintln(out, label+line)
		label = strings.Repeat(" ", len(label))
	}
}

// Footer writes what green does not say, and where there is more.
func Footer(w io.Writer, notCovered []string, run string) error {
	var out bytes.Buffer
	footer(&out, notCovered, run)
	return flush(w, &out)
}

func footer(out *bytes.Buffer, notCovered []string, run string) {
	if len(notCovered) > 0 {
		labelled(out, "not covered: ", strings.Join(notCovered, "; "))
	}
	if run != "" {
		fmt.Fprintf(out, "more: nestbed show %s\n", quote(run))
	}
}

// tallied is "2 crash, 1 known, 54 pass".
func tallied(cells []results.Cell) string {
	n := map[record.Verdict]int{}
	for _, c := range cells {
		n[c.Verdict]++
	}
	var parts []string
	for _, v := range []record.Verdict{record.Crash, record.Hang, record.Fail, record.Error, record.Invalid, record.Known, record.Skip, record.Pass} {
		if n[v] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[v], word(v)))
		}
	}
	return strings.Join(parts, ", ")
}

// Runs writes one line per run, newest last.
func Runs(w io.Writer, runs []*results.Run) error {
	t := plainTable("run", "started", "cells", "verdicts", "kernels")
	for _, r := range runs {
		h := r.Header()
		verdicts := "unreadable"
		if cells, err := r.AllCells(); err == nil {
			verdicts = tallied(cells)
		}
		var kernels []string
		for _, k := range h.Kernels {
			kernels = append(kernels, k.Spec)
		}
		t.AppendRow(table.Row{Escape(h.ID), h.Started.Local().Format("2006-01-02 15:04"), len(h.Cells), fit(verdicts, 28), fit(strings.Join(kernels, " "), 16)})
	}
	var out bytes.Buffer
	if len(runs) == 0 {
		fmt.Fprintln(&out, "no runs yet; nestbed run makes one")
	} else {
		for _, row := range lines(t) {
			fmt.Fprintln(&out, row)
		}
	}
	return flush(w, &out)
}

// Detail writes all that a person needs to see of one cell.
func Detail(w io.Writer, run *results.Run, c results.Cell) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%-10s  %s\n", word(c.Verdict), Escape(c.ID()))
	note := func(label, s string) {
		for i, line := range wrap(s, width-12) {
			if i > 0 {
				label = ""
			}
			fmt.Fprintf(&out, "%-10s  %s\n", label, line)
		}
	}
	whole := func(label, s string) { fmt.Fprintf(&out, "%-10s  %s\n", label, Escape(s)) }

	note("title", c.Title)
	if c.Known != "" {
		note("known", c.Known)
	}
	if c.Reason != c.Title {
		note("reason", c.Reason)
	}
	if c.Remedy != "" {
		note("to run it", c.Remedy)
	}
	if c.Retried != "" {
		note("retried", c.Retried)
	}
	if c.Duration > 0 {
		note("took", strings.TrimSuffix(fmt.Sprintf("%s, %s, %s", seconds(c.Duration), plural(c.Attempts, "attempt"), c.Accelerator), ", "))
	}

	o, err := run.Outcome(c)
	switch {
	case errors.Is(err, fs.ErrNotExist): // it never ran, or died before its verdict
		if c.Step != "" {
			note("step", c.Step)
		}
	case err != nil:
		if c.Step != "" {
			note("step", c.Step)
		}
		note("outcome", err.Error())
	default:
		outcome(&out, note, o)
	}
	if dir := run.Path(c); dir != "" {
		whole("files", dir)
		if gone := run.Gone(c); len(gone) > 0 {
			note("missing", strings.Join(gone, ", "))
		}
	}
	if c.Signature != "" {
		whole("signature", c.Signature)
	}
	if dir := run.Path(c); dir != "" && run.Header().Program != nil {
		if err := output(&out, dir); err != nil {
			note("output", err.Error())
		}
	}
	whole("again", Again(run.Header(), c.Planned()))
	return flush(w, &out)
}

func outcome(out *bytes.Buffer, note func(label, s string), o results.Outcome) {
	if o.Step != "" {
		note("step", o.Step)
	}
	if o.Check != nil {
		note("claim", o.Check.Claim)
		if o.Check.Op != "" {
			note("", o.Check.Op)
		}
		if o.Check.Want != "" || o.Check.Got != "" {
			note("want", o.Check.Want)
			note("got", o.Check.Got)
		}
		if o.Check.Site != "" {
			note("at", o.Check.Site)
		}
	}
	if o.Checks > 0 {
		note("claims", fmt.Sprintf("%d, %d of them false", o.Checks, o.Failed))
	}
	for i, line := range o.Tail {
		if i == 0 {
			note("console", results.ConsoleFile+", its end")
		}
		fmt.Fprintln(out, strings.TrimRight("  "+fit(line, width-2), " "))
	}
	dead := false
	for i, r := range o.Reports {
		where := fmt.Sprintf("%s, lines %d to %d", results.ConsoleFile, r.Line, r.EndLine)
		if i == 0 {
			note("report", where)
		} else {
			note("then", r.Title)
			note("", where)
		}
		// The first one is the cause, the first fatal one the end; what lies between explains neither.
		if i == 0 || r.Fatal && !dead {
			for _, line := range r.Head {
				fmt.Fprintln(out, "  "+fit(line, width-2))
			}
		}
		dead = dead || r.Fatal
	}
}

// JSON writes the cell as one line, with an absolute folder.
func JSON(w io.Writer, run *results.Run, c results.Cell) error {
	c.Dir = run.Path(c)
	c.Schema = results.CellSchema
	line, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("render %s: %w", c.ID(), err)
	}
	_, err = w.Write(append(EscapeJSON(line), '\n'))
	return err
}

// plainTable is aligned text: no frame, no colour, two spaces between columns.
func plainTable(header ...string) table.Writer {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatUpper
	t.SetStyle(style)
	row := table.Row{}
	for _, h := range header {
		row = append(row, h)
	}
	t.AppendHeader(row)
	t.SetColumnConfigs([]table.ColumnConfig{{Name: "time", Align: text.AlignRight, AlignHeader: text.AlignRight}})
	return t
}

func lines(t table.Writer) []string {
	var out []string
	for row := range strings.SplitSeq(t.Render(), "\n") {
		out = append(out, strings.TrimRight(row, " "))
	}
	return out
}

func flush(w io.Writer, out *bytes.Buffer) error {
	_, err := w.Write(out.Bytes())
	return err
}
