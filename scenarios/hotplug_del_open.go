package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// An open device that is unplugged stays until it is closed: vfio_unregister_group_dev() waits for the last
// user inside the removal, asks for the device by the eventfd of VFIO_PCI_REQ_IRQ_INDEX at once and again
// every 10 seconds, and neither the slot's power nor QEMU's device goes before. Until then the device works,
// and from 6.2 on it keeps the VM that it was opened for.
//
// The slot goes off only after the last close: that DEVICE_DELETED has not come is seen between the kernel's
// request, which shows that the removal is under way, and the event itself.
var _ = lab.Register(lab.Scenario{
	Name:    "hotplug-del-open",
	Summary: "an unplugged device stays until it is closed",
	Area:    lab.Hotplug,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout:  60 * time.Second,
	Variants: hotplugModes,
	Run: func(t *lab.T) {
		const iova = 0x10_0000
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		vm := t.NewVM()

		t.Step("open the device for a VM")
		vm.AddVFIO(dev)
		dev.Open()
		dev.EnableDMA()
		dev.EnableMSI()
		dev.Map(page, iova)
		dev.ProveDMA(page, iova, 0x5a)
		wanted := dev.OnRequest()
		t.WantInt(wanted.Count(), 0, "nobody wants the device back so far")

		t.Step("unplug it: the kernel asks for it and waits")
		dev.Unplug()
		t.Check(wanted.Ready(leaves), "the kernel asks for the device")
		t.WantErr(dev.Alive(), nil, "the device still answers")
		t.Check(dev.RoundTrip(page, iova, 0xa5), "and reaches memory")

		t.Step("close the VM: the device still holds back")
		vm.Close()
		t.Check(vm.Destroyed() == (t.Regime() == lab.R61), "from 6.2 on, and only then, the device keeps the VM alive")
		t.Check(dev.RoundTrip(page, iova, 0x3c), "the device still answers and reaches memory") // a fifth of a second
		t.Check(!dev.Deleted(), "the device is still there")

		t.Step("close the device: it goes")
		dev.Unmap(iova)
		dev.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the device's last close")
		dev.WaitDeleted(leaves)
		dev.WantGone()
		t.WantIdle("every reference is back")
		t.WantInt(t.Faults(), 0, "no DMA went astray")
	},
})
