package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A mapping for a device is of the page that was there when it was made: type1 pins it
// (pin_user_pages_remote). munmap takes the address away from the process and leaves the device its page, which
// stays accounted; new memory at the same address is another page, and the device must not touch it. UNMAP_DMA
// then gives the page back.
//
// What the device reads of a page that no process sees any more, it shows by writing it to another one.
var _ = lab.Register(lab.Scenario{
	Name:    "iommu-munmap-pinned",
	Summary: "after munmap the device still has the page that was mapped for it, and no other",
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
			pinned, window = 0x10_0000, 0x20_0000
			n              = 256
			first          = 0x5a // in the page before munmap
			second         = 0x6b // written to it by the device after munmap
			canary         = 0xc3 // in the new page
		)
		dev := t.BindVFIO(lab.EDU)
		page, show := t.NewPages(1), t.NewPage()
		dev.Open()
		dev.EnableDMA()
		atRest := t.Pinned()
		// holds has the device copy the pinned page to the one that can be seen.
		holds := func(pattern byte) bool {
			show.Fill(^pattern)
			dev.Read(pinned, n)
			dev.Write(window, n)
			return show.Count(pattern) == n
		}

		t.Step("map two pages for the device")
		dev.Map(show, window)
		dev.Map(page, pinned)
		dev.ProveDMA(page, pinned, first)
		page.Fill(first)
		t.WantInt(t.Locked(), 2, "two pages are accounted")

		t.Step("munmap one of them")
		t.Munmap(page)
		t.WantInt(t.Locked(), 2, "it stays accounted")
		t.WantInt(t.Pinned()-atRest, 2, "and pinned")
		t.Check(holds(first), "the device reads what was in it")

		t.Step("new memory at the same address")
		t.MapAnew(page)
		page.Fill(canary)
		show.Fill(second)
		dev.Read(window, n)
		dev.Write(pinned, n)
		t.WantInt(page.Count(canary), lab.PageSize, "the device writes nothing of it")
		t.Check(holds(second), "what it wrote is in the old page")
		t.WantInt(t.Faults(), 0, "and nothing is refused")

		t.Step("UNMAP_DMA: the old page is gone")
		dev.Unmap(pinned)
		t.WantInt(t.Locked(), 1, "one page is accounted")
		t.WantInt(t.Pinned()-atRest, 1, "and pinned")
		t.Expect(record.Expect{Fault: true, Why: "a DMA write to an address that was unmapped"})
		dev.Write(pinned, n)
		refused := t.Faults()
		t.Check(refused > 0, "the IOMMU refuses the device")
		t.WantInt(page.Count(canary), lab.PageSize, "the new memory is as it was")

		t.Step("map the address again: the device has the new page")
		dev.Map(page, pinned)
		t.Check(dev.RoundTrip(page, pinned, 0x96), "the data comes through")
		t.WantInt(t.Faults(), refused, "and nothing of it is refused")
		dev.Close()
		t.WantInt(t.Pinned(), atRest, "nothing stays pinned")
		t.WantIdle("every reference is back")
	},
})
