package pci

import (
	"encoding/binary"
	"testing"

	"gotest.tools/v3/assert"
)

// controller answers as an NVMe controller does: it is ready at once and completes each command when its
// doorbell rings.
type controller struct {
	memory []byte
	config uint32
	done   map[uint64]int // commands completed, by queue
}

func (c *controller) Read32(at uint64) (uint32, error) { return c.config & 1, nil }

func (c *controller) Write32(at uint64, value uint32) error {
	switch {
	case at == nvmeConfig:
		c.config = value
	case at >= nvmeBells && at%8 == 0:
		queue := (at - nvmeBells) / 8
		n := c.done[queue]
		command := c.memory[nvmePage*2*queue+64*uint64(n%nvmeDepth):]
		if prp := binary.LittleEndian.Uint64(command[24:]); command[0] == nvmeIdentify && prp != 0 {
			binary.LittleEndian.PutUint16(c.memory[prp-0x1000:], 0x1b36)
		}
		entry := c.memory[nvmePage*(2*queue+1)+16*uint64(n%nvmeDepth):]
		binary.LittleEndian.PutUint16(entry[14:], uint16(1-n/nvmeDepth%2))
		c.done[queue]++
	}
	return nil
}

func TestNVMe(t *testing.T) {
	c := &controller{memory: make([]byte, NVMeMemory(3)), done: map[uint64]int{}}
	n := NVMe{Registers: c}
	assert.NilError(t, n.Start(t.Context(), c.memory, 0x1000, 3))
	assert.Equal(t, c.done[0], 4, "two queues for each of two vectors")
	for range 3 * nvmeDepth { // the phase bit turns
		for v := range 3 {
			assert.NilError(t, n.Raise(v))
			status, err := n.Complete(t.Context(), v)
			assert.NilError(t, err)
			assert.Equal(t, status, uint16(0))
		}
	}
	assert.Equal(t, c.done[2], 3*nvmeDepth)
	page := c.memory[5*nvmePage:] // the last queue's completions are over
	vendor, err := n.Identify(t.Context(), page, 0x1000+5*nvmePage)
	assert.NilError(t, err)
	assert.Equal(t, vendor, uint16(0x1b36))
	enabled, ready, err := n.Running()
	assert.NilError(t, err)
	assert.Assert(t, enabled && ready)
	assert.ErrorContains(t, n.Raise(3), "queue 3 of 3")
	assert.ErrorContains(t, n.Start(t.Context(), c.memory[1:], 0, 3), "bytes for 3 vectors")
}
