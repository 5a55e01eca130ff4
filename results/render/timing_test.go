package render

import (
	"bytes"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/results"
)

func TestTiming(t *testing.T) {
	cell := func(restored bool, guest, agent, cpu float64) results.Cell {
		return results.Cell{Timing: &results.Timing{Restored: restored, Guest: guest, Push: 0.25, Agent: agent, End: 0.1, CPU: cpu}}
	}
	cells := []results.Cell{
		cell(true, 0.2, 1, 1), cell(true, 0.3, 2, 1), cell(true, 9, 3, 1), cell(false, 4, 5, 7),
		{}, // skipped, or it never came up
	}
	var out bytes.Buffer
	assert.NilError(t, Timing(&out, cells, time.Second, 8*time.Second))
	assert.Equal(t, out.String(), `guest     cells   guest    push   agent     end     CPU   seconds, medians
restored      3    0.30    0.25    2.00    0.10    1.00
booted        1    4.00    0.25    5.00    0.10    7.00
0.50 cells a second; CPU a cell: QEMU 2.50 s, nestbed itself 0.25 s, which is 10% of QEMU's
`)
	out.Reset()
	assert.NilError(t, Timing(&out, []results.Cell{{}}, time.Second, time.Second))
	assert.Equal(t, out.String(), "")
}
