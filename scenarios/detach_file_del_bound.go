package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// To take a group back from a VM (KVM_DEV_VFIO_FILE_DEL) while its device is open leaves the device's hold
// of the VM alone: it was taken at the open and ends with the last close.
//
// Up to 6.1 there is no hold, and the VM goes with its own descriptors. The second DEL has nothing to find.
var _ = lab.Register(lab.Scenario{
	Name:    "detach-file-del-bound",
	Summary: "DEL of an open device's group leaves the device's hold of the VM alone",
	Area:    lab.Detach,
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
		vm := t.NewVM()

		t.Step("attach: tell the VM, then open the device")
		vm.AddVFIO(dev)
		dev.Open()
		t.WantInt(kvm.Held(), held, "from 6.2 to 7.3 the open holds one reference of kvm")

		t.Step("take the group back from the VM")
		t.WantErr(vm.DelVFIO(dev), nil, "DEL of a group that was added")
		t.WantErr(vm.DelVFIO(dev), unix.ENOENT, "DEL of a group that is no longer there")
		t.WantInt(kvm.Held(), held, "the device's reference of kvm outlives DEL")

		t.Step("close the VM")
		vm.Close()
		t.Check(vm.Destroyed() == (t.Regime() == lab.R61), "from 6.2 on, and only then, the device keeps the VM alive")
		t.WantInt(kvm.Held(), held, "the device's reference of kvm outlives the VM's descriptors")

		t.Step("close the device")
		dev.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the device's last close")
		t.WantIdle("every reference is back")

		t.Step("taken back before the open, nothing is held")
		vm = t.NewVM()
		vm.AddVFIO(dev)
		t.WantErr(vm.DelVFIO(dev), nil, "DEL of a group that was added")
		dev.Open()
		t.WantInt(kvm.Held(), 0, "an open after DEL holds nothing of kvm")
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with its own descriptors")
		dev.Close()
	},
})
