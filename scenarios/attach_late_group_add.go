package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A VM that learns of a device's group when the device is already open is held neither by that open nor by
// one that comes on top: a device takes its hold of a VM at the first of its opens (open_count 0 in
// vfio_df_group_open), and keeps what it has, nothing included, until the last close.
//
// From 6.2 to 7.3 the hold is one reference of kvm.ko; later it is the VM's file, for which only the VM's life
// speaks. Up to 6.1 there is none in any order.
var _ = lab.Register(lab.Scenario{
	Name:    "attach-late-group-add",
	Summary: "a VM that learns of a device after its first open is not held by any open on top of it",
	Area:    lab.Attach,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		kvm := t.Module("kvm")
		held := map[lab.Regime]int{lab.RSYM: 1}[t.Regime()]
		dev := t.BindVFIO(lab.EDU)

		t.Step("open the device, then tell the VM")
		vm := t.NewVM()
		first := dev.OpenFile()
		vm.AddVFIO(dev)
		t.WantInt(kvm.Held(), 0, "the open before the VM was known holds nothing of kvm")
		second := dev.OpenFile()
		t.WantInt(kvm.Held(), 0, "nor does a second open, after it")
		first.Close()
		third := dev.OpenFile()
		t.WantInt(kvm.Held(), 0, "nor does a third, with the first one closed")
		second.Close()
		third.Close()

		t.Step("open it anew: the VM is known by now")
		fourth := dev.OpenFile()
		t.WantInt(kvm.Held(), held, "from 6.2 to 7.3 the first open of a new round holds one reference of kvm")
		vm.Close()
		t.Check(vm.Destroyed() == (t.Regime() == lab.R61), "from 6.2 on, and only then, the device keeps the VM alive")
		t.Check(fourth.Works(), "the device works without its VM's descriptors")
		fourth.Close()
		dev.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the last close")
		t.WantIdle("every reference is back")

		t.Step("the late VM goes first, the device stays open twice")
		vm = t.NewVM()
		first = dev.OpenFile()
		vm.AddVFIO(dev)
		second = dev.OpenFile()
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with its own descriptors")
		t.Check(first.Works() && second.Works(), "both opens of the device still work")
		first.Close()
		second.Close()
		dev.Close()
	},
})
