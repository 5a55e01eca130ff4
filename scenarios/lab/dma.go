package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
)

// MapReadOnly lets the device read the page at iova and not write it.
func (d *VFIODevice) MapReadOnly(page *Page, iova uint32) {
	d.t.must(d.TryMap(vfio.Memory{Flags: uapi.VFIODMARead, VAddr: page.Address(), IOVA: uint64(iova), Size: page.Size()}))
}

// TryMap asks for a mapping that the kernel may refuse.
func (d *VFIODevice) TryMap(m vfio.Memory) error { return d.container.MapMemory(m) }

// TryUnmap asks for an UNMAP that the kernel may refuse, and says how many bytes it unmapped.
func (d *VFIODevice) TryUnmap(iova, size uint64) (int, error) {
	n, err := d.container.Unmap(iova, size)
	return int(n), err
}

// Write has the device write the first n bytes of its buffer to iova, Read has it read n bytes into its
// buffer. The device cannot tell whether an IOMMU let them through.
func (d *VFIODevice) Write(iova uint32, n int) {
	d.dma(func(ctx context.Context) error { return d.edu.ToMemory(ctx, iova, n) })
}

// Read is Write the other way.
func (d *VFIODevice) Read(iova uint32, n int) {
	d.dma(func(ctx context.Context) error { return d.edu.FromMemory(ctx, iova, n) })
}

func (d *VFIODevice) dma(transfer func(context.Context) error) {
	ctx, cancel := d.t.patience(5 * time.Second)
	defer cancel()
	d.t.mustDevice("DMA of edu", transfer(ctx))
}

// SetEntryLimit sets how many mappings a container takes that is opened from here on. At the end the limit is
// what it was.
func (t *T) SetEntryLimit(n int) {
	const module, parameter = "vfio_iommu_type1", "dma_entry_limit"
	old, err := os.ReadFile(filepath.Join(t.env.Root, "/sys/module", module, "parameters", parameter))
	t.mustHost("limit of mappings", err)
	t.mustHost("limit of mappings", t.mods.SetParameter(module, parameter, strconv.Itoa(n)))
	t.atEnd("give back the limit of mappings", func() error {
		return t.mods.SetParameter(module, parameter, strings.TrimSpace(string(old)))
	})
}

// Range is a range of addresses that no device of a group may use, with its type as sysfs writes it.
type Range struct {
	Start, End uint64
	Type       string
}

// Reserved are the ranges of the device's group, those left out that type1 lets user space map all the same
// (direct-relaxable).
func (d *VFIODevice) Reserved() []Range {
	group := filepath.Join(d.t.env.Root, "/sys/kernel/iommu_groups", strconv.Itoa(d.number))
	text, err := os.ReadFile(filepath.Join(group, "reserved_regions"))
	d.t.mustHost("reserved regions", err)
	var list []Range
	for line := range strings.Lines(string(text)) {
		var r Range
		_, err := fmt.Sscanf(line, "%v %v %s", &r.Start, &r.End, &r.Type)
		d.t.mustHost("reserved regions", err)
		if r.Type != "direct-relaxable" {
			list = append(list, r)
		}
	}
	return list
}
