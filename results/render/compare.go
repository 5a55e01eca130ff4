package render

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/nestbed/nestbed/results"
)

// Compare writes what changed from one run to another.
func Compare(w io.Writer, older, newer results.Header, c results.Comparison) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "old  %s\nnew  %s\n", runLine(older), runLine(newer))
	for _, s := range otherwise(older, newer) {
		fmt.Fprintln(&out, "     "+s)
	}
	fmt.Fprintln(&out)
	if rows := collapse(c.Differences); len(rows) > 0 {
		t := plainTable("change", "scenario", "kernel", "machine", "old", "new")
		for _, d := range rows {
			t.AppendRow(table.Row{string(d.Change), fit(d.Scenario, 40), fit(d.Kernel, 24), fit(d.Machine, 8), share(d.Old), share(d.New)})
		}
		const indent = "           "
		for i, row := range lines(t) {
			fmt.Fprintln(&out, row)
			if i == 0 {
				continue
			}
			for _, s := range describe(rows[i-1]) {
				for _, line := range wrap(s, width-len(indent)) {
					fmt.Fprintln(&out, indent+line)
				}
			}
		}
		fmt.Fprintln(&out)
	}
	var parts []string
	for _, change := range results.Changes() {
		if n := c.Count(change); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, change))
		}
	}
	if len(parts) == 0 {
		parts = []string{"no finding in either run"}
	}
	line := strings.Join(parts, ", ") + fmt.Sprintf("; %s alike", plural(c.Alike, "other cell"))
	if c.Added > 0 {
		line += fmt.Sprintf(", %d with a verdict only in the newer run", c.Added)
	}
	fmt.Fprintln(&out, line)
	if c.NoVerdict > 0 {
		fmt.Fprintf(&out, "%s of the newer run: error or unfinished\n", plural(c.NoVerdict, "cell"))
	}
	return flush(w, &out)
}

// collapse makes one row of cells that passed and are gone for one reason: a machine that was left out is
// one fact, not sixty.
func collapse(all []results.Difference) []results.Difference {
	type why struct{ kernel, machine, reason string }
	of := func(d results.Difference) (why, bool) {
		return why{d.Kernel, d.Machine, d.Reason}, d.Change == results.Gone && d.Signature == ""
	}
	count := map[why]int{}
	for _, d := range all {
		if w, ok := of(d); ok {
			count[w]++
		}
	}
	var out []results.Difference
	for _, d := range all {
		w, ok := of(d)
		switch {
		case !ok || count[w] == 1:
			out = append(out, d)
		case count[w] > 1:
			d.Scenario = plural(count[w], "cell") + " that passed"
			d.Old, d.New = results.Share{}, results.Share{}
			out = append(out, d)
			count[w] = 0
		}
	}
	return out
}

// describe says what a difference is about.
func describe(d results.Difference) []string {
	title := d.Verdict.String() + ": " + d.Title
	if d.Known != "" {
		title = d.Verdict.String() + " (" + d.Known + "): " + d.Title
	}
	switch d.Change {
	case results.Worse:
		return []string{title, "was: " + d.Was}
	case results.NotCompared:
		return []string{title, d.Reason}
	case results.Gone:
		if d.Signature == "" {
			return []string{d.Reason}
		}
		return []string{title, d.Reason}
	}
	return []string{title}
}

func share(s results.Share) string {
	if s.N == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d", s.K, s.N)
}

// runLine names a run by what it ran on.
func runLine(h results.Header) string {
	var ks []string
	for _, k := range h.Kernels {
		ks = append(ks, k.Release)
	}
	return fit(fmt.Sprintf("%s  %s, %s, QEMU %s %s", h.ID, strings.Join(ks, " "), plural(len(h.Cells), "cell"), h.QEMU, h.Accelerator), width-5)
}

// otherwise says in what else than the kernel two runs differ: a reader would take it for the kernel's.
func otherwise(older, newer results.Header) []string {
	var out []string
	for _, c := range []struct{ what, a, b string }{
		{"QEMU", older.QEMU, newer.QEMU},
		{"the accelerator", older.Accelerator, newer.Accelerator},
	} {
		if c.a != c.b {
			out = append(out, fit(fmt.Sprintf("not the same: %s (%s, then %s)", c.what, c.a, c.b), width-5))
		}
	}
	if older.Catalogue != newer.Catalogue {
		out = append(out, "not the same: the scenarios (another nestbed wrote them)")
	}
	return out
}
