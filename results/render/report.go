package render

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// Report is a run as it is told to others: in a mail, on a page, to a test collector.
type Report struct {
	Header  results.Header
	Cells   []results.Cell                              // all of them, see Run.AllCells
	Outcome func(results.Cell) (results.Outcome, error) // details of a cell
	Claims  map[string]string                           // what each scenario claims, by name
	Areas   map[string]string                           // which area each is of
}

// Finding is what speaks against a kernel, told once for all cells that show the same.
type Finding struct {
	Scenario string // with its variant
	Verdict  record.Verdict
	Title    string
	Known    string
	Claim    string           // what the scenario claims
	First    results.Cell     // the first cell that shows it
	Outcome  *results.Outcome // of First, if it could be read
	Where    []Where
}

// Where is one kernel and machine on which a finding showed, K of N times.
type Where struct {
	Kernel, Machine string
	K, N            int
}

// findings groups the cells that keep pred by scenario and signature, the worst first.
func (r Report) findings(pred func(results.Cell) bool) []Finding {
	cells := slices.Clone(r.Cells)
	slices.SortStableFunc(cells, results.FindingsFirst)
	type place struct{ name, kernel, machine string }
	total := map[place]int{}
	for _, c := range cells {
		if c.Verdict != record.Skip {
			total[place{c.Name(), c.Kernel, c.Machine}]++
		}
	}
	var out []Finding
	at := map[string]int{}
	for _, c := range cells {
		if !pred(c) {
			continue
		}
		key := c.Name() + "\x00" + c.Verdict.String() + "\x00" + cmp.Or(c.Signature, c.Title) + "\x00" + c.Known
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key] = i
			f := Finding{Scenario: c.Name(), Verdict: c.Verdict, Title: c.Title, Known: c.Known, Claim: r.Claims[c.Scenario], First: c}
			if r.Outcome != nil {
				if o, err := r.Outcome(c); err == nil {
					f.Outcome = &o
				}
			}
			out = append(out, f)
		}
		f := &out[i]
		w := slices.IndexFunc(f.Where, func(w Where) bool { return w.Kernel == c.Kernel && w.Machine == c.Machine })
		if w < 0 {
			f.Where = append(f.Where, Where{Kernel: c.Kernel, Machine: c.Machine, N: total[place{c.Name(), c.Kernel, c.Machine}]})
			w = len(f.Where) - 1
		}
		f.Where[w].K++
	}
	return out
}

// against are cells that speak against the kernel and that nobody has explained.
func against(c results.Cell) bool { return c.Verdict.Bad() }

// ours are cells that say nothing about the kernel.
func ours(c results.Cell) bool { return c.Verdict == record.Error || c.Verdict == record.Invalid }

func isKnown(c results.Cell) bool { return c.Verdict == record.Known }

// notRun groups skips by their reason.
func (r Report) notRun() []Finding {
	cells := slices.DeleteFunc(slices.Clone(r.Cells), func(c results.Cell) bool { return c.Verdict != record.Skip })
	var out []Finding
	for _, c := range cells {
		i := slices.IndexFunc(out, func(f Finding) bool {
			return f.Title == c.Title && f.First.Kernel == c.Kernel && f.First.Machine == c.Machine
		})
		if i < 0 {
			out = append(out, Finding{Title: c.Title, First: c})
			i = len(out) - 1
		}
		out[i].Where = append(out[i].Where, Where{Kernel: c.Kernel, Machine: c.Machine, K: 1, N: 1})
	}
	return out
}

// mail is the widest line of a report, fit to be quoted once in a mail.
const mail = 76

// ReportText writes a report as plain text for a mail.
func ReportText(w io.Writer, r Report) error {
	var out bytes.Buffer
	block := func(indent, s string) {
		for _, line := range fold(s, mail-len(indent)) {
			fmt.Fprintln(&out, indent+line)
		}
	}
	block("", "nestbed: "+r.headline())
	fmt.Fprintln(&out)
	for _, line := range r.setting() {
		label := line[0] + strings.Repeat(" ", max(1, 12-len(line[0])))
		for i, s := range fold(line[1], mail-14) {
			if i > 0 {
				label = strings.Repeat(" ", 12)
			}
			fmt.Fprintln(&out, "  "+label+s)
		}
	}
	if rows := r.matrix(); rows != nil {
		fmt.Fprintln(&out)
		for _, line := range columns(rows, 2, mail-2) {
			fmt.Fprintln(&out, strings.TrimRight("  "+line, " "))
		}
		fmt.Fprintln(&out, "  "+matrixLegend)
	}
	number := 0
	for _, f := range append(r.findings(against), r.findings(ours)...) {
		number++
		fmt.Fprintln(&out)
		head := fmt.Sprintf("%d. ", number)
		for i, line := range fold(f.headline(), mail-len(head)) {
			if i > 0 {
				head = strings.Repeat(" ", len(head))
			}
			fmt.Fprintln(&out, head+line)
		}
		block("   ", f.Scenario+claims(f.Claim))
		for _, w := range f.Where {
			block("   ", w.String())
		}
		for _, s := range f.facts() {
			block("   ", s)
		}
		if head := f.head(); len(head) > 0 {
			fmt.Fprintln(&out)
			for _, line := range head {
				fmt.Fprintln(&out, "     "+fit(line, mail-5))
			}
		}
		fmt.Fprintln(&out, "\n   To reproduce:")
		for _, line := range pasted(Again(r.Header, f.First.Planned()), mail-5) {
			fmt.Fprintln(&out, "     "+line)
		}
	}
	section := func(title string) { fmt.Fprintf(&out, "\n%s\n", title) }
	if list := r.findings(isKnown); len(list) > 0 {
		section("Known issues, seen again:")
		for _, f := range list {
			block("  ", f.Scenario+" ("+f.Known+"): "+f.Title)
			for _, w := range f.Where {
				block("    ", w.String())
			}
		}
	}
	if list := r.notRun(); len(list) > 0 {
		section("Not run:")
		for _, f := range list {
			block("  ", fmt.Sprintf("%s on %s, %s: %s", plural(len(f.Where), "scenario"), f.First.Kernel, f.First.Machine, f.Title))
		}
	}
	if len(r.Header.NotCovered) > 0 {
		section("Not covered, whatever the verdicts say:")
		block("  ", strings.Join(r.Header.NotCovered, "; "))
	}
	return flush(w, &out)
}

func (r Report) headline() string {
	return fmt.Sprintf("%s of %s", cmp.Or(tallied(r.Cells), "no verdict"), plural(len(r.Cells), "cell"))
}

// setting is what the run ran on, as labelled lines.
func (r Report) setting() [][2]string {
	h := r.Header
	var ks, ms []string
	for _, k := range h.Kernels {
		s := k.Release
		if k.Spec != "" && k.Spec != k.Release {
			s += " (" + k.Spec + ")"
		}
		ks = append(ks, s)
	}
	for _, c := range r.Cells {
		if !slices.Contains(ms, c.Machine) {
			ms = append(ms, c.Machine)
		}
	}
	return [][2]string{
		{"kernel", strings.Join(ks, ", ")},
		{"machine", fmt.Sprintf("%s; QEMU %s, %s", strings.Join(ms, ", "), h.QEMU, h.Accelerator)},
		{"run", fmt.Sprintf("%s, nestbed %s", h.ID, cmp.Or(h.Version, "(devel)"))},
	}
}

func claims(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

func (w Where) String() string {
	if w.N == 1 {
		return fmt.Sprintf("on %s, %s", w.Kernel, w.Machine)
	}
	return fmt.Sprintf("%d of %d on %s, %s", w.K, w.N, w.Kernel, w.Machine)
}

// headline is the verdict and what it is about. Unfinished cells have no more to say.
func (f Finding) headline() string {
	if f.Title == "" || f.Title == word(f.Verdict) {
		return word(f.Verdict)
	}
	return word(f.Verdict) + ": " + f.Title
}

// facts are what happened besides the title.
func (f Finding) facts() []string {
	var out []string
	if f.First.Reason != "" && f.First.Reason != f.Title {
		out = append(out, f.First.Reason)
	}
	o := f.Outcome
	if o == nil {
		return out
	}
	if o.Step != "" {
		out = append(out, fmt.Sprintf("in step %q", o.Step))
	}
	if c := o.Check; c != nil && c.Claim != f.Title {
		s := "false claim: " + c.Claim
		if c.Want != "" || c.Got != "" {
			s += fmt.Sprintf(" (want %s, got %s)", c.Want, c.Got)
		}
		out = append(out, s)
	}
	return out
}

// head is the kernel's report that gave the title.
func (f Finding) head() []string {
	if f.Outcome == nil || len(f.Outcome.Reports) == 0 {
		return nil
	}
	return f.Outcome.Reports[0].Head
}

// pasted breaks a command between its words, so that it can still be pasted. A word that is too long stays
// whole.
func pasted(command string, n int) []string {
	var lines []string
	line := ""
	for _, word := range shellWords(command) {
		switch {
		case line == "":
			line = word
		case len(line)+len(word)+len("  ")+len(` \`) > n:
			lines, line = append(lines, line+` \`), "  "+word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// shellWords splits a command that quote made, at the spaces outside of single quotes.
func shellWords(command string) []string {
	var words []string
	word, quoted := "", false
	for _, c := range command {
		switch {
		case c == ' ' && !quoted:
			words, word = append(words, word), ""
			continue
		case c == '\'' && !strings.HasSuffix(word, `\`):
			quoted = !quoted
		}
		word += string(c)
	}
	return append(words, word)
}

// ReportMarkdown writes a report for a page that renders Markdown.
func ReportMarkdown(w io.Writer, r Report) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "# nestbed: %s\n\n", markdown(r.headline()))
	for _, line := range r.setting() {
		fmt.Fprintf(&out, "- %s: %s\n", line[0], markdown(line[1]))
	}
	if rows := r.matrix(); rows != nil {
		fmt.Fprintln(&out)
		for i, row := range rows {
			for j := range row {
				row[j] = markdown(row[j])
			}
			fmt.Fprintf(&out, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				fmt.Fprintf(&out, "|%s\n", strings.Repeat("---|", len(row)))
			}
		}
		fmt.Fprintf(&out, "\nEach entry: %s.\n", markdown(matrixLegend))
	}
	if list := append(r.findings(against), r.findings(ours)...); len(list) > 0 {
		fmt.Fprint(&out, "\n## Findings\n")
		for _, f := range list {
			fmt.Fprintf(&out, "\n### %s\n\n%s%s\n\n", markdown(f.headline()), code(f.Scenario), markdown(claims(f.Claim)))
			for _, w := range f.Where {
				fmt.Fprintf(&out, "- %s\n", markdown(w.String()))
			}
			for _, s := range f.facts() {
				fmt.Fprintf(&out, "- %s\n", markdown(s))
			}
			if head := f.head(); len(head) > 0 {
				fence(&out, head)
			}
			fmt.Fprint(&out, "\nTo reproduce:\n")
			fence(&out, []string{Again(r.Header, f.First.Planned())})
		}
	}
	if list := r.findings(isKnown); len(list) > 0 {
		fmt.Fprint(&out, "\n## Known issues, seen again\n\n| scenario | issue | title | where |\n|---|---|---|---|\n")
		for _, f := range list {
			var where []string
			for _, w := range f.Where {
				where = append(where, markdown(w.String()))
			}
			fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", code(f.Scenario), markdown(f.Known), markdown(f.Title), strings.Join(where, "; "))
		}
	}
	if list := r.notRun(); len(list) > 0 {
		fmt.Fprint(&out, "\n## Not run\n\n| cells | kernel | machine | reason |\n|---|---|---|---|\n")
		for _, f := range list {
			fmt.Fprintf(&out, "| %d | %s | %s | %s |\n", len(f.Where), markdown(f.First.Kernel), markdown(f.First.Machine), markdown(f.Title))
		}
	}
	if len(r.Header.NotCovered) > 0 {
		fmt.Fprintf(&out, "\nNot covered, whatever the verdicts say: %s.\n", markdown(strings.Join(r.Header.NotCovered, "; ")))
	}
	return flush(w, &out)
}

// markdown escapes text so that a page shows it as it is.
func markdown(s string) string {
	var b strings.Builder
	for _, c := range Escape(s) {
		switch {
		case c == '<':
			b.WriteString("&lt;")
		case c == '>':
			b.WriteString("&gt;")
		case b.Len() == 0 && strings.ContainsRune("-+", c): // a list in a list
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '&':
			b.WriteString("&amp;")
		case strings.ContainsRune("\\`*_[]|#", c):
			b.WriteByte('\\')
			b.WriteRune(c)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// code is text as a code span. A name has no backtick.
func code(s string) string {
	return "`" + strings.NewReplacer("`", "'", "|", "/").Replace(Escape(s)) + "`"
}

// fence writes lines as a code block that nothing in them can end.
func fence(out *bytes.Buffer, lines []string) {
	mark := "```"
	for _, line := range lines {
		for strings.Contains(line, mark) {
			mark += "`"
		}
	}
	fmt.Fprintf(out, "\n%s\n", mark)
	for _, line := range lines {
		fmt.Fprintln(out, Escape(line))
	}
	fmt.Fprintln(out, mark)
}
