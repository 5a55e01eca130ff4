package scenarios

import (
	"fmt"
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device that comes to the slot of one that was unplugged gets its address and nothing else of it: a new
// group node, a new VFIO device, no bus mastering, no mapping. The same VM takes one after the other, and
// each that is closed last leaves the counts where they were.
//
// The device's buffer tells the new one from the old: it reads as zero, where the old one held data.
var _ = lab.Register(lab.Scenario{
	Name:    "hotplug-readd-same-bdf",
	Summary: "a device plugged into a vacated slot works, and inherits nothing",
	Area:    lab.Hotplug,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout:  90 * time.Second,
	Variants: hotplugModes,
	Run: func(t *lab.T) {
		const iova = 0x10_0000
		devices := map[string]int{"acpi": 4, "pciehp": 2}[t.Variant()] // 6 seconds each with pciehp
		dev := t.BindVFIO(lab.EDU)
		address := dev.Address()
		page := t.NewPage()
		vm := t.NewVM()
		for n := 1; ; n++ {
			t.Step(fmt.Sprintf("device %d of %d: attach, move data, detach", n, devices))
			vm.AddVFIO(dev)
			dev.Open()
			dev.EnableDMA()
			dev.Map(page, iova)
			page.Fill(0xc3)
			dev.ToMemory(iova)
			t.WantInt(page.Count(0), lab.DMASize, "the device's buffer is that of a new device")
			t.Check(dev.RoundTrip(page, iova, byte(n)), "the device reaches memory")
			dev.Unmap(iova)
			t.WantErr(vm.DelVFIO(dev), nil, "DEL of the device's group")
			dev.Close()
			if n == devices {
				break
			}
			dev.Unplug()
			dev.WaitDeleted(leaves)
			dev.WantGone()
			dev.Replug()
			t.Check(dev.Address() == address, "the new device has the old one's address")
		}
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with its last descriptor")
		t.WantIdle("every reference is back")
		t.WantInt(t.Faults(), 0, "no DMA went astray")
	},
})
