package series

import (
	"context"
	"fmt"
	"slices"

	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/results/effect"
	"github.com/nestbed/nestbed/results/record"
)

// pair is one cell on the kernels of two stages.
type pair struct {
	flavour       string
	from, to      int
	before, after plan.Cell
	turned, since int
}

// pairUp pairs the cells of the ends, and of neighbouring stages as far as both were run.
func (s *Series) pairUp() error {
	end := len(s.stages) - 1
	for _, flavour := range s.Flavours {
		last := 0
		for to := 1; to <= end; to++ {
			if _, ok := s.stages[to].kernels[flavour]; !ok {
				continue
			}
			if last != 0 || to != end { // the step that is the whole series is told as that
				if err := s.pairStages(flavour, last, to); err != nil {
					return err
				}
			}
			last = to
		}
		if _, ok := s.stages[end].kernels[flavour]; ok {
			if err := s.pairStages(flavour, 0, end); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Series) pairStages(flavour string, from, to int) error {
	end := len(s.stages) - 1
	before, err := s.cellsOf(s.stages[from].kernels[flavour], from == 0 || from == end)
	if err != nil {
		return err
	}
	after, err := s.cellsOf(s.stages[to].kernels[flavour], to == 0 || to == end)
	if err != nil {
		return err
	}
	for _, a := range after {
		i := slices.IndexFunc(before, func(b plan.Cell) bool {
			return cellName(b) == cellName(a) && b.Machine.Name == a.Machine.Name
		})
		if i >= 0 {
			s.pairs = append(s.pairs, &pair{flavour: flavour, from: from, to: to, before: before[i], after: a})
		}
	}
	return nil
}

// effect is what became of a pair; more says that it takes more runs to tell.
func (s *Series) effect(p *pair) (e effect.Effect, more bool) {
	e, more = effect.Of(s.runsOf(p.before), s.runsOf(p.after))
	if more && p.before.Kernel.Hash == p.after.Kernel.Hash { // no patch did that
		e.Kind = effect.StillFailing
		return e, false
	}
	return e, more && s.runs(p) < effect.MaxRuns
}

// runs is how often both sides were run, or the one that can be. A guest may skip a repeat of what it ran before: that
// is a run, though none that is judged, and counting the others would ask for it for ever.
func (s *Series) runs(p *pair) int {
	before, after := s.runsOf(p.before), s.runsOf(p.after)
	if e, _ := effect.Of(before, nil); e.Before.N == 0 {
		return len(after)
	}
	return min(len(before), len(after))
}

// settle repeats the cells that differ until each difference is one, or is called chance.
func (s *Series) settle(ctx context.Context) error {
	for {
		byRuns := map[int][]plan.Cell{}
		for _, p := range s.pairs {
			_, more := s.effect(p)
			if !more || s.lost[s.Store.Key(p.before)] != "" || s.lost[s.Store.Key(p.after)] != "" {
				continue
			}
			n := effect.Next(s.runs(p))
			byRuns[n] = append(byRuns[n], p.before, p.after)
		}
		if len(byRuns) == 0 {
			return nil
		}
		for n, cells := range byRuns {
			s.Say(fmt.Sprintf("%s once more, up to %d runs each: the base and the patches differ", count(len(cells)/2, "cell", "cells"), n))
			if err := s.need(ctx, cells, n); err != nil {
				return err
			}
		}
	}
}

// search finds the patch at which the cells turned that the end has broken or fixed.
func (s *Series) search(ctx context.Context) error {
	end := len(s.stages) - 1
	type hunt struct {
		pair  *pair
		turn  *effect.Turn
		blind map[int]bool // stages that tell nothing: the cell is skipped there, or ends in an error
	}
	var hunts []hunt
	for _, p := range s.pairs {
		if p.from != 0 || p.to != end {
			continue
		}
		e, _ := s.effect(p)
		if !e.Bad() && e.Kind != effect.Fixed || e.Before.N == 0 {
			continue
		}
		if at := s.stepOf(p, e.Kind); at != nil {
			p.since, p.turned = at.from, at.to
			continue
		}
		hunts = append(hunts, hunt{p, effect.NewTurn(e, 0, end, s.runsOf(p.before), s.runsOf(p.after)), map[int]bool{}})
	}
	for len(hunts) > 0 {
		// One step of every search that is on: they share runs of a kernel.
		var cells []plan.Cell
		at := make([]int, len(hunts))
		runs := 0
		for i, h := range hunts {
			stage, ok := h.turn.Middle(func(n int) bool {
				_, built := s.stages[n].kernels[h.pair.flavour]
				return built && !h.blind[n]
			})
			if !ok {
				continue
			}
			at[i] = stage
			cells = append(cells, s.onStage(h.pair, stage))
			runs = max(runs, h.turn.Runs())
		}
		if err := s.need(ctx, cells, runs); err != nil {
			return err
		}
		var open []hunt
		for i, h := range hunts {
			if at[i] == 0 {
				h.pair.since, h.pair.turned = h.turn.Between()
				continue
			}
			seen := s.runsOf(s.onStage(h.pair, at[i]))
			if e, _ := effect.Of(seen, seen); e.After.N == 0 {
				h.blind[at[i]] = true
			} else {
				h.turn.Saw(at[i], seen)
			}
			open = append(open, h)
		}
		hunts = open
	}
	return nil
}

// onStage is the pair's cell on another stage's kernel.
func (s *Series) onStage(p *pair, n int) plan.Cell {
	c := p.after
	c.Kernel, c.Repeat = s.stages[n].kernels[p.flavour], 0
	return c
}

// stepOf finds the one step between patches that did to a cell what the whole series does.
func (s *Series) stepOf(whole *pair, kind effect.Kind) *pair {
	var found *pair
	for _, p := range s.pairs {
		if p == whole || p.flavour != whole.flavour || cellName(p.after) != cellName(whole.after) || p.after.Machine.Name != whole.after.Machine.Name {
			continue
		}
		switch e, _ := s.effect(p); e.Kind {
		case kind:
			if found != nil {
				return nil
			}
			found = p
		case effect.Unchanged, effect.StillFailing:
		default:
			return nil // it went back and forth
		}
	}
	return found
}

// conclude writes into the report what the pairs come to.
func (s *Series) conclude() {
	end := len(s.stages) - 1
	for _, p := range s.pairs {
		c := s.change(p)
		if end == 1 {
			c.Turned = 1
		}
		switch {
		case p.from == 0 && p.to == end:
			s.Report.Changes = append(s.Report.Changes, c)
		case c.Kind != effect.Unchanged && c.Kind != effect.StillFailing:
			s.Report.Steps = append(s.Report.Steps, c)
		}
	}
	s.Report.Sort()
}

func (s *Series) change(p *pair) effect.Change {
	e, more := s.effect(p)
	c := effect.Change{
		Effect: e, Flavour: p.flavour, Scenario: cellName(p.after), Machine: p.after.Machine.Name,
		From: p.from, To: p.to, Turned: p.turned, Since: p.since,
		Verdict: e.Finding.Verdict, Title: e.Finding.Title, Signature: e.Finding.Signature, Was: e.Former.Title,
	}
	if more {
		c.Kind, c.Reason = effect.Unknown, "ended before it could be told"
	}
	for _, cell := range []plan.Cell{p.before, p.after} {
		if why := s.lost[s.Store.Key(cell)]; why != "" && c.Kind == effect.Unknown {
			c.Reason = why
		}
	}
	switch after := s.runsOf(p.after); {
	case c.Kind == effect.NewlySkipped && len(after) > 0:
		c.Reason = after[0].Title
	case c.Kind == effect.Unknown && c.Reason == "":
		c.Reason = "unfinished"
	}
	if e.Finding.Verdict != record.Invalid {
		c.Run, c.Cell = s.Store.Where(e.Finding), e.Finding.ID()
	}
	return c
}
