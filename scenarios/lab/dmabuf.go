package lab

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/kprobe"
	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
)

// Buffer is a dma-buf that a VFIO device exported.
type Buffer struct {
	*vfio.DMABuf
	t *T
}

// ExportBAR0 exports size bytes from the start of BAR 0 as a dma-buf.
func (d *VFIODevice) ExportBAR0(size int) *Buffer {
	b, err := d.device.ExportDMABuf(uapi.VFIOPCIBAR0, 0, uint64(size))
	if errors.Is(err, unix.EOPNOTSUPP) {
		d.t.SkipConfig("CONFIG_PCI_P2PDMA", "this kernel cannot make a dma-buf of the device's BAR")
	}
	d.t.must(err)
	d.t.atEnd("close the dma-buf", b.Close)
	return &Buffer{b, d.t}
}

// CloseBuf closes the dma-buf.
func (b *Buffer) CloseBuf() { b.t.must(b.Close()) }

// Bytes is the buffer's size as the kernel says it.
func (b *Buffer) Bytes() int {
	n, err := b.Size()
	b.t.must(err)
	return int(n)
}

// MapForCPU tries to map the buffer; a success is unmapped at the end.
func (b *Buffer) MapForCPU() error {
	m, err := b.Mmap()
	if err == nil {
		b.t.atEnd("unmap the dma-buf", m.Close)
	}
	return err
}

// Calls counts the calls of a function of the kernel.
type Calls struct {
	t     *T
	probe *kprobe.Counter
	seen  int
}

// CountCalls counts the calls of the first of these functions that the kernel has.
func (t *T) CountCalls(symbols ...string) *Calls {
	for _, symbol := range symbols {
		probe, err := kprobe.Count(t.env.Root, symbol)
		if errors.Is(err, kprobe.ErrNoSymbol) {
			continue
		}
		if errors.Is(err, kprobe.ErrNoProbes) {
			t.SkipConfig("CONFIG_KPROBE_EVENTS", "this kernel cannot count the calls of "+symbol)
		}
		t.mustHost("count calls", err)
		t.atEnd("remove the probe", probe.Close)
		return &Calls{t: t, probe: probe}
	}
	t.Broken("this kernel has no function " + strings.Join(symbols, " or ") + " to count the calls of: its name has changed")
	return nil
}

// More is how many calls there were since it was last asked.
func (c *Calls) More() int {
	n, err := c.probe.Hits()
	c.t.mustHost("count calls", err)
	more := n - c.seen
	c.seen = n
	return more
}
