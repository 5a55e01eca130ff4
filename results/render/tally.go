package render

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// Tally writes how the runs of a program ended, what that makes of it, and how sure that is.
func Tally(w io.Writer, t results.Tally) error {
	var out bytes.Buffer
	if t.Runs+t.Undecided > 1 { // else the run speaks for itself
		for _, e := range t.Endings {
			ending(&out, t, e)
		}
	}
	what := "not pass"
	if t.Expect != "" {
		what = "reproduced"
	}
	line := fmt.Sprintf("%s %d of %d", what, t.Hits, t.Runs)
	switch {
	case t.Runs == 0:
		line = "undecided: no run came to a verdict on the program"
	case t.Runs > 1:
		line += fmt.Sprintf(": %s, 95%% confidence interval %s to %s", percent(t.Rate), percent(t.Low), percent(t.High))
	}
	if t.Runs > 0 && t.Undecided > 0 {
		line += fmt.Sprintf(" (and %d undecided)", t.Undecided)
	}
	fmt.Fprintln(&out, line)
	return flush(w, &out)
}

// ending writes one way in which runs ended, and how many did.
func ending(out *bytes.Buffer, t results.Tally, e results.Ending) {
	text := e.Title
	switch {
	case t.Expect != "" && e.Hit:
		text = "as expected: " + text
	case !e.Decided && e.Verdict != record.Invalid:
		text = "undecided: " + text
	case e.Verdict == record.Pass:
		text = e.Program
	case e.Verdict == record.Fail:
		text += ": " + e.Example.Reason
	}
	const indent = "                   "
	lines := wrap(text, width-len(indent))
	if len(lines) == 0 {
		lines = []string{""}
	}
	for i, line := range lines {
		label := indent
		if i == 0 {
			label = fmt.Sprintf("%5d  %-10s  ", e.Count, word(e.Verdict))
		}
		fmt.Fprintln(out, strings.TrimRight(label+line, " "))
	}
}

func percent(rate float64) string {
	switch p := 100 * rate; {
	case p > 0 && p < 1, p > 99 && p < 100:
		return fmt.Sprintf("%.1f%%", p)
	default:
		return fmt.Sprintf("%.0f%%", p)
	}
}

// Again is the command that runs the cell again.
func Again(h results.Header, cell results.Planned) string {
	words := []string{"-k", cmp.Or(cell.KernelSpec, cell.Kernel), "-m", cell.Machine}
	if h.QEMUBinary != "" {
		words = append(words, "--qemu", h.QEMUBinary)
	}
	if h.Program == nil {
		return command(append([]string{"nestbed", "run", cell.Name()}, words...))
	}
	return command(append(append([]string{"nestbed", "exec"}, words...), programWords(h.Program)...))
}

// command quotes words for a shell.
func command(words []string) string {
	for i, word := range words {
		words[i] = quote(word)
	}
	return strings.Join(words, " ")
}

// programWords are nestbed exec's arguments that say what to run.
func programWords(p *results.Program) []string {
	var words []string
	devices := p.Devices
	if len(devices) == 0 {
		devices = []string{"none"}
	}
	for _, d := range devices {
		words = append(words, "--device", d)
	}
	limit := time.Duration(p.Timeout * float64(time.Second)).String()
	if strings.HasSuffix(limit, "m0s") {
		limit = strings.TrimSuffix(limit, "0s")
	}
	words = append(words, "--timeout", limit)
	if p.Expect != "" {
		words = append(words, "--expect", p.Expect)
	}
	return append(append(words, "--", p.Path), p.Args...)
}

// What is shown of a program's output.
const (
	outputBytes = 8 << 10
	outputLines = 20
)

// output writes how the program in a cell's folder ended, and the end of what it wrote.
func output(out *bytes.Buffer, dir string) error {
	records, err := results.ReadRecords(dir)
	if err != nil {
		return err
	}
	how := "did not end" // the kernel went first, or the guest
	for _, r := range records {
		if r.Log != nil && r.Log.From == record.FromExit {
			how = r.Log.Text
		}
	}
	fmt.Fprintf(out, "%-10s  %s\n", "program", fit(how, width-12))
	text, err := results.ReadOutput(dir, outputBytes)
	if err != nil || text == "" {
		return err
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	where := results.OutputFile
	if len(lines) > outputLines || len(text) == outputBytes {
		lines = lines[max(0, len(lines)-outputLines):]
		where += ", its last lines"
	}
	fmt.Fprintf(out, "%-10s  %s\n", "output", where)
	for _, line := range lines {
		fmt.Fprintln(out, strings.TrimRight("  "+fit(strings.TrimRight(line, "\r"), width-2), " "))
	}
	return nil
}
