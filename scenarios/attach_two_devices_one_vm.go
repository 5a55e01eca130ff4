package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// Two devices in two groups and one container, opened on behalf of one VM: each holds the VM by itself, so
// that the VM lives until both are closed. The container's IOMMU is shared and stays for as long as a group
// is in it, which the kvm-vfio device's hold of the groups' files sees to.
//
// vfio_device_get_kvm_safe counts for each device: two references of kvm.ko from 6.2 to 7.3, none before. With
// file-based references the VM's life tells.
var _ = lab.Register(lab.Scenario{
	Name:    "attach-two-devices-one-vm",
	Summary: "two devices hold their VM once each; closing one leaves the other's hold",
	Area:    lab.Attach,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU, lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		kvm, type1 := t.Module("kvm"), t.Module("vfio_iommu_type1")
		held := map[lab.Regime]int{lab.RSYM: 1}[t.Regime()]
		old := t.Regime() == lab.R61
		one, two := t.BindVFIO(lab.EDU), t.BindVFIO(lab.EDU)
		t.Check(one.Group() != two.Group(), "each device is in a group of its own")

		t.Step("attach both")
		vm := t.NewVM()
		vm.AddVFIO(one)
		two.JoinContainer(one)
		vm.AddVFIO(two)
		t.WantInt(type1.Held(), 1, "one container, one reference of type1")
		one.Open()
		t.WantInt(kvm.Held(), held, "from 6.2 to 7.3 the first device holds one reference of kvm")
		two.Open()
		t.WantInt(kvm.Held(), 2*held, "and the second device another")

		t.Step("both move data through the container's one mapping")
		const iova = 0x10_0000
		page := t.NewPage()
		one.EnableDMA()
		two.EnableDMA()
		one.Map(page, iova)
		t.Check(one.RoundTrip(page, iova, 0x5a), "the first device reaches the page")
		t.Check(two.RoundTrip(page, iova, 0xa5), "the second device reaches the page")

		t.Step("close the VM, then one device")
		vm.Close()
		t.Check(vm.Destroyed() == old, "from 6.2 on, and only then, the devices keep the VM alive")
		one.Close()
		t.WantInt(kvm.Held(), held, "the other device's reference of kvm is left")
		t.Check(vm.Destroyed() == old, "and keeps the VM alive by itself")
		t.WantInt(type1.Held(), 1, "the other group is still in the container, whose descriptor is closed")
		t.Check(two.RoundTrip(page, iova, 0x3c), "the second device still reaches the page")

		t.Step("close the other device")
		two.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the last close")
		t.WantIdle("every reference is back")
	},
})
