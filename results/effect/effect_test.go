package effect

import (
	"math"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// runs makes runs of letters: p pass, s skip, e error, any other a crash with that signature.
func runs(text string) []results.Cell {
	var out []results.Cell
	for _, c := range text {
		cell := results.Cell{Verdict: record.Crash, Signature: string(c), Title: "crash " + string(c)}
		switch c {
		case 'p':
			cell = results.Cell{Verdict: record.Pass}
		case 's':
			cell = results.Cell{Verdict: record.Skip}
		case 'e':
			cell = results.Cell{Verdict: record.Error}
		}
		out = append(out, cell)
	}
	return out
}

func TestFisher(t *testing.T) {
	for _, c := range []struct {
		k1, n1, k2, n2 int
		want           float64
	}{
		{0, 4, 4, 4, 1.0 / 70}, {0, 3, 3, 3, 1.0 / 20}, {0, 1, 1, 1, 0.5}, {4, 4, 4, 4, 1}, {0, 4, 0, 4, 1},
		{1, 10, 7, 10, 0.0099}, // R: fisher.test(matrix(c(7,3,1,9),2), alternative="greater"), 0.009883
		{4, 4, 0, 4, 1}, {3, 10, 4, 10, 0.5},
	} {
		assert.Assert(t, math.Abs(fisher(c.k1, c.n1, c.k2, c.n2)-c.want) < 1e-4, "%+v: %v", c, fisher(c.k1, c.n1, c.k2, c.n2))
	}
}

func TestEffect(t *testing.T) {
	for _, c := range []struct {
		before, after string
		want          Kind
		more          bool
	}{
		{"p", "p", Unchanged, false},
		{"s", "s", Unchanged, false},
		{"p", "s", NewlySkipped, false},
		{"s", "p", NewlyRun, false},
		{"p", "e", Unknown, false},
		{"p", "", Unknown, false},
		{"", "", Unknown, false},
		{"a", "a", StillFailing, false},
		{"p", "a", Flaky, true}, // one bit tells nothing
		{"ppp", "aaa", Flaky, true},
		{"pppp", "aaaa", Broken, false},
		{"aaaa", "pppp", Fixed, false},
		{"aaaa", "bbbb", Worse, false},
		{"aaab", "bbbb", StillFailing, true}, // always bad, and nobody knows how else
		{"aabb", "abab", StillFailing, true},
		{"pppp", "abcd", Broken, false}, // freed text crashes in another way each time
		{"papapapapa", "apapapapap", Flaky, false},
		{"pppppppppp", "pppppppppa", Flaky, false},
		{"pppppppppp", "ppppaaaaaa", Broken, false},
		{"aaaaaaaaaa", "pppppppppa", StillFailing, false}, // seldomer is not gone
		{"abababababab", "ababababba", StillFailing, false},
		{"paaaaaaaaa", "pbbbbbbbbb", Worse, false},
		// However many runs the other side has, these are too few: 1/66 and 1/84.
		{"pppppppppp", "aa", Flaky, true},
		{"aaa", "pppppp", Flaky, true},
		{"aaaaaaaaaa", "bb", StillFailing, true},
		{"pppppppppp", "aaaa", Broken, false},
		// What could not run before is compared with what would pass.
		{"s", "a", Flaky, true},
		{"s", "aaa", Flaky, true},
		{"s", "aaaa", NewlyRun, false},
		{"s", "appp", Flaky, true},
		{"s", "apppppppps", Flaky, true},
		{"s", "appppppppp", Flaky, false},
		{"s", "apapapapap", NewlyRun, false},
		{"", "a", Unknown, false},
		// Two findings are two occasions for one of them to be oftener: 2 x 0.0128.
		{"aaaaaaaa", "bbbbbccc", StillFailing, true},
		{"aaaaaaaaaa", "bbbbbbcccc", Worse, false},
	} {
		e, more := Of(runs(c.before), runs(c.after))
		assert.Equal(t, e.Kind, c.want, "%+v", c)
		assert.Equal(t, more, c.more, "%+v", c)
	}
}

func TestEffectShowsFindingAndCounts(t *testing.T) {
	e, _ := Of(runs("aaaa"), runs("bbbb"))
	assert.Equal(t, e.Finding.Title, "crash b")
	assert.Equal(t, e.Former.Title, "crash a")
	assert.Equal(t, e.Before, Count{K: 4, N: 4})
	assert.Assert(t, e.Bad())
	e, _ = Of(runs("aaaa"), runs("pppp"))
	assert.Equal(t, e.Finding.Title, "crash a")
	assert.Equal(t, e.After, Count{K: 0, N: 4})
	assert.Assert(t, !e.Bad())
	e, _ = Of(runs("s"), runs("aaaa"))
	assert.Assert(t, e.Bad(), "a cell that could not run before and fails now is nothing to be silent about")
	e, _ = Of(runs("s"), runs("appppppppp"))
	assert.Assert(t, !e.Bad(), "once in ten runs is no more than a flaky cell's")
	assert.Equal(t, e.After, Count{K: 1, N: 10})
}

// The test is repeated while runs come in. All in all it must call a cell broken that fails alike on both sides no oftener
// than alpha says of one test; this is exact: all courses that the runs can take, with their probabilities.
func TestRepeatedTestKeepsItsLevel(t *testing.T) {
	type state struct{ before, after int }
	binomial := func(n, k int, p float64) float64 {
		return math.Exp(choose(n, k)) * math.Pow(p, float64(k)) * math.Pow(1-p, float64(n-k))
	}
	sideOf := func(n, k int) []results.Cell { return runs(strings.Repeat("a", k) + strings.Repeat("p", n-k)) }
	worst := 0.0
	for rate := 0.05; rate < 1; rate += 0.05 {
		open, broken := map[state]float64{{}: 1}, 0.0
		for last, n := 0, 1; len(open) > 0; last, n = n, Next(n) {
			next := map[state]float64{}
			for s, weight := range open {
				for b := range n - last + 1 {
					for a := range n - last + 1 {
						next[state{s.before + b, s.after + a}] += weight * binomial(n-last, b, rate) * binomial(n-last, a, rate)
					}
				}
			}
			for s, weight := range next {
				e, more := Of(sideOf(n, s.before), sideOf(n, s.after))
				if e.Kind == Broken {
					broken += weight
				}
				if !more {
					delete(next, s)
				}
			}
			open = next
		}
		worst = max(worst, broken)
	}
	assert.Assert(t, worst > 0.008 && worst < 0.0095, "%v: effect.go says 0.9%% at worst", worst)
}

func TestRepeatsAreBounded(t *testing.T) {
	var steps []int
	for n := 1; n < MaxRuns; n = Next(n) {
		steps = append(steps, Next(n))
	}
	assert.DeepEqual(t, steps, []int{4, 6, 8, 10})
}

func TestTurn(t *testing.T) {
	for _, c := range []struct {
		before, after string
		stages        []string // 0 to the end
		broken        []int    // stages that do not build
		good, bad     int
		asked         int
	}{
		{"pppp", "aaaa", []string{"p", "p", "p", "a", "a", "a", "a", "a"}, nil, 2, 3, 3},
		{"pppp", "aaaa", []string{"p", "a"}, nil, 0, 1, 0},
		{"pppp", "aaaa", []string{"p", "p", "a", "a"}, []int{1, 2}, 0, 3, 0},
		{"pppp", "aaaa", []string{"p", "p", "p", "a", "a"}, []int{2}, 1, 3, 2},
		{"aaaa", "pppp", []string{"a", "a", "a", "p", "p"}, nil, 2, 3, 2},
		{"aaaa", "bbbb", []string{"a", "a", "b", "b", "b"}, nil, 1, 2, 2},
		// A rate: what happens now and then before happens often after.
		{"pppppppppa", "paaaaaaaaa", []string{"p", "pp", "pa", "aa", "aa"}, nil, 1, 2, 2},
	} {
		e, _ := Of(runs(c.before), runs(c.after))
		turn := NewTurn(e, 0, len(c.stages)-1, runs(c.before), runs(c.after))
		asked := 0
		for {
			stage, ok := turn.Middle(func(n int) bool { return !slices.Contains(c.broken, n) })
			if !ok {
				break
			}
			asked++
			turn.Saw(stage, runs(c.stages[stage]))
		}
		good, bad := turn.Between()
		assert.Equal(t, good, c.good, "%+v", c)
		assert.Equal(t, bad, c.bad, "%+v", c)
		assert.Assert(t, asked <= c.asked, "%+v: asked %d times", c, asked)
	}
}

func TestTurnAsksOftenEnough(t *testing.T) {
	e, _ := Of(runs("pppp"), runs("aaaa"))
	assert.Equal(t, NewTurn(e, 0, 4, runs("pppp"), runs("aaaa")).Runs(), 2)
	e, _ = Of(runs("pppppppppp"), runs("ppppaaaaaa"))
	assert.Equal(t, NewTurn(e, 0, 4, runs("pppppppppp"), runs("ppppaaaaaa")).Runs(), 5)
	// Where it comes on both sides, one outcome tells nothing: only how often it comes does.
	e = Effect{Kind: Broken}
	assert.Equal(t, NewTurn(e, 0, 4, runs("pppppppaaa"), runs("aaaaaaaaaa")).Runs(), MaxRuns)
}

func TestExitStatus(t *testing.T) {
	change := func(k Kind) []Change { return []Change{{Effect: Effect{Kind: k}}} }
	for _, c := range []struct {
		report Report
		want   int
	}{
		{Report{}, 0},
		{Report{Changes: change(Fixed)}, 0},
		{Report{Changes: change(Flaky)}, 0},
		{Report{Changes: change(NewlySkipped)}, 0},
		{Report{Changes: change(StillFailing)}, 0},
		{Report{Changes: change(Broken)}, 1},
		{Report{Changes: change(Worse)}, 1},
		{Report{Steps: change(Broken)}, 1}, // mended later, and bisects badly
		{Report{Changes: change(Unknown)}, 2},
		{Report{Changes: change(Broken), Trouble: []string{"no disk"}}, 2},
		{Report{Stages: []Stage{{}, {Rejected: "hunk"}}}, 1},
		{Report{Stages: []Stage{{}, {Builds: []Build{{Failure: "error"}}}}}, 1},
	} {
		assert.Equal(t, c.report.ExitStatus(), c.want, "%+v", c.report)
	}
}
