package main

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/scenarios/lab"
)

func TestLongestFirst(t *testing.T) {
	took := map[string]float64{"short": 1, "long": 30, "middle": 5}
	before := func(p results.Planned) (float64, bool) { s, ok := took[p.Scenario]; return s, ok }
	var cells []plan.Cell
	for _, name := range []string{"short", "new", "long", "middle", "long"} {
		cells = append(cells, plan.Cell{Scenario: lab.Scenario{Name: name}, Repeat: len(cells)})
	}
	var order []string
	for _, c := range longestFirst(cells, before) {
		order = append(order, c.Scenario.Name+string(rune('0'+c.Repeat)))
	}
	assert.Equal(t, strings.Join(order, " "), "new1 long2 long4 middle3 short0")
}
