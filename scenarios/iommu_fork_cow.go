package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// Device and process keep seeing one and the same page across fork, whoever writes next. A fork makes private
// memory copy-on-write, and a copy given to the process would leave the device with a page that nobody sees.
//
// With @map-then-fork the page is pinned when it is forked: the kernel copies it for the child at once
// (70e806e4e645 "mm: Do early cow for pinned pages during fork() for ptes", 5.9), so the parent keeps it. With
// @fork-then-map the page is already shared when it is mapped to be read only: pinning must give the process a
// page of its own first (FAULT_FLAG_UNSHARE, a7f226604170, 5.19). 5.10 pins the shared page, and the device reads
// on from it what the process has overwritten; so there the variant does not run.
var _ = lab.Register(lab.Scenario{
	Name:    "iommu-fork-cow",
	Summary: "a fork does not part the device from its owner's page",
	Area:    lab.IOMMU,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Variants: []lab.Variant{
		{Name: "map-then-fork"},
		{Name: "fork-then-map", Needs: lab.Needs{MinKernel: "5.19"}},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const (
			shared, window = 0x10_0000, 0x20_0000
			n              = 256
			forked         = 0x3c // in the page when it is forked
			later          = 0x5a // written by the parent after that
			last           = 0x6b // written by the device
		)
		dev := t.BindVFIO(lab.EDU)
		page, show := t.NewPages(1), t.NewPage()
		dev.Open()
		dev.EnableDMA()
		dev.Map(show, window)
		dev.ProveDMA(show, window, 0x96)
		reads := func(pattern byte) bool {
			show.Fill(^pattern)
			dev.Read(shared, n)
			dev.Write(window, n)
			return show.Count(pattern) == n
		}
		page.Fill(forked)

		var twin *lab.Twin
		if t.Variant() == "map-then-fork" {
			t.Step("map the page, then fork")
			dev.Map(page, shared)
			twin = t.Fork(page)
		} else {
			t.Step("fork, then map the page to be read")
			twin = t.Fork(page)
			dev.MapReadOnly(page, shared)
		}
		t.Check(reads(forked), "the device reads what is in the page")

		t.Step("the parent writes")
		page.Fill(later)
		t.Check(reads(later), "the device reads what the parent wrote")

		if t.Variant() == "map-then-fork" {
			t.Step("the device writes")
			show.Fill(last)
			dev.Read(window, n)
			dev.Write(shared, n)
			t.WantInt(page.Count(last), n, "the parent sees what the device wrote")
		}
		t.Check(twin.Kept(forked), "the child sees what was there when it was forked")
		t.WantInt(t.Faults(), 0, "nothing was refused")
		dev.Close()
		t.WantIdle("every reference is back")
	},
})
