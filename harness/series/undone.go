package series

import (
	"fmt"

	"github.com/nestbed/nestbed/results/effect"
)

// undone says what a series that was ended did not come to, in the order in which it would have.
func (s *Series) undone() ([]string, error) {
	end := len(s.stages) - 1
	if end < s.Report.Patches {
		return []string{fmt.Sprintf("%s not applied, nothing was built or run", patches(end+1, s.Report.Patches))}, nil
	}
	var out []string
	built, first := 0, ""
	for i, st := range s.Report.Stages {
		built += len(st.Builds)
		if first == "" && len(st.Builds) < len(s.Flavours) {
			first = fmt.Sprintf("%s (%s)", s.nth(i), s.Flavours[len(st.Builds)])
		}
	}
	if all := len(s.stages) * len(s.Flavours); built == 0 {
		return []string{"no kernel was built, nothing was run"}, nil
	} else if built < all {
		out = append(out, fmt.Sprintf("%d of %s not built, from %s on", all-built, count(all, "kernel", "kernels"), first))
	}
	places := []string{"the base", "the patches between", "the end"}
	asked, missing := map[string]int{}, map[string]int{}
	ran := false
	for _, flavour := range s.Flavours {
		for i, st := range s.stages {
			k, ok := st.kernels[flavour]
			if !ok {
				continue
			}
			cells, err := s.cellsOf(k, i == 0 || i == end)
			if err != nil {
				return nil, err
			}
			place := places[1]
			switch i {
			case 0:
				place = places[0]
			case end:
				place = places[2]
			}
			for _, c := range cells {
				if c.Skip != "" {
					continue
				}
				asked[place]++
				if s.silent(c) {
					missing[place]++
				} else {
					ran = true
				}
			}
		}
	}
	if !ran {
		return append(out, "nothing was run"), nil
	}
	for _, place := range places {
		if missing[place] > 0 {
			out = append(out, fmt.Sprintf("%d of %s not run on %s", missing[place], count(asked[place], "cell", "cells"), place))
		}
	}
	open, turned := 0, 0
	for _, p := range s.pairs {
		e, more := s.effect(p)
		switch {
		case s.silent(p.before) || s.silent(p.after):
		case more:
			open++
		case p.from == 0 && p.to == end && end > 1 && p.turned == 0 && e.Before.N > 0 && (e.Bad() || e.Kind == effect.Fixed):
			turned++
		}
	}
	if open > 0 {
		out = append(out, count(open, "cell that differs was not repeated often enough to say what became of it",
			"cells that differ were not repeated often enough to say what became of them"))
	}
	if turned > 0 {
		out = append(out, fmt.Sprintf("the patch at which %s was not searched for", count(turned, "cell turned", "cells turned")))
	}
	return out, nil
}

// patches names some of a series by their numbers.
func patches(from, to int) string {
	if from == to {
		return fmt.Sprintf("patch %d was", from)
	}
	return fmt.Sprintf("patches %d to %d were", from, to)
}
