package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// After UNMAP_DMA returns the device cannot reach the page any more, its IOTLB entry, warm from the
// transfers before, included: the page goes back to whoever gets it next.
//
// The refused transfer stands between two that pass, of other data, because a dead device also writes
// nothing. QEMU says of each of its IOMMUs that it refused the transfer; the kernel hears of it from intel's
// and virtio's, and nothing from amd's in QEMU 7.2.
var _ = lab.Register(lab.Scenario{
	Name:    "iommu-dma-after-unmap",
	Summary: "a device cannot write to a page after UNMAP_DMA",
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
			iova   = 0x10_0000 // edu reaches 28 bits
			canary = 0xc3
		)
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		dev.Open()
		dev.EnableDMA()

		t.Step("map a page: the device reaches it")
		dev.Map(page, iova)
		dev.ProveDMA(page, iova, 0x5a)

		t.WantInt(t.Faults(), 0, "nothing that is mapped is refused")

		t.Step("unmap it: the device does not reach it")
		dev.Unmap(iova)
		page.Fill(canary)
		t.Expect(record.Expect{Fault: true, Why: "a DMA write to an address that was unmapped"})
		dev.ToMemory(iova)
		t.WantInt(page.Count(canary), lab.PageSize, "no byte of the unmapped page changed")
		refused := t.Faults()
		t.Check(refused > 0, "the IOMMU refused the write")

		t.Step("map it again: the device reaches it again")
		dev.Map(page, iova)
		t.Check(dev.RoundTrip(page, iova, 0xa5), "the data comes through again")
		t.WantInt(t.Faults(), refused, "and nothing of it is refused")
		dev.Unmap(iova)
		dev.Close()
		t.WantIdle("every reference is back")
	},
})
