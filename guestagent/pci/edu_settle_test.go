package pci

import (
	"context"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

func TestEDUSettle(t *testing.T) {
	f := &fake{regs: map[uint64]uint32{0x98: 3}, running: 2}
	assert.NilError(t, EDU{f}.Settle(t.Context()))
	assert.Equal(t, f.regs[0x98], uint32(2), "it waited for the engine")
	assert.NilError(t, EDU{f}.Settle(t.Context()), "nothing runs")

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, EDU{&fake{regs: map[uint64]uint32{0x98: 1}, running: -1}}.Settle(ctx), context.DeadlineExceeded)
}
