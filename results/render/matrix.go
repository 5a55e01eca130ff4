package render

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// matrixLegend says how an entry of matrix reads.
const matrixLegend = "passes, +k known issues, +s skipped, +! findings"

// matrix counts cells by kernel and machine (rows) and area (columns), with a header. It is nil for a run
// with one row: the headline says as much.
func (r Report) matrix() [][]string {
	suites := r.suites()
	if len(suites) < 2 {
		return nil
	}
	var areas []string
	for _, c := range r.Cells {
		if a := r.area(c); !slices.Contains(areas, a) {
			areas = append(areas, a)
		}
	}
	slices.Sort(areas)
	rows := [][]string{append([]string{"kernel", "machine"}, areas...)}
	for _, s := range suites {
		row := []string{s.kernel, s.machine}
		for _, a := range areas {
			row = append(row, entry(slices.DeleteFunc(slices.Clone(s.cells), func(c results.Cell) bool { return r.area(c) != a })))
		}
		rows = append(rows, row)
	}
	return rows
}

func (r Report) area(c results.Cell) string {
	if a := r.Areas[c.Scenario]; a != "" {
		return a
	}
	return "other"
}

// entry is the cells of one area on one kernel and machine: "6", "5+1k", "4s", "3+1!".
func entry(cells []results.Cell) string {
	n := map[string]int{}
	for _, c := range cells {
		switch c.Verdict {
		case record.Pass:
			n[""]++
		case record.Known:
			n["k"]++
		case record.Skip:
			n["s"]++
		default:
			n["!"]++
		}
	}
	var parts []string
	for _, kind := range []string{"", "k", "s", "!"} {
		if n[kind] > 0 {
			parts = append(parts, fmt.Sprintf("%d%s", n[kind], kind))
		}
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, "+")
}

// columns aligns a table of short words, one space between columns. One that is wider than n becomes several,
// each with the first few columns, an empty line between them.
func columns(rows [][]string, first, n int) []string {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(Escape(cell)))
		}
	}
	var out []string
	for from := first; from < len(width); {
		used, to := 0, from
		for i := range first {
			used += width[i] + 1
		}
		for to < len(width) && (to == from || used+width[to] <= n) {
			used += width[to] + 1
			to++
		}
		if from > first {
			out = append(out, "")
		}
		for _, row := range rows {
			var b strings.Builder
			for i, cell := range row {
				if i < first || i >= from && i < to {
					fmt.Fprintf(&b, "%-*s ", width[i], Escape(cell))
				}
			}
			out = append(out, strings.TrimRight(b.String(), " "))
		}
		from = to
	}
	return out
}
