package render

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// suite is the cells of one kernel and machine.
type suite struct {
	kernel, machine string
	cells           []results.Cell
}

// suites are in the order of the run, their cells by name.
func (r Report) suites() []suite {
	var out []suite
	for _, c := range r.Cells {
		i := slices.IndexFunc(out, func(s suite) bool { return s.kernel == c.Kernel && s.machine == c.Machine })
		if i < 0 {
			out = append(out, suite{kernel: c.Kernel, machine: c.Machine})
			i = len(out) - 1
		}
		out[i].cells = append(out[i].cells, c)
	}
	for _, s := range out {
		slices.SortStableFunc(s.cells, func(a, b results.Cell) int {
			return cmp.Or(cmp.Compare(a.Name(), b.Name()), cmp.Compare(a.Repeat, b.Repeat))
		})
	}
	return out
}

// caseName is a cell within its suite.
func caseName(c results.Cell) string {
	if c.Repeat > 0 {
		return fmt.Sprintf("%s#%d", c.Name(), c.Repeat)
	}
	return c.Name()
}

// JUnit's elements, as test collectors read them.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Errors    int         `xml:"errors,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Time      string      `xml:"time,attr"`
		Timestamp string      `xml:"timestamp,attr,omitempty"`
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string     `xml:"name,attr"`
		Class   string     `xml:"classname,attr"`
		Time    string     `xml:"time,attr"`
		Failure *junitNote `xml:"failure"`
		Error   *junitNote `xml:"error"`
		Skipped *junitNote `xml:"skipped"`
	}
	junitNote struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

// ReportJUnit writes a report as JUnit XML. A known issue is a skipped case: it fails nothing and is no pass.
func ReportJUnit(w io.Writer, r Report) error {
	all := junitSuites{Name: Escape("nestbed " + r.Header.ID)}
	took := 0.0
	for _, s := range r.suites() {
		one := junitSuite{Name: Escape(s.kernel + "/" + s.machine), Timestamp: r.Header.Started.UTC().Format("2006-01-02T15:04:05")}
		sum := 0.0
		for _, c := range s.cells {
			k := junitCase{Name: Escape(caseName(c)), Class: Escape(s.kernel + "." + s.machine), Time: fmt.Sprintf("%.3f", c.Duration)}
			note := &junitNote{Message: Escape(c.Title), Type: c.Verdict.String(), Text: r.evidence(c)}
			switch {
			case c.Verdict.Bad():
				k.Failure = note
				one.Failures++
			case c.Verdict == record.Skip:
				k.Skipped = &junitNote{Message: Escape(c.Title)}
				one.Skipped++
			case c.Verdict == record.Known:
				k.Skipped = &junitNote{Message: Escape("known " + c.Known + ": " + c.Title)}
				one.Skipped++
			case c.Verdict != record.Pass:
				note.Type, note.Message = word(c.Verdict), Escape(cmp.Or(c.Title, word(c.Verdict)))
				k.Error = note
				one.Errors++
			}
			sum += c.Duration
			one.Cases = append(one.Cases, k)
		}
		one.Tests, one.Time = len(one.Cases), fmt.Sprintf("%.3f", sum)
		took += sum
		all.Tests += one.Tests
		all.Failures += one.Failures
		all.Errors += one.Errors
		all.Skipped += one.Skipped
		all.Suites = append(all.Suites, one)
	}
	all.Time = fmt.Sprintf("%.3f", took)
	text, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, text)
	return err
}

// evidence is what a collector shows below a failure: facts, the kernel's report and the way back.
func (r Report) evidence(c results.Cell) string {
	f := r.findings(func(o results.Cell) bool { return o.ID() == c.ID() })
	if len(f) == 0 {
		return ""
	}
	var out strings.Builder
	for _, s := range append(f[0].facts(), f[0].head()...) {
		fmt.Fprintln(&out, Escape(s))
	}
	fmt.Fprintln(&out, Again(r.Header, c.Planned()))
	return out.String()
}

// ReportKTAP writes a report as the kernel's own test output (Documentation/dev-tools/ktap.rst): one test
// for each kernel and machine, their scenarios below it.
func ReportKTAP(w io.Writer, r Report) error {
	var out bytes.Buffer
	suites := r.suites()
	fmt.Fprintf(&out, "KTAP version 1\n1..%d\n", len(suites))
	for i, s := range suites {
		fmt.Fprintf(&out, "  KTAP version 1\n  # Subtest: %s/%s\n  1..%d\n", ktap(s.kernel), ktap(s.machine), len(s.cells))
		good := true
		for j, c := range s.cells {
			result, directive := "ok", ""
			switch {
			case c.Verdict == record.Skip:
				directive = " # SKIP " + ktap(c.Title)
			case c.Verdict == record.Known:
				directive = " # XFAIL " + ktap(c.Known)
			case c.Verdict == record.Hang:
				result, directive = "not ok", " # TIMEOUT"
			case c.Verdict == record.Error || c.Verdict == record.Invalid:
				result, directive = "not ok", " # ERROR"
			case c.Verdict != record.Pass:
				result = "not ok"
			}
			if result != "ok" {
				good = false
				fmt.Fprintf(&out, "  # %s: %s\n", word(c.Verdict), ktap(cmp.Or(c.Title, "no verdict")))
				for line := range strings.Lines(r.evidence(c)) {
					fmt.Fprintf(&out, "  # %s\n", strings.TrimRight(line, "\n"))
				}
			}
			fmt.Fprintf(&out, "  %s %d %s%s\n", result, j+1, ktap(caseName(c)), directive)
		}
		result := "ok"
		if !good {
			result = "not ok"
		}
		fmt.Fprintf(&out, "%s %d %s/%s\n", result, i+1, ktap(s.kernel), ktap(s.machine))
	}
	return flush(w, &out)
}

// ktap escapes text; "#" would begin a directive.
func ktap(s string) string { return strings.ReplaceAll(Escape(s), "#", `\#`) }
