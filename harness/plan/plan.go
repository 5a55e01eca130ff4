// Package plan turns a request (scenarios, kernels, machines, repeats) into cells: what will be run, and
// what will not, with the reason and what would change it.
//
// It is pure: it asks neither the disk nor QEMU (what that can do it is told), so that a plan can be tested and a run can show it
// before anything boots. It does not decide how cells are run (harness/runner) or what they end as
// (results).
package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// Request is what the user asked for. Empty Globs mean every scenario of the areas that do not run on demand only.
type Request struct {
	Catalogue []lab.Scenario
	Globs     []string
	Kernels   []kernels.Kernel
	Machines  []machine.Machine
	Repeat    int // runs of each cell; below 1 counts as 1

	// Others are further kernels that this host has: what a cell skips for its kernel's sake may run on one.
	Others []kernels.Kernel

	QEMU QEMU // what it can do; nil: everything
}

// QEMU says what one QEMU has of what devices under test are made of: qemu.Capabilities does.
type QEMU interface {
	HasDevice(driver string) bool
	HasProperty(driver, property string) bool
}

// Cell is one scenario variant on one kernel and one machine, to be run once.
type Cell struct {
	Scenario lab.Scenario
	Variant  string
	Kernel   kernels.Kernel
	Machine  machine.Machine
	Repeat   int    // 1-based; 0 when each cell runs once
	Skip     string // why it will not run; empty: it will
	Remedy   string // what would make it run
}

// Needs is what the cell's scenario needs in its variant.
func (c Cell) Needs() lab.Needs { return c.Scenario.NeedsOf(c.Variant) }

// Plan is every cell that the request names, in the order in which they should run.
type Plan struct{ Cells []Cell }

// Runs returns the cells that will be run.
func (p Plan) Runs() []Cell {
	return slices.DeleteFunc(slices.Clone(p.Cells), func(c Cell) bool { return c.Skip != "" })
}

// UnknownError says that no scenario matches a name, and which one may have been meant.
type UnknownError struct {
	Name    string
	Nearest string // "" when nothing is near
}

func (e *UnknownError) Error() string {
	hint := "nestbed list scenarios shows them"
	if e.Nearest != "" {
		hint = fmt.Sprintf("did you mean %s? (nestbed list scenarios shows all)", e.Nearest)
	}
	return fmt.Sprintf("no scenario matches %q: %s", e.Name, hint)
}

// Make expands a request. It fails with *UnknownError when a glob matches no scenario.
func Make(req Request) (Plan, error) {
	chosen, err := choose(req.Catalogue, req.Globs)
	if err != nil {
		return Plan{}, err
	}
	var p Plan
	for _, k := range req.Kernels {
		for _, m := range req.Machines {
			for _, c := range chosen {
				cell := Cell{Scenario: c.scenario, Variant: c.variant, Kernel: k, Machine: m}
				needs := cell.Needs()
				cell.Machine.MemoryMB = memory(m.MemoryMB, k)
				cell.Machine.NativeHotplug = needs.NativeHotplug
				cell.Machine.NoIntRemap = needs.NoInterruptRemapping
				cell.Machine.NVMeSubsystem = needNVMeSubsystem(needs)
				cell.Skip, cell.Remedy = req.unfit(needs, k, m)
				if cell.Skip != "" || req.Repeat <= 1 {
					p.Cells = append(p.Cells, cell)
					continue
				}
				for n := range req.Repeat {
					cell.Repeat = n + 1
					p.Cells = append(p.Cells, cell)
				}
			}
		}
	}
	return p, nil
}

// needNVMeSubsystem says whether one of the devices must find a subsystem on the machine.
func needNVMeSubsystem(needs lab.Needs) bool {
	return slices.ContainsFunc(needs.Devices, func(d lab.Device) bool {
		dev, err := machine.DeviceNamed(d.Name)
		return err == nil && dev.NVMeSubsystem // an unknown one fails when it is asked for
	})
}

type choice struct {
	scenario lab.Scenario
	variant  string
}

func (c choice) name() string {
	if c.variant == "" {
		return c.scenario.Name
	}
	return c.scenario.Name + "@" + c.variant
}

func variants(s lab.Scenario) []choice {
	if len(s.Variants) == 0 {
		return []choice{{s, ""}}
	}
	var out []choice
	for _, v := range s.Variants {
		out = append(out, choice{s, v.Name})
	}
	return out
}

// choose returns the scenario variants that the globs name, in catalogue order and each once. A glob
// without "@" names a scenario with all its variants, and one that does not begin with an area that runs on
// demand only names none of that area.
func choose(catalogue []lab.Scenario, globs []string) ([]choice, error) {
	var all []choice
	for _, s := range catalogue {
		all = append(all, variants(s)...)
	}
	if len(globs) == 0 {
		return slices.DeleteFunc(all, func(c choice) bool { return c.scenario.Area.OnDemand() }), nil
	}
	picked := make([]bool, len(all))
	for _, glob := range globs {
		hits := 0
		for i, c := range all {
			name := c.scenario.Name
			if strings.Contains(glob, "@") {
				name = c.name()
			}
			ok, err := path.Match(glob, name)
			if err != nil {
				return nil, fmt.Errorf("scenario pattern %q: %w", glob, err)
			}
			if area := c.scenario.Area; area.OnDemand() && !strings.HasPrefix(glob, string(area)) {
				continue
			}
			if ok {
				picked[i] = true
				hits++
			}
		}
		if hits == 0 {
			return nil, &UnknownError{Name: glob, Nearest: nearest(glob, all)}
		}
	}
	var out []choice
	for i, c := range all {
		if picked[i] {
			out = append(out, c)
		}
	}
	return out, nil
}

// nearest returns the name with the smallest edit distance, if that is less than half of its length.
func nearest(name string, all []choice) string {
	best, dist := "", len(name)
	for _, c := range all {
		for _, cand := range []string{c.scenario.Name, c.name()} {
			if d := distance(name, cand); d < dist && d*2 < len(cand) {
				best, dist = cand, d
			}
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}
