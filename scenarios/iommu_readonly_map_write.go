package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A page that is mapped with VFIO_DMA_MAP_FLAG_READ alone can be read by the device and not be written, neither
// before the device has read it nor after, when the IOTLB holds the entry. Mapped to read and to write at the
// same address it can be written: the old permission does not linger.
//
// With intel-iommu and virtio-iommu QEMU counts a write that finds no IOTLB entry as a fault. A write that finds
// one, and with amd-iommu any write, is translated to an entry without the permission, and stopped behind the
// IOMMU without a word: there the page itself has to tell.
var _ = lab.Register(lab.Scenario{
	Name:    "iommu-readonly-map-write",
	Summary: "a device reads and cannot write what is mapped to be read",
	Area:    lab.IOMMU,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const (
			iova     = 0x10_0000
			readOnly = 0x20_0000
			n        = 64
			canary   = 0xc3
		)
		dev := t.BindVFIO(lab.EDU)
		page, fixed := t.NewPage(), t.NewPage()
		fixed.Fill(canary)
		dev.Open()
		dev.EnableDMA()

		t.Step("map one page to read and write, another to read")
		dev.Map(page, iova)
		dev.ProveDMA(page, iova, 0x5a) // the device's buffer is full of it
		dev.MapReadOnly(fixed, readOnly)
		t.WantInt(t.Faults(), 0, "nothing is refused yet")

		t.Step("write to the page that may be read")
		t.Expect(record.Expect{Fault: true, Why: "a DMA write to a page that is mapped read-only"})
		dev.Write(readOnly, n)
		refused := t.Faults()
		if t.IOMMU() != lab.AMDIOMMU {
			t.Check(refused > 0, "the IOMMU refuses the write")
		}
		t.WantInt(fixed.Count(canary), lab.PageSize, "no byte changed")

		t.Step("read it: what the device got goes to the other page")
		dev.Read(readOnly, n)
		dev.Write(iova, n)
		t.WantInt(page.Count(canary), n, "the data comes through")
		t.WantInt(t.Faults(), refused, "and nothing of it is refused")

		t.Step("write to it again, now that it has been read")
		page.Fill(0xa5)
		dev.Read(iova, n)
		dev.Write(readOnly, n)
		t.WantInt(fixed.Count(canary), lab.PageSize, "no byte changed")

		t.Step("map it to read and write: the device writes")
		dev.Unmap(readOnly)
		dev.Map(fixed, readOnly)
		refused = t.Faults()
		t.Check(dev.RoundTrip(fixed, readOnly, 0x96), "the data comes through")
		t.WantInt(t.Faults(), refused, "and nothing of it is refused")
		dev.Close()
		t.WantIdle("every reference is back")
	},
})
