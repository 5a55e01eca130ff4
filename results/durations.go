package results

import (
	"path/filepath"
	"slices"
)

// recent is how many runs Durations looks at.
const recent = 20

// Durations says how long cells took in the latest runs in a folder, the latest one counting, by the Name of
// the scenario and the machine: another kernel's time is near enough to order cells by.
func Durations(root string) func(Planned) (seconds float64, known bool) {
	type cell struct{ name, machine string }
	took := map[cell]float64{}
	ids, _ := runIDs(root) // what cannot be read is not known
	slices.Sort(ids)       // they begin with the time
	for _, id := range ids[max(0, len(ids)-recent):] {
		r, err := openDir(filepath.Join(root, id))
		if err != nil {
			continue
		}
		cells, _ := r.Cells()
		for _, c := range cells {
			if c.Duration > 0 {
				took[cell{c.Name(), c.Machine}] = c.Duration
			}
		}
	}
	return func(p Planned) (float64, bool) {
		seconds, ok := took[cell{p.Name(), p.Machine}]
		return seconds, ok
	}
}
