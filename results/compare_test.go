package results

import (
	"fmt"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/results/record"
)

// cells reads "SCENARIO KERNEL VERDICT TITLE" lines; a title is its own signature. Lines of one cell are its
// repeats.
func cells(t *testing.T, lines ...string) []Cell {
	t.Helper()
	var out []Cell
	count := map[string]int{}
	for _, line := range lines {
		var c Cell
		var verdict string
		_, err := fmt.Sscan(line, &c.Scenario, &c.Kernel, &verdict, &c.Title)
		assert.NilError(t, err, line)
		assert.NilError(t, c.Verdict.UnmarshalText([]byte(verdict)), line)
		c.Machine, c.Signature = "intel", ""
		if finding(c) {
			c.Signature = c.Title
		}
		if c.Verdict == record.Known {
			c.Known = "L1"
		}
		id := c.Scenario + c.Kernel
		count[id]++
		c.Repeat = count[id]
		out = append(out, c)
	}
	return out
}

func told(c Comparison) []string {
	var out []string
	for _, d := range c.Differences {
		s := fmt.Sprintf("%s %s %s %d/%d %d/%d", d.Change, d.Scenario, d.Title, d.Old.K, d.Old.N, d.New.K, d.New.N)
		if d.Was != "" {
			s += " was " + d.Was
		}
		if d.Reason != "" {
			s += " because " + d.Reason
		}
		out = append(out, s)
	}
	return out
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		name       string
		old, new   []string
		want       []string
		status     int
		alike, add int
	}{
		{"nothing", []string{"a 6.1 pass -"}, []string{"a 6.12 pass -"}, nil, 0, 1, 0},
		{"new", []string{"a 6.1 pass -"}, []string{"a 6.12 crash oops"}, []string{"new a oops 0/1 1/1"}, 1, 0, 0},
		{"a finding where it did not run", []string{"a 6.1 skip -"}, []string{"a 6.12 crash oops"}, []string{"not compared a oops 0/0 1/1 because skip in the older run: -"}, 1, 0, 0},
		{"not in the older run", []string{"b 6.1 pass -"}, []string{"a 6.12 crash oops", "b 6.12 pass -"}, []string{"not compared a oops 0/0 1/1 because not in the older run"}, 1, 1, 0},
		{"unfinished, explained", []string{"a 6.1 invalid -"}, []string{"a 6.12 known oops"}, []string{"not compared a oops 0/0 1/1 because unfinished in the older run"}, 0, 0, 0},
		{"a pass where it did not run", []string{"a 6.1 skip -"}, []string{"a 6.12 pass -"}, nil, 0, 0, 1},
		{"new, explained", []string{"a 6.1 pass -"}, []string{"a 6.12 known oops"}, []string{"new a oops 0/1 1/1"}, 0, 0, 0},
		{"fixed", []string{"a 6.1 fail wrong"}, []string{"a 6.1 pass -"}, []string{"fixed a wrong 1/1 0/1"}, 0, 0, 0},
		{"still, explained since", []string{"a 6.1 crash oops"}, []string{"a 6.1 known oops"}, []string{"still a oops 1/1 1/1"}, 0, 0, 0},
		{"another crash", []string{"a 6.1 crash oops"}, []string{"a 6.1 crash warn"}, []string{"worse a warn 0/1 1/1 was oops"}, 1, 0, 0},
		{"a crash became a hang", []string{"a 6.1 crash oops"}, []string{"a 6.1 hang stuck"}, []string{"worse a stuck 0/1 1/1 was oops"}, 1, 0, 0},
		{"gone", []string{"a 6.1 crash oops", "b 6.1 pass -", "c 6.1 pass -"}, []string{"a 6.12 skip -", "b 6.12 invalid -"},
			[]string{"gone a oops 1/1 0/0 because skip in the newer run: -", "gone b - 1/1 0/0 because unfinished in the newer run", "gone c - 1/1 0/0 because not in the newer run"}, 2, 0, 0},
		{"added", nil, []string{"a 6.1 pass -"}, nil, 0, 0, 1},
		{"skipped in both", []string{"a 6.1 skip -"}, []string{"a 6.1 skip -"}, nil, 0, 0, 0},
		{"repeats", []string{"a 6.1 crash oops", "a 6.1 pass -", "a 6.1 crash oops"}, []string{"a 6.1 pass -", "a 6.1 crash oops", "a 6.1 crash warn"},
			[]string{"new a warn 0/3 1/3", "still a oops 2/3 1/3"}, 1, 0, 0},
		{"several kernels pair by release", []string{"a 6.1 pass -", "a 6.12 crash oops"}, []string{"a 6.12 pass -", "a 6.1 pass -"},
			[]string{"fixed a oops 1/1 0/1"}, 0, 1, 0},
		{"an error is no verdict", []string{"a 6.1 pass -", "b 6.1 pass -"}, []string{"a 6.1 error ours", "b 6.1 pass -"},
			[]string{"gone a - 1/1 0/0 because error in the newer run: ours"}, 2, 1, 0},
	} {
		got := Compare(cells(t, c.old...), cells(t, c.new...))
		assert.DeepEqual(t, told(got), c.want)
		assert.Equal(t, got.ExitStatus(), c.status, c.name)
		assert.Equal(t, got.Alike, c.alike, c.name)
		assert.Equal(t, got.Added, c.add, c.name)
	}
}

// The order does not depend on that of a map.
func TestCompareOrder(t *testing.T) {
	old := cells(t, "z 6.1 crash oops", "a 6.1 fail x", "m 6.1 pass -", "b 6.1 pass -", "q 6.1 crash one")
	now := cells(t, "z 6.1 crash oops", "a 6.1 pass -", "m 6.1 hang y", "b 6.1 crash y", "q 6.1 crash two")
	want := []string{"new b y 0/1 1/1", "new m y 0/1 1/1", "worse q two 0/1 1/1 was one", "still z oops 1/1 1/1", "fixed a x 1/1 0/1"}
	for range 20 {
		assert.DeepEqual(t, told(Compare(old, now)), want)
	}
}
