package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// Switching off the slot of an open device (echo 0 > /sys/bus/pci/slots/N/power) is a removal that somebody
// in the guest waits for: the write blocks in vfio_unregister_group_dev() until the device is closed, and then
// the slot goes off. Nothing answers behind the port any more (a rescan reads all ones for the vendor and adds
// nothing), and the machine is not stuck.
//
// QEMU deletes a device whose slot goes off, so that there is none to switch on again: pciehp says ENODEV,
// acpiphp nothing. Another one can be plugged in, though.
var _ = lab.Register(lab.Scenario{
	Name:    "hotplug-slot-power-off",
	Summary: "a slot with an open device goes off when the device is closed",
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
		dev := t.BindVFIO(lab.EDU)
		slot := dev.Slot()
		t.Check(slot.On(), "the slot is on")
		dev.Open()
		dev.EnableDMA()
		wanted := dev.OnRequest()

		t.Step("switch the slot off: it waits for the device")
		off := t.Start("slot power off", func() error { return slot.SetPower(false) })
		t.Check(wanted.Ready(leaves), "the kernel asks for the device")
		// pciehp has a thread for the work, and the write waits for that.
		where := []string{"pciehp_sysfs_disable_slot"}
		if t.Variant() == "acpi" {
			where = []string{"vfio_unregister_group_dev", "vfio_del_group_dev"}
		}
		t.Check(off.BlockedIn(t.KernelSymbol(where...), 5*time.Second), "the write waits for the device")
		t.WantErr(dev.Alive(), nil, "the device still answers")

		t.Step("close the device: the slot goes off")
		dev.Close()
		t.WantErr(off.Wait(leaves), nil, "the slot is switched off")
		t.Check(!slot.On(), "and says so")
		dev.WaitDeleted(leaves)
		dev.WantGone()
		dev.RescanBus()
		dev.WantGone()
		none := map[string]error{"pciehp": unix.ENODEV}[t.Variant()]
		t.WantErr(slot.SetPower(true), none, "there is nothing in the slot to switch on")
		dev.WantGone()
		t.WantIdle("every reference is back")

		t.Step("the next device in the slot works")
		dev.Replug()
		t.Check(slot.On(), "the slot is on again")
		dev.Open()
		dev.EnableDMA()
		t.WantErr(dev.Alive(), nil, "the device answers")
		dev.Close()
		t.WantIdle("every reference is back")
	},
})
