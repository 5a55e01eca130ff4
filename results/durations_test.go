package results

import (
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/results/record"
)

func TestDurations(t *testing.T) {
	root := t.TempDir()
	_, known := Durations(root)(Planned{Scenario: "a"})
	assert.Check(t, !known)
	for i, seconds := range []float64{9, 3} { // the second run is the later one
		r, err := Create(root, Header{Started: time.Date(2026, 12, 1+i, 0, 0, 0, 0, time.UTC)})
		assert.NilError(t, err)
		assert.NilError(t, r.Append(Cell{Schema: CellSchema, Scenario: "a", Variant: "v", Kernel: "6.12", Machine: "intel", Verdict: record.Pass, Duration: seconds}))
		assert.NilError(t, r.Append(Cell{Schema: CellSchema, Scenario: "skipped", Machine: "intel", Verdict: record.Skip}))
		assert.NilError(t, r.Close())
	}
	before := Durations(root)
	seconds, known := before(Planned{Scenario: "a", Variant: "v", Kernel: "7.3", Machine: "intel", Repeat: 4})
	assert.Check(t, known)
	assert.Equal(t, seconds, 3.0)
	for _, p := range []Planned{{Scenario: "a", Machine: "intel"}, {Scenario: "a", Variant: "v", Machine: "amd"}, {Scenario: "skipped", Machine: "intel"}} {
		_, known := before(p)
		assert.Check(t, !known, p.ID())
	}
}
