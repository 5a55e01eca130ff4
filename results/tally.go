package results

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/results/record"
)

// TallySchema names the version of a Tally as JSON.
const TallySchema = "nestbed/tally/1"

// Program is what nestbed exec ran, as run.json has it.
type Program struct {
	Path    string   `json:"path"` // as the user named it
	Args    []string `json:"args,omitempty"`
	SHA256  string   `json:"sha256"`            // of the program as it came into the guest
	Devices []string `json:"devices,omitempty"` // none: no device
	Timeout float64  `json:"timeout_s"`
	Expect  string   `json:"expect,omitempty"` // a regular expression: the program is to make the kernel report so
}

// Tally is what the runs of one program come to.
//
// A run that reached the program and was judged is a hit or none: with an expectation one in which the kernel
// reported such a title, without one that is not pass. All others (skip, error, unfinished, or ended before
// the program began) are undecided and count in neither number.
type Tally struct {
	Schema    string   `json:"schema"`
	Expect    string   `json:"expect,omitempty"`
	Hits      int      `json:"hits"`
	Runs      int      `json:"runs"` // that are decided
	Undecided int      `json:"undecided"`
	Rate      float64  `json:"rate"` // Hits of Runs
	Low       float64  `json:"low"`  // 95% confidence interval of the rate, by Wilson
	High      float64  `json:"high"`
	Endings   []Ending `json:"endings"` // hits first, then by how many
}

// Ending is one way in which runs ended.
type Ending struct {
	Verdict record.Verdict `json:"verdict"`           // invalid: unfinished
	Title   string         `json:"title"`             // the first run's
	Program string         `json:"program,omitempty"` // of a pass, how the program ended: a reproducer may fail in one
	Hit     bool           `json:"hit"`
	Decided bool           `json:"decided"`
	Count   int            `json:"count"`
	Example Cell           `json:"-"` // the first run that ended so
}

// Tally counts the runs of the run's program.
func (r *Run) Tally() (Tally, error) {
	p := r.header.Program
	if p == nil {
		return Tally{}, fmt.Errorf("run %s: no run of a program", r.ID())
	}
	expect, err := regexp.Compile(p.Expect)
	if err != nil {
		return Tally{}, fmt.Errorf("run %s: expect: %w", r.ID(), err)
	}
	cells, err := r.Cells()
	if err != nil {
		return Tally{}, err
	}
	unfinished, err := r.Unfinished()
	if err != nil {
		return Tally{}, err
	}
	for _, left := range unfinished {
		cells = append(cells, NewCell(left, Outcome{}))
	}
	t := Tally{Schema: TallySchema, Expect: p.Expect}
	for _, c := range cells {
		e := Ending{Verdict: c.Verdict, Title: c.Title, Hit: c.Verdict.Bad(), Decided: decided(c), Example: c}
		if p.Expect != "" {
			title, hit, err := r.reported(c, expect)
			if err != nil {
				return Tally{}, err
			}
			if e.Hit = hit; hit {
				e.Title = title
			}
		}
		e.Hit = e.Hit && e.Decided
		if c.Verdict == record.Pass { // all others say why themselves
			if e.Program, err = programEnd(r.Path(c)); err != nil {
				return Tally{}, err
			}
		}
		t.count(e)
	}
	t.Low, t.High = wilson(t.Hits, t.Runs)
	if t.Runs > 0 {
		t.Rate = float64(t.Hits) / float64(t.Runs)
	}
	slices.SortStableFunc(t.Endings, func(a, b Ending) int {
		return cmp.Or(-compareBool(a.Hit, b.Hit), -compareBool(a.Decided, b.Decided), cmp.Compare(b.Count, a.Count))
	})
	return t, nil
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// programEnd says how the program in a cell's folder ended, without the time that it took. "" if it did not.
func programEnd(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	records, err := ReadRecords(dir)
	end := ""
	for _, rec := range records {
		if rec.Log != nil && rec.Log.From == record.FromExit {
			end, _, _ = strings.Cut(rec.Log.Text, " after ")
		}
	}
	return end, err
}

// decided says whether a run tells anything of the program.
func decided(c Cell) bool {
	judged := c.Verdict.Bad() || c.Verdict == record.Pass || c.Verdict == record.Known
	return judged && c.Step == record.ProgramStep
}

// count adds a run.
func (t *Tally) count(e Ending) {
	if e.Decided {
		t.Runs++
	} else {
		t.Undecided++
	}
	if e.Hit {
		t.Hits++
	}
	i := slices.IndexFunc(t.Endings, e.like)
	if i < 0 {
		i = len(t.Endings)
		t.Endings = append(t.Endings, e)
	}
	t.Endings[i].Count++
}

// like says whether two runs ended alike for a reader. What an expected title comes with is no difference.
func (e Ending) like(x Ending) bool {
	if x.Verdict != e.Verdict || x.Hit != e.Hit || x.Decided != e.Decided || x.Program != e.Program {
		return false
	}
	return x.Title == e.Title || x.Example.Signature != "" && x.Example.Signature == e.Example.Signature
}

// reported gives the title, first or later, by which the kernel reported what is expected. The expectation holds
// until the guest is ended: a close at the program's end, or the closing invariant after it, may be what brings
// the report. It excuses nothing, and the cell stays judged by all of its reports.
func (r *Run) reported(c Cell, expect *regexp.Regexp) (title string, hit bool, err error) {
	if c.Verdict == record.Crash && expect.MatchString(c.Title) {
		return c.Title, true, nil
	}
	o, err := r.Outcome(c)
	if errors.Is(err, fs.ErrNotExist) { // it never ran, or has no verdict
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	for _, rep := range Flatten(o.Reports) {
		if expect.MatchString(rep.Title) {
			return rep.Title, true, nil
		}
	}
	return "", false, nil
}

// Status is the exit status: whether the program did what it was run for. With an expectation one hit is
// enough for 0, and 1 says that no run was one; without, 0 says that all went well. 2 says that this cannot be
// told.
func (t Tally) Status() int {
	switch {
	case t.Expect != "" && t.Hits > 0:
		return 0
	case t.Undecided > 0 || t.Runs == 0:
		return 2
	case t.Expect != "" || t.Hits > 0:
		return 1
	}
	return 0
}

// wilson is the 95% confidence interval of a rate of which k of n were seen. Unlike the textbook's it is of
// use where it matters here: with few runs, and at none or all of them.
func wilson(k, n int) (low, high float64) {
	if n == 0 {
		return 0, 1
	}
	const z = 1.959964
	p, m := float64(k)/float64(n), float64(n)
	middle := (p + z*z/(2*m)) / (1 + z*z/m)
	half := z / (1 + z*z/m) * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	// At none and at all the formula gives 0 and 1 but for the last digit.
	low, high = max(0, middle-half), min(1, middle+half)
	if k == 0 {
		low = 0
	}
	if k == n {
		high = 1
	}
	return low, high
}
