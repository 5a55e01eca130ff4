package render

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/nestbed/nestbed/results/effect"
	"github.com/nestbed/nestbed/results/record"
)

// Series writes what a patch series did, and where it is written down. dir is the folder of the report.
func Series(w io.Writer, r effect.Report, dir string) error {
	var out bytes.Buffer
	stages(&out, r)
	if rows := told(r.Changes); len(rows) > 0 {
		fmt.Fprintln(&out)
		changed(&out, rows, false)
	}
	if rows := told(r.Steps); len(rows) > 0 {
		fmt.Fprintln(&out, "\nbetween the patches")
		changed(&out, rows, true)
	}
	fmt.Fprintln(&out)
	if len(r.Changes) > 0 {
		labelled(&out, "result       ", strings.Join(kinds(r), ", "))
	}
	labelled(&out, "ran          ", ran(r))
	for _, t := range r.Trouble {
		labelled(&out, "trouble      ", t)
	}
	for _, n := range r.NotDone {
		labelled(&out, "not done     ", n)
	}
	if r.Dirty > 0 {
		labelled(&out, "left out     ", fmt.Sprintf("uncommitted changes in %s of the tree", plural(r.Dirty, "file")))
	}
	if len(r.NotCovered) > 0 {
		labelled(&out, "not covered  ", strings.Join(r.NotCovered, "; "))
	}
	fmt.Fprintf(&out, "%-13s%s\n", "report", Escape(dir))
	return flush(w, &out)
}

// stages writes what became of each patch by itself.
func stages(out *bytes.Buffer, r effect.Report) {
	t := plainTable("patch", "subject", "builds", "cells", "bad")
	for _, s := range r.Stages {
		name, subject := fmt.Sprint(s.Patch), s.Subject
		if s.Patch == 0 {
			name = "base"
			if s.Name != "" {
				subject = s.Name + ", " + subject
			}
		}
		var builds []string
		for _, b := range s.Builds {
			word := fmt.Sprintf("%s %s", b.Flavour, elapsed(time.Duration(b.Seconds*float64(time.Second))))
			if b.Failure != "" {
				word = b.Flavour + " FAILS"
			}
			builds = append(builds, word)
		}
		if s.Rejected != "" {
			builds = []string{"does not apply"}
		}
		t.AppendRow(table.Row{name, fit(subject, 50), fit(strings.Join(builds, ", "), 24), s.Ran, s.Bad})
	}
	for i, row := range lines(t) {
		fmt.Fprintln(out, row)
		if i == 0 {
			continue
		}
		s := r.Stages[i-1]
		for line := range strings.Lines(s.Rejected) {
			fmt.Fprintln(out, "       "+fit(strings.TrimRight(line, "\n"), width-7))
		}
		for _, b := range s.Builds {
			for line := range strings.Lines(b.Failure) {
				fmt.Fprintln(out, "       "+fit(strings.TrimRight(line, "\n"), width-7))
			}
			if b.Log != "" {
				fmt.Fprintln(out, "       "+Escape(b.Log))
			}
		}
	}
}

// told leaves out what nobody needs to read.
func told(changes []effect.Change) []effect.Change {
	return slices.DeleteFunc(slices.Clone(changes), func(c effect.Change) bool { return c.Kind == effect.Unchanged })
}

func changed(out *bytes.Buffer, rows []effect.Change, steps bool) {
	t := plainTable("change", "scenario", "flavour", "machine", "before", "after", "patch")
	for _, c := range rows {
		t.AppendRow(table.Row{string(c.Kind), fit(c.Scenario, 40), fit(c.Flavour, 12), fit(c.Machine, 8), share(c.Before), share(c.After), turned(c, steps)})
	}
	const indent = "           "
	for i, row := range lines(t) {
		fmt.Fprintln(out, row)
		if i == 0 {
			continue
		}
		c := rows[i-1]
		for _, s := range because(c) {
			for _, line := range wrap(s, width-len(indent)) {
				fmt.Fprintln(out, indent+line)
			}
		}
		if c.Run != "" && !slices.ContainsFunc(rows[:i-1], func(o effect.Change) bool { return o.Run == c.Run && o.Cell == c.Cell }) {
			fmt.Fprintln(out, indent+command([]string{"nestbed", "show", c.Run, c.Cell}))
		}
	}
}

// turned is the patch at which it became so.
func turned(c effect.Change, step bool) string {
	switch {
	case step:
		return fmt.Sprint(c.To)
	case c.Turned == 0:
		return ""
	case c.Turned > c.Since+1:
		return fmt.Sprintf("%d to %d", c.Since+1, c.Turned)
	}
	return fmt.Sprint(c.Turned)
}

// because says what a change is about.
func because(c effect.Change) []string {
	var out []string
	if c.Title != "" && c.Verdict != record.Invalid {
		out = append(out, c.Verdict.String()+": "+c.Title)
	}
	if c.Kind == effect.Worse && c.Was != "" {
		out = append(out, "was: "+c.Was)
	}
	if c.Reason != "" {
		out = append(out, c.Reason)
	}
	return out
}

func kinds(r effect.Report) []string {
	var parts []string
	nowhere := skipped(r)
	for _, k := range effect.Kinds() {
		n := r.Count(k)
		if k == effect.Unchanged {
			n -= nowhere
		}
		if n > 0 || k == effect.Broken || k == effect.Fixed {
			parts = append(parts, fmt.Sprintf("%d %s", n, k))
		}
	}
	if nowhere > 0 {
		parts = append(parts, fmt.Sprintf("%d skipped on both", nowhere))
	}
	return parts
}

// skipped is how many cells could not be run on either side: nothing was tested there, so that they are not told
// among those that did not change.
func skipped(r effect.Report) int {
	n := 0
	for _, c := range r.Changes {
		if c.Kind == effect.Unchanged && c.Before.N == 0 && c.After.N == 0 {
			n++
		}
	}
	return n
}

func ran(r effect.Report) string {
	text := fmt.Sprintf("%s in %s", plural(r.Ran, "cell"), elapsed(time.Duration(r.Seconds*float64(time.Second))))
	if r.Reused > 0 {
		text += fmt.Sprintf("; %d taken from earlier series of the same kernels (--fresh runs them again)", r.Reused)
	}
	return text
}

// The limits of a cover letter's part: what a mail program wraps, and what a maintainer reads.
const (
	letterWidth = 75
	letterLines = 25
	letterPart  = 4 // lines of one sentence, so that the five above and below the list leave it room
)

// CoverLetter writes what a series did as text for its cover letter: at most 25 lines of 75 columns, without a path
// of this host.
func CoverLetter(w io.Writer, r effect.Report) error {
	var head, list, foot []string
	add := func(to *[]string, first, text string) {
		indent := strings.Repeat(" ", len(first))
		lines := fold(pathless(text), letterWidth-len(first))
		if len(lines) > letterPart { // a compiler's line, or a hundred globs
			lines = append(lines[:letterPart-1], "...")
		}
		for i, line := range lines {
			if i > 0 {
				first = indent
			}
			*to = append(*to, strings.TrimRight(first+line, " "))
		}
	}
	var releases []string
	if len(r.Stages) > 0 {
		for _, b := range r.Stages[0].Builds {
			releases = append(releases, fmt.Sprintf("%s (%s)", b.Release, b.Flavour))
		}
		name := r.Stages[0].Name
		if name == "" {
			name = r.Stages[0].Commit[:min(12, len(r.Stages[0].Commit))]
		}
		add(&head, "", fmt.Sprintf("Tested with nestbed %s: %s on top of %s.", r.Version, patchCount(r.Patches), name))
	}
	add(&head, "", standing(r))
	if len(r.Changes) > 0 {
		what := "all scenarios"
		if len(r.Globs) > 0 {
			what = "the scenarios " + strings.Join(r.Globs, " ")
		}
		if r.Program != nil {
			what += " and the reproducer"
		}
		after := map[string]string{"smoke": ", a smoke run after each patch", "full": ", the same after each patch"}[r.Each]
		if len(r.NotDone) > 0 {
			what, after = "of "+what, " until then"
		}
		add(&head, "", fmt.Sprintf("Run on the base and on the end%s: %s, %s; vIOMMU %s; kernels %s; QEMU %s, %s.", after, what,
			plural(len(r.Changes)-skipped(r), "cell"), strings.Join(r.Machines, ", "), strings.Join(releases, ", "), r.QEMU, strings.ToUpper(r.Accelerator)))
		add(&head, "", strings.ToUpper(kinds(r)[0][:1])+kinds(r)[0][1:]+", "+strings.Join(kinds(r)[1:], ", ")+".")
	}
	for _, t := range r.Trouble { // before what may be too long to be told whole
		add(&list, "  ", "not complete: "+t)
	}
	for _, n := range r.NotDone {
		add(&list, "  ", "not done: "+n)
	}
	for _, c := range told(r.Changes) {
		at := ""
		if n := turned(c, false); n != "" && r.Patches > 1 {
			at = "; patch " + n
		}
		add(&list, "  ", fmt.Sprintf("%s: %s (%s, %s): bad %s before, %s after%s", c.Kind, c.Scenario, c.Flavour, c.Machine, share(c.Before), share(c.After), at))
	}
	for _, c := range told(r.Steps) {
		add(&list, "  ", fmt.Sprintf("patch %d: %s: %s (%s, %s): bad %s before, %s after", c.To, c.Kind, c.Scenario, c.Flavour, c.Machine, share(c.Before), share(c.After)))
	}
	if len(r.NotCovered) > 0 {
		add(&foot, "", "Not covered: "+strings.Join(r.NotCovered, "; ")+".")
	}
	if room := letterLines - len(head) - len(foot) - 2; len(list) > room {
		more := len(list) - (room - 1)
		list = append(list[:room-1], fmt.Sprintf("  and %s more", plural(more, "line")))
	}
	var out bytes.Buffer
	for i, part := range [][]string{head, list, foot} {
		if i > 0 && len(part) > 0 {
			fmt.Fprintln(&out)
		}
		for _, line := range part {
			fmt.Fprintln(&out, line)
		}
	}
	return flush(w, &out)
}

func patchCount(n int) string {
	if n == 1 {
		return "1 patch"
	}
	return fmt.Sprintf("%d patches", n)
}

// standing says whether each patch applies and builds.
func standing(r effect.Report) string {
	for _, s := range r.Stages {
		if s.Rejected != "" {
			first, _, _ := strings.Cut(s.Rejected, "\n")
			return fmt.Sprintf("Patch %d (%s) does not apply: %s. Nothing was run.", s.Patch, s.Subject, strings.TrimSuffix(first, "."))
		}
	}
	var bad []string
	for _, s := range r.Stages {
		for _, b := range s.Builds {
			if b.Failure != "" {
				first, _, _ := strings.Cut(b.Failure, "\n")
				what := fmt.Sprintf("Patch %d", s.Patch)
				if s.Patch == 0 {
					what = "The base"
				}
				bad = append(bad, fmt.Sprintf("%s (%s) does not build (%s): %s.", what, s.Subject, b.Flavour, strings.TrimSuffix(first, ".")))
			}
		}
	}
	if len(bad) > 2 {
		bad = append(bad[:2], fmt.Sprintf("And %d more builds fail.", len(bad)-2))
	}
	if len(bad) > 0 {
		return strings.Join(bad, " ")
	}
	if n := len(r.Stages) - 1; n < r.Patches {
		return fmt.Sprintf("Not every patch was tried: %d of %d apply.", max(n, 0), r.Patches)
	}
	if slices.ContainsFunc(r.Stages, func(s effect.Stage) bool { return len(s.Builds) < len(r.Flavours) }) {
		return "Not every patch was built."
	}
	return fmt.Sprintf("Every patch applies and builds (%s).", strings.Join(r.Flavours, ", "))
}

// localPath is a path that means nothing elsewhere; those of every Linux stay.
var localPath = regexp.MustCompile(`(^|[\s"'(=:,])/(?:[^\s/:"'),]+/)+`)

func pathless(s string) string {
	return localPath.ReplaceAllStringFunc(s, func(m string) string {
		at := strings.IndexByte(m, '/')
		for _, root := range []string{"/dev/", "/sys/", "/proc/"} {
			if strings.HasPrefix(m[at:], root) {
				return m
			}
		}
		return m[:at]
	})
}
