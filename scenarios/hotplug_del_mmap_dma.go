package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A mapped BAR holds an unplugged device like a descriptor does, after every descriptor of it is closed:
// the mapping has the device's file. Registers behind it work and the device reaches memory to the end.
//
// The last munmap comes with a transfer under way. vfio_pci_core_disable() (vfio_pci_disable() up to 5.15)
// clears bus mastering before it lets the removal go on, and the container's mappings go after that: no access
// of the device may find its page unmapped, which QEMU would count as a fault. The container is not ours to
// keep any more then: the removal takes the group out of it (vfio_device_remove_group()), and before 6.1 it
// waits until somebody does.
var _ = lab.Register(lab.Scenario{
	Name:    "hotplug-del-mmap-dma",
	Summary: "a mapped BAR keeps an unplugged device, whose transfers end with it",
	Area:    lab.Hotplug,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout:  60 * time.Second,
	Variants: hotplugModes,
	Run: func(t *lab.T) {
		const iova = 0x10_0000
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		dev.Open()
		dev.EnableDMA()
		bar := dev.MapBAR(0)
		dev.UseRegisters(bar)
		dev.Map(page, iova)
		dev.ProveDMA(page, iova, 0x5a)
		wanted := dev.OnRequest()

		t.Step("unplug the device: the kernel asks for it and waits")
		dev.Unplug()
		t.Check(wanted.Ready(leaves), "the kernel asks for the device")
		t.Check(dev.RoundTrip(page, iova, 0xa5), "the device reaches memory")

		t.Step("close its descriptor, keep the BAR")
		dev.CloseDevice()
		t.WantErr(bar.Alive(), nil, "the BAR's registers answer")
		t.Check(dev.RoundTrip(page, iova, 0x3c), "the device reaches memory")
		t.Check(!dev.Deleted(), "the device is still there")

		t.Step("unmap the BAR with a transfer under way: the device goes")
		dev.StartToMemory(iova)
		bar.Unmap()
		if !t.Since(6, 1) {
			dev.Close()
		}
		dev.WaitDeleted(leaves)
		dev.Close()
		dev.WantGone()
		t.WantIdle("every reference is back")
		t.WantInt(t.Faults(), 0, "the transfer found its page or was stopped")
	},
})
