package results

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/nestbed/nestbed/results/record"
)

// CompareSchema names the version of Comparison as JSON.
const CompareSchema = "nestbed/compare/1"

// Change is how a finding, or a cell that lost its verdict, came out in the newer of two runs.
type Change string

// The changes, in the order in which a reader wants them. What did not change and is no finding has none.
const (
	New         Change = "new"          // the older run had a verdict in this cell, and not this finding
	Worse       Change = "worse"        // the older run had another finding there, which is gone: one crash became another
	NotCompared Change = "not compared" // a finding where the older run had no verdict on the kernel: nobody knows since when
	Gone        Change = "gone"         // the older run had a verdict on the kernel there, the newer one has none
	Still       Change = "still"        // the same finding, by its signature
	Fixed       Change = "fixed"        // a finding of the older run that the newer one ran and did not have
)

// Changes lists them in that order.
func Changes() []Change { return []Change{New, Worse, NotCompared, Gone, Still, Fixed} }

// Share is K of N verdicts on the kernel; N is more than 1 with repeats.
type Share struct {
	K int `json:"k"`
	N int `json:"n"`
}

// Difference is one change in one cell, repeats taken together.
type Difference struct {
	Change    Change         `json:"change"`
	Scenario  string         `json:"scenario"` // with its variant
	Kernel    string         `json:"kernel"`   // of the newer run, if it has the cell
	Machine   string         `json:"machine"`
	Verdict   record.Verdict `json:"verdict"` // of the finding; of a cell that is gone, what it was
	Title     string         `json:"title"`
	Signature string         `json:"signature,omitempty"`
	Old       Share          `json:"old"`
	New       Share          `json:"new"`
	Was       string         `json:"was,omitempty"`    // worse: the title before
	Known     string         `json:"known,omitempty"`  // the known issue that explains it in the run that has it
	Reason    string         `json:"reason,omitempty"` // gone, not compared: why one run has no verdict
}

// Comparison is what changed from one run to another.
type Comparison struct {
	Schema      string       `json:"schema"`
	Differences []Difference `json:"differences"` // findings first
	Alike       int          `json:"alike"`       // cells with a verdict in both runs and a finding in neither
	Added       int          `json:"added"`       // cells in which only the newer run has a verdict, without a finding
	NoVerdict   int          `json:"no_verdict"`  // cells of the newer run that are error or unfinished
}

// Count is how many differences are of one kind.
func (c Comparison) Count(change Change) int {
	n := 0
	for _, d := range c.Differences {
		if d.Change == change {
			n++
		}
	}
	return n
}

// ExitStatus is 2 if the newer run has cells that are error or unfinished, else 1 if something is new, worse
// or not compared that no known issue explains, else 0.
func (c Comparison) ExitStatus() int {
	if c.NoVerdict > 0 {
		return 2
	}
	if slices.ContainsFunc(c.Differences, func(d Difference) bool {
		return slices.Contains([]Change{New, Worse, NotCompared}, d.Change) && d.Known == ""
	}) {
		return 1
	}
	return 0
}

// Compare tells what changed between two runs' cells, as AllCells gives them. Two runs of one kernel each
// are compared kernel against kernel; of several, cells pair up by the kernel's release. A finding is told
// by its signature, so that one crash that became another is not taken for the same, and a known issue is a
// finding as any.
func Compare(older, newer []Cell) Comparison {
	key := func(c Cell) string { return c.Name() + "/" + c.Machine + "/" + c.Kernel }
	if a, b := kernelsOf(older), kernelsOf(newer); len(a) <= 1 && len(b) <= 1 {
		key = func(c Cell) string { return c.Name() + "/" + c.Machine }
	}
	before, after := gather(older, key), gather(newer, key)
	out := Comparison{Schema: CompareSchema}
	for _, c := range newer {
		if c.Verdict == record.Error || c.Verdict == record.Invalid {
			out.NoVerdict++
		}
	}
	keys := map[string]bool{}
	for k := range before {
		keys[k] = true
	}
	for k := range after {
		keys[k] = true
	}
	for k := range keys {
		found := differences(before[k], after[k])
		out.Differences = append(out.Differences, found...)
		if len(found) == 0 {
			switch b, a := before[k], after[k]; {
			case a == nil || a.judged == 0:
			case b == nil || b.judged == 0:
				out.Added++
			default:
				out.Alike++
			}
		}
	}
	changes := Changes()
	slices.SortFunc(out.Differences, func(a, b Difference) int {
		return cmp.Or(
			cmp.Compare(slices.Index(changes, a.Change), slices.Index(changes, b.Change)),
			cmp.Compare(rank(a.Verdict), rank(b.Verdict)),
			cmp.Compare(a.Scenario, b.Scenario),
			cmp.Compare(a.Kernel, b.Kernel),
			cmp.Compare(a.Machine, b.Machine),
			cmp.Compare(a.Signature, b.Signature),
		)
	})
	return out
}

func kernelsOf(cells []Cell) []string {
	var list []string
	for _, c := range cells {
		list = append(list, c.Kernel)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// group is a cell with its repeats.
type group struct {
	any      Cell   // one of them
	judged   int    // with a verdict on the kernel
	findings []Cell // one for each signature
	count    map[string]int
	without  Cell // one without a verdict on the kernel
}

// finding tells a verdict against the kernel, explained or not.
func finding(c Cell) bool { return c.Verdict.Bad() || c.Verdict == record.Known }

func gather(cells []Cell, key func(Cell) string) map[string]*group {
	groups := map[string]*group{}
	for _, c := range cells {
		g := groups[key(c)]
		if g == nil {
			g = &group{any: c, count: map[string]int{}}
			groups[key(c)] = g
		}
		switch {
		case finding(c):
			g.judged++
			if g.count[c.Signature]++; g.count[c.Signature] == 1 {
				g.findings = append(g.findings, c)
			}
		case c.Verdict == record.Pass:
			g.judged++
		default:
			g.without = c
		}
	}
	return groups
}

// differences tells what happened to one cell. Either group may be nil.
func differences(before, after *group) []Difference {
	none := &group{count: map[string]int{}}
	if before == nil {
		before = none
	}
	if after == nil {
		after = none
	}
	if before.judged > 0 && after.judged == 0 {
		return []Difference{before.gone(after)}
	}
	var out, lost []Difference
	for _, c := range before.findings {
		d := difference(c, before, after)
		if after.count[c.Signature] > 0 {
			continue // told from the newer run's side
		}
		d.Change = Fixed
		lost = append(lost, d)
	}
	for _, c := range after.findings {
		d := difference(c, before, after)
		switch {
		case before.count[c.Signature] > 0:
			d.Change = Still
		case before.judged == 0:
			d.Change, d.Reason = NotCompared, before.missing("older")
		case len(lost) > 0:
			d.Change, d.Was = Worse, lost[0].Title
			lost = lost[1:]
		default:
			d.Change = New
		}
		out = append(out, d)
	}
	return append(out, lost...)
}

func difference(c Cell, before, after *group) Difference {
	d := Difference{
		Scenario: c.Name(), Kernel: c.Kernel, Machine: c.Machine, Verdict: c.Verdict, Title: c.Title,
		Signature: c.Signature, Known: c.Known,
		Old: Share{before.count[c.Signature], before.judged},
		New: Share{after.count[c.Signature], after.judged},
	}
	if after.judged > 0 {
		d.Kernel = after.any.Kernel
	}
	return d
}

// gone tells of a cell that has a verdict here and none after.
func (g *group) gone(after *group) Difference {
	c := g.any
	if len(g.findings) > 0 {
		c = g.findings[0]
	}
	d := Difference{
		Change: Gone, Scenario: c.Name(), Kernel: c.Kernel, Machine: c.Machine, Verdict: c.Verdict,
		Title: c.Title, Signature: c.Signature, Known: c.Known,
		Old: Share{g.judged, g.judged}, Reason: after.missing("newer"),
	}
	if len(g.findings) > 0 {
		d.Old.K = g.count[c.Signature]
	}
	return d
}

// missing says why a run, the older or the newer one, has no verdict on the kernel here.
func (g *group) missing(run string) string {
	switch w := g.without; {
	case w.Scenario == "":
		return "not in the " + run + " run"
	case w.Verdict == record.Invalid:
		return "unfinished in the " + run + " run"
	default:
		return fmt.Sprintf("%s in the %s run: %s", w.Verdict, run, w.Title)
	}
}
