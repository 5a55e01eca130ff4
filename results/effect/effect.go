// Package effect says what a change of a kernel did to a cell, out of how often the cell ended how before and
// after it, and keeps what that makes of a whole patch series: series.json.
//
// It owns when a difference is one and when it is chance. It does not run anything (harness/series does, and asks
// here how often), and it knows nothing of known issues: what a patch did to a bug that is known is what its
// author wants to see.
package effect

import (
	"cmp"
	"math"
	"slices"

	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

// Kind is what became of a cell.
type Kind string

// The kinds, in the order in which a reader wants them.
const (
	Broken       Kind = "broken"        // it fails, or fails more often
	Worse        Kind = "worse"         // it failed and fails in another way: one crash became another
	Unknown      Kind = "no verdict"    // error or unfinished on one side: nothing can be said
	Flaky        Kind = "flaky"         // it ends now so, now so, and no number of repeats tells the sides apart
	Fixed        Kind = "fixed"         // it failed and does not
	StillFailing Kind = "still failing" // it fails as it did
	NewlySkipped Kind = "newly skipped" // it ran and cannot any more
	NewlyRun     Kind = "newly run"     // it could not run and does
	Unchanged    Kind = "unchanged"     // no failure on either side, or skipped on both
)

// Kinds lists them in that order.
func Kinds() []Kind {
	return []Kind{Broken, Worse, Unknown, Flaky, Fixed, StillFailing, NewlySkipped, NewlyRun, Unchanged}
}

// How sure a difference must be.
const (
	// alpha is the probability, by Fisher's exact test, of so large a difference between sides that are alike.
	// Four of four against none of four are 1/70; three of three would be 1/20, too often for a suite of a
	// hundred cells. The test is made up to four times, after 4, 6, 8 and 10 runs of each side; it is discrete
	// enough that a cell which fails alike on both sides is called broken in 0.9% of all series at worst (at half of its
	// runs), all four together.
	alpha = 0.02

	// MinRuns is how many runs of each side it takes at least to call a difference one, whatever the test says: two of
	// two against none of ten are 1/66, but two runs in a row are one bad hour of the host.
	MinRuns = 4

	// MaxRuns is where a cell that cannot be told is given up as flaky.
	MaxRuns = 10
)

// Effect is what became of one cell.
type Effect struct {
	Kind    Kind         `json:"kind"`
	Before  Count        `json:"before"`
	After   Count        `json:"after"`
	P       float64      `json:"p,omitempty"` // of chance, where a difference was tested
	Finding results.Cell `json:"-"`           // a run that shows it: after, or before for what is fixed; zero if all pass
	Former  results.Cell `json:"-"`           // worse: what it was
}

// Count is how often a cell ended badly: K of N runs that were judged.
type Count = results.Share

// Bad tells what a series must not do to a cell.
func (e Effect) Bad() bool {
	return e.Kind == Broken || e.Kind == Worse || e.Kind == NewlyRun && e.After.K > 0
}

// side is the runs of a cell on one kernel.
type side struct {
	judged, bad int
	count       map[string]int          // of findings, by signature
	example     map[string]results.Cell // the first of each
	skipped     int
}

func tally(cells []results.Cell) side {
	s := side{count: map[string]int{}, example: map[string]results.Cell{}}
	for _, c := range cells {
		switch {
		case c.Verdict.Bad() || c.Verdict == record.Known:
			s.judged++
			s.bad++
			if s.count[c.Signature]++; s.count[c.Signature] == 1 {
				s.example[c.Signature] = c
			}
		case c.Verdict == record.Pass:
			s.judged++
		case c.Verdict == record.Skip:
			s.skipped++
		}
	}
	return s
}

// most is the finding that came most often.
func (s side) most() results.Cell {
	best := ""
	for _, signature := range s.signatures() {
		if best == "" || s.count[signature] > s.count[best] {
			best = signature
		}
	}
	return s.example[best]
}

func (s side) signatures() []string {
	var list []string
	for signature := range s.count {
		list = append(list, signature)
	}
	slices.Sort(list)
	return list
}

// uniform says whether every run ended alike.
func (s side) uniform() bool { return s.bad == 0 || len(s.count) == 1 && s.bad == s.judged }

// Of compares the runs of one cell on two kernels. more says that it cannot be told from so few, and that
// MaxRuns have not been reached on both sides.
func Of(before, after []results.Cell) (e Effect, more bool) {
	b, a := tally(before), tally(after)
	e = Effect{Before: Count{K: b.bad, N: b.judged}, After: Count{K: a.bad, N: a.judged}}
	switch {
	case b.judged == 0 || a.judged == 0:
		e.Kind = oneSided(b, a)
		e.Finding = a.most()
		if e.Kind == NewlyRun && a.bad > 0 {
			// There is nothing to compare with but what was to be expected of it: to pass as often.
			e.P = fisher(0, a.judged, a.bad, a.judged)
			if a.judged < MinRuns || e.P >= alpha {
				e.Kind = Flaky
				return e, a.judged < MaxRuns
			}
		}
		return e, false
	case b.bad == 0 && a.bad == 0:
		e.Kind = Unchanged
		return e, false
	}
	fewer, many := fisher(a.bad, a.judged, b.bad, b.judged), fisher(b.bad, b.judged, a.bad, a.judged)
	gone, _ := strongest(a, b)
	came, p := strongest(b, a)
	enough := min(b.judged, a.judged) >= MinRuns
	switch {
	case enough && many < alpha:
		e.Kind, e.P, e.Finding, e.Former = Broken, many, a.most(), b.most()
	case enough && p < alpha:
		e.Kind, e.P, e.Finding, e.Former = Worse, p, a.example[came], b.example[gone]
	case enough && fewer < alpha && a.bad == 0:
		e.Kind, e.P, e.Finding = Fixed, fewer, b.most()
	case enough && fewer < alpha:
		e.Kind, e.P, e.Finding = StillFailing, fewer, a.most()
	case b.uniform() && a.uniform() && slices.Equal(b.signatures(), a.signatures()):
		e.Kind, e.Finding = StillFailing, a.most()
	default:
		e.Kind, e.P, e.Finding = Flaky, min(many, fewer), a.most()
		if a.bad == 0 {
			e.Finding = b.most()
		}
		if a.bad == a.judged && b.bad == b.judged {
			e.Kind = StillFailing // always, in ways that chance chooses
		}
		return e, b.judged < MaxRuns || a.judged < MaxRuns
	}
	return e, false
}

// oneSided is what can be said when a side was not judged.
func oneSided(b, a side) Kind {
	switch {
	case b.judged == 0 && a.judged == 0 && b.skipped > 0 && a.skipped > 0:
		return Unchanged
	case a.judged == 0 && b.judged > 0 && a.skipped > 0:
		return NewlySkipped
	case b.judged == 0 && a.judged > 0 && b.skipped > 0:
		return NewlyRun
	}
	return Unknown
}

// strongest is the finding that more has most significantly oftener than less, and how likely it is by chance that any of
// its findings is so much oftener (Bonferroni's bound: each is one more occasion).
func strongest(less, more side) (signature string, p float64) {
	p = 1
	for _, s := range more.signatures() {
		if q := fisher(less.count[s], less.judged, more.count[s], more.judged); signature == "" || q < p {
			signature, p = s, q
		}
	}
	return signature, min(p*float64(max(len(more.count), 1)), 1)
}

// Next is how many runs each side should have when Of wants more than n, the smaller of the two numbers.
func Next(n int) int { return min(max(MinRuns, n+2), MaxRuns) }

// fisher is the probability that, of k1+k2 hits among n1+n2 runs, as many as k2 or more fall among the n2 by
// chance: Fisher's exact test, one-sided. It is exact with few runs, which is all that there ever are.
func fisher(k1, n1, k2, n2 int) float64 {
	hits, all := k1+k2, n1+n2
	sum := 0.0
	for k := k2; k <= min(hits, n2); k++ {
		if hits-k > n1 {
			continue
		}
		sum += math.Exp(choose(n2, k) + choose(n1, hits-k) - choose(all, hits))
	}
	return min(sum, 1)
}

// choose is the logarithm of the binomial coefficient.
func choose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}

// Turn is a search for the patch at which a cell took on what it ends as. It is by halves: each step runs the cell
// on one kernel in the middle.
type Turn struct {
	signature string // "": any finding
	low, high float64
	// good and bad are stages that are known to be as before and as after: neighbours when the search is over.
	good, bad int
}

// NewTurn begins a search between two stages for the effect that they show.
func NewTurn(e Effect, from, to int, before, after []results.Cell) *Turn {
	t := &Turn{good: from, bad: to}
	if e.Kind == Worse {
		t.signature = e.Finding.Signature
	}
	t.low, t.high = t.share(before), t.share(after)
	return t
}

func (t *Turn) share(cells []results.Cell) float64 {
	s := tally(cells)
	k := s.bad
	if t.signature != "" {
		k = s.count[t.signature]
	}
	return float64(k) / float64(max(s.judged, 1))
}

// Runs is how many runs of the stage in the middle are enough: as many as the rarer outcome needs not to be missed.
// Where it comes on both sides, only how often it comes tells them apart: as many as there may be.
func (t *Turn) Runs() int {
	if t.low > 0 && t.high > 0 {
		return MaxRuns
	}
	rate := min(max(t.low, t.high), 0.9) // four of four are no proof of always
	n := int(math.Ceil(math.Log(alpha) / math.Log(1-max(rate, 0.1))))
	return min(n, MaxRuns)
}

// Middle is the stage to run next among those that can be (that built); ok is false when none is left.
func (t *Turn) Middle(can func(stage int) bool) (stage int, ok bool) {
	middle := (t.good + t.bad) / 2
	for off := range t.bad - t.good {
		for _, s := range []int{middle - off, middle + off} {
			if s > t.good && s < t.bad && can(s) {
				return s, true
			}
		}
	}
	return 0, false
}

// Saw notes the runs of a stage that Middle gave.
func (t *Turn) Saw(stage int, cells []results.Cell) {
	share := t.share(cells)
	after := share >= (t.low+t.high)/2
	if t.high < t.low {
		after = share < (t.low+t.high)/2
	}
	switch small := min(t.low, t.high); {
	case small == 0 && share > 0: // it never happens on that side
		after = t.high > t.low
	}
	if after {
		t.bad = stage
	} else {
		t.good = stage
	}
}

// Between gives the last stage that is as before, and the first that is as after.
func (t *Turn) Between() (good, bad int) { return t.good, t.bad }

// order sorts for a reader.
func order(a, b Change) int {
	kinds := Kinds()
	return cmp.Or(
		cmp.Compare(a.To, b.To),
		cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)),
		cmp.Compare(a.Scenario, b.Scenario),
		cmp.Compare(a.Flavour, b.Flavour),
		cmp.Compare(a.Machine, b.Machine),
	)
}
