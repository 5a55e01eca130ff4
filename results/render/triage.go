package render

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// triaged is a report as the JSON of nestbed triage holds it.
type triaged struct {
	Title     string       `json:"title"`
	Class     record.Class `json:"class"`
	Frames    []string     `json:"frames"`
	Module    string       `json:"module"` // of the function that the title names, "" for vmlinux or none
	CPU       int          `json:"cpu"`    // -1 when not said
	PID       int          `json:"pid"`    // 0 when not said
	Comm      string       `json:"comm"`
	Tainted   string       `json:"tainted"`
	Signature string       `json:"signature"`
	Line      int          `json:"line"`
	EndLine   int          `json:"end_line"`
	Fatal     bool         `json:"fatal"`
	Corrupted bool         `json:"corrupted"`
	Secondary bool         `json:"secondary"` // a report before it may have caused it
	Source    [][]Source   `json:"source,omitempty"`
}

// Source is a line of the kernel's source that stands for a frame or for what was inlined into it.
type Source struct {
	Func string `json:"function"`
	File string `json:"file"`
	Line int    `json:"line"`
}

// Sources gives, per frame of a report, its lines of source, innermost first. A nil one knows none.
type Sources func(record.Report) ([][]Source, error)

func (s Sources) of(r record.Report) ([][]Source, error) {
	if s == nil {
		return nil, nil
	}
	return s(r)
}

// TriageJSON writes all reports of a log as one array, in the order of the log.
func TriageJSON(w io.Writer, reports []record.Report, sources Sources) error {
	out := []triaged{}
	for _, r := range results.Flatten(reports) {
		module := ""
		if len(r.Modules) > 0 && namedBy(r) {
			module = r.Modules[r.Top]
		}
		source, err := sources.of(r)
		if err != nil {
			return err
		}
		out = append(out, triaged{
			Title: r.Title, Class: r.Class, Frames: append([]string{}, r.Frames...), Module: module, CPU: r.CPU, PID: r.PID, Comm: r.Comm,
			Tainted: r.Tainted, Signature: r.Signature, Line: r.Line, EndLine: r.EndLine, Fatal: r.Fatal, Corrupted: r.Corrupted,
			Secondary: !leads(reports, r), Source: source,
		})
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(EscapeJSON(data), '\n'))
	return err
}

func leads(reports []record.Report, r record.Report) bool {
	return slices.ContainsFunc(reports, func(l record.Report) bool { return l.Line == r.Line && l.Signature == r.Signature })
}

// Triage writes the first report of a log for a person, or all of them: title, facts, the stack from the
// function that the title names, each frame with its lines of source, then the kernel's words.
func Triage(w io.Writer, reports []record.Report, all bool, sources Sources) error {
	out := bufio.NewWriter(w)
	flat := results.Flatten(reports)
	for i, r := range flat {
		if i > 0 && !all {
			more := len(flat) - 1
			fmt.Fprintf(out, "\n%d more after it (--all)\n", more)
			break
		}
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintln(out, Escape(r.Title))
		facts := []string{string(r.Class), span(r)}
		if r.CPU >= 0 {
			facts = append(facts, fmt.Sprintf("CPU %d", r.CPU))
		}
		if r.Comm != "" {
			facts = append(facts, fmt.Sprintf("%s/%d", Escape(r.Comm), r.PID))
		}
		if r.Tainted != "" {
			facts = append(facts, "tainted "+Escape(r.Tainted))
		}
		for _, f := range []struct {
			is   bool
			word string
		}{{r.Fatal, "fatal"}, {r.Corrupted, "corrupted: parts of it are missing"}, {!leads(reports, r), "follows another report"}} {
			if f.is {
				facts = append(facts, f.word)
			}
		}
		fmt.Fprintf(out, "  %s\n  signature %s\n", strings.Join(facts, ", "), r.Signature)
		source, err := sources.of(r)
		if err != nil {
			return err
		}
		for n := r.Top; n < min(r.Top+stackShown, len(r.Frames)); n++ {
			fmt.Fprintf(out, "    %s", Escape(r.Frames[n]))
			if m := r.Modules[n]; m != "" {
				fmt.Fprintf(out, " [%s]", Escape(m))
			}
			if n < len(source) {
				writeSource(out, source[n])
			}
			fmt.Fprintln(out)
		}
		for n, line := range r.Head {
			if n == 0 {
				fmt.Fprintln(out)
			}
			fmt.Fprintf(out, "  | %s\n", Escape(line))
		}
	}
	return out.Flush()
}

// writeSource writes where a frame is, and below it what was inlined into it, towards the innermost.
func writeSource(out io.Writer, lines []Source) {
	for i, l := range slices.Backward(lines) {
		if i < len(lines)-1 {
			fmt.Fprintf(out, "\n      inlined %s", Escape(l.Func))
		}
		fmt.Fprintf(out, " %s:%d", Escape(l.File), l.Line)
	}
}

// stackShown is how many frames tell one bug from another; the whole stack is among the kernel's words.
const stackShown = 8

func span(r record.Report) string {
	if r.Line == r.EndLine {
		return fmt.Sprintf("line %d", r.Line)
	}
	return fmt.Sprintf("lines %d to %d", r.Line, r.EndLine)
}

// namedBy reports whether the title names the frame at the top.
func namedBy(r record.Report) bool {
	_, fn, _ := strings.Cut(r.Title, " in ")
	fn = fn[strings.LastIndexByte(fn, ' ')+1:]
	f := r.Frames[r.Top]
	return fn == f || strings.HasPrefix(f, "__") && strings.HasSuffix(f, "_"+fn) // __x64_sys_ioctl is sys_ioctl
}
