package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device that is bound to vfio-pci and not open leaves when it is unplugged, with no user to wait for:
// vfio_unregister_group_dev() finds no registration but its own, takes the group's node away and lets the
// removal go on, until the slot is off and QEMU deletes the device.
//
// It has been open on behalf of a VM before, and the VM knows of its group still: kvm-vfio holds the group's
// file, not the device. The group is an empty shell from then on (vfio_device_remove_group() takes the
// container away and forgets the iommu_group), and the close of such a file must be harmless. Not so before 6.1:
// there the removal waits for the container to leave the group
// (wait_event(group->container_q, !group->container)), and the VM goes first.
var _ = lab.Register(lab.Scenario{
	Name:    "hotplug-del-idle",
	Summary: "an idle device leaves at once when it is unplugged",
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
		dev := t.BindVFIO(lab.EDU)
		vm := t.NewVM()

		t.Step("open the device for a VM, close it")
		vm.AddVFIO(dev)
		dev.Open()
		dev.EnableDMA()
		t.WantErr(dev.Alive(), nil, "the device answers")
		dev.Close()
		if !t.Since(6, 1) {
			vm.Close()
		}
		t.Check(!dev.Deleted(), "nobody has taken the device so far")

		t.Step("unplug it")
		dev.Unplug()
		dev.WaitDeleted(leaves)
		dev.WantGone()

		t.Step("close the VM that knew of it")
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with its last descriptor")
		t.WantIdle("every reference is back")
	},
})

// hotplugModes are who does the hot-plug: the firmware (acpiphp), as q35 has it by default, or the root port
// itself (pciehp), which blinks for 5 seconds before it lets a device go and for one after.
var hotplugModes = []lab.Variant{
	{Name: "acpi", Needs: lab.Needs{Options: []string{"CONFIG_HOTPLUG_PCI_ACPI"}}},
	{Name: "pciehp", Needs: lab.Needs{Options: []string{"CONFIG_HOTPLUG_PCI_PCIE"}, NativeHotplug: true}},
}

// leaves is how long an unplugged device that nobody holds may take to leave, in either mode.
const leaves = 20 * time.Second
