package lab

import (
	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/guestagent/vfio"
)

// ErrSIGBUS is what an access to a mapped BAR gives that raised the signal.
var ErrSIGBUS = vfio.ErrSIGBUS

// BAR is a BAR of an open device, mapped into this process. It keeps the device open until it is unmapped.
// Read32 and Write32 give ErrSIGBUS where another program would die.
type BAR struct {
	*vfio.Mapping
	t *T
}

// MapBAR maps a BAR of the open device. It is there only while COMMAND.MEM is set, which EnableDMA does.
func (d *VFIODevice) MapBAR(index int) *BAR {
	region, err := d.device.Region(index)
	d.t.must(err)
	m, err := region.Mmap()
	d.t.must(err)
	d.t.atEnd("unmap the BAR", m.Close)
	return &BAR{m, d.t}
}

// Unmap ends the mapping.
func (b *BAR) Unmap() { b.t.must(b.Close()) }

// Register reads a register of a device whose memory is enabled.
func (b *BAR) Register(at uint64) uint32 {
	value, err := b.Read32(at)
	b.t.must(err)
	return value
}

// Alive reports whether the BAR is edu's and answers.
func (b *BAR) Alive() error { return pci.EDU{Registers: b}.Alive() }

// Alive reports whether the open device is edu and answers through its descriptor.
func (d *VFIODevice) Alive() error { return d.edu.Alive() }

// UseRegisters reaches edu through the mapped BAR from here on.
func (d *VFIODevice) UseRegisters(b *BAR) { d.edu = pci.EDU{Registers: b} }

// DMASize is what edu moves in one transfer.
const DMASize = pci.EDUMaxDMA

// StartToMemory is ToMemory that does not wait for the end, a tenth of a second later.
func (d *VFIODevice) StartToMemory(iova uint32) {
	d.t.mustDevice("DMA of edu", d.edu.StartToMemory(iova, pci.EDUMaxDMA))
}
