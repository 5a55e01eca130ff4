package pci

import (
	"context"
	"fmt"
	"time"
)

// Registers is how a device model is reached: a BAR mapped through sysfs or a VFIO region. Offsets are
// within the BAR; every access is of 32 bits.
type Registers interface {
	Read32(at uint64) (uint32, error)
	Write32(at uint64, value uint32) error
}

// EDUID is the edu device on the bus.
var EDUID = ID{0x1234, 0x11e8}

// EDU is QEMU's educational device (docs/specs/edu.rst): an id, a register that inverts, and a DMA engine
// between memory and a buffer of its own, which takes a tenth of a second per transfer.
type EDU struct{ Registers }

// What edu's registers and its buffer are.
const (
	EDUBarSize = 1 << 20
	EDUMaxDMA  = 4095 // QEMU 7.2 aborts at the whole 4096

	eduID       = 0x00
	eduInvert   = 0x04
	eduDMAFrom  = 0x80
	eduDMATo    = 0x88
	eduDMACount = 0x90
	eduDMACmd   = 0x98
	eduBuffer   = 0x40000

	eduRun        = 1 << 0
	eduFromDevice = 1 << 1

	eduIDValue = 0xed // the low byte; the upper ones are a version and 0
)

// Alive checks the id and that a value written comes back inverted. A device that lost its BAR or its
// state reads as zero or as all ones.
func (e EDU) Alive() error {
	id, err := e.Read32(eduID)
	if err != nil {
		return err
	}
	if id&0xffff != eduIDValue {
		return fmt.Errorf("edu: id register reads %#x", id)
	}
	const probe = 0x5aa5_0ff0
	if err := e.Write32(eduInvert, probe); err != nil {
		return err
	}
	got, err := e.Read32(eduInvert)
	if err != nil {
		return err
	}
	if got != ^uint32(probe) {
		return fmt.Errorf("edu: wrote %#x to the inverting register, read %#x", uint32(probe), got)
	}
	return nil
}

// FromMemory copies n bytes at a bus address into the device's buffer.
func (e EDU) FromMemory(ctx context.Context, bus uint32, n int) error {
	return e.dma(ctx, bus, eduBuffer, n, eduRun)
}

// ToMemory copies the first n bytes of the device's buffer to a bus address. The engine says "finished"
// whether or not an IOMMU let the bytes through.
func (e EDU) ToMemory(ctx context.Context, bus uint32, n int) error {
	return e.dma(ctx, eduBuffer, bus, n, eduRun|eduFromDevice)
}

// StartToMemory is ToMemory that does not wait for the end.
func (e EDU) StartToMemory(bus uint32, n int) error {
	return e.start(eduBuffer, bus, n, eduRun|eduFromDevice)
}

func (e EDU) start(from, to uint32, n int, cmd uint32) error {
	if n < 1 || n > EDUMaxDMA {
		return fmt.Errorf("edu: transfer of %d bytes, 1 to %d", n, EDUMaxDMA)
	}
	for _, w := range []struct {
		at    uint64
		value uint32
	}{{eduDMAFrom, from}, {eduDMATo, to}, {eduDMACount, uint32(n)}, {eduDMACmd, cmd}} {
		if err := e.Write32(w.at, w.value); err != nil {
			return err
		}
	}
	return nil
}

func (e EDU) dma(ctx context.Context, from, to uint32, n int, cmd uint32) error {
	if err := e.start(from, to, n, cmd); err != nil {
		return err
	}
	if err := e.Settle(ctx); err != nil {
		return fmt.Errorf("edu: transfer of %d bytes from %#x to %#x: %w", n, from, to, err)
	}
	return nil
}

// Settle waits until no transfer runs, whoever began it. Until then edu ignores what is written to its DMA
// registers, and a new owner's first transfer would be the old owner's.
func (e EDU) Settle(ctx context.Context) error {
	// The end can be had by an interrupt too, but that would put MSI and eventfds into every scenario that
	// moves a byte.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		cmd, err := e.Read32(eduDMACmd)
		if err != nil || cmd&eduRun == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not finished: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
