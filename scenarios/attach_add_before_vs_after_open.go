package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device takes its hold of a VM when it is opened, so that only a VM known by then is held. Told of the
// group before the open, the device keeps the VM alive; told after it, which is as legal, it does not.
//
// vfio_df_group_open calls vfio_device_get_kvm_safe at the first open and only then: one reference of
// kvm.ko against none from 6.2 to 7.3. Up to 6.1 the device takes none in either order. With file-based
// references kvm.ko's count says nothing, but the VM's life does.
var _ = lab.Register(lab.Scenario{
	Name:    "attach-add-before-vs-after-open",
	Summary: "a VFIO device holds the VM that it knows of at its first open, and no other",
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
		dev := t.BindVFIO(lab.EDU)

		t.Step("tell the VM, then open the device")
		vm := t.NewVM()
		vm.AddVFIO(dev)
		dev.Open()
		t.WantInt(kvm.Held(), map[lab.Regime]int{lab.RSYM: 1}[t.Regime()], "from 6.2 to 7.3 the open holds one reference of kvm")
		vm.Close()
		t.Check(vm.Destroyed() == (t.Regime() == lab.R61), "from 6.2 on, and only then, the device keeps the VM alive")
		dev.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the device's last close")
		t.WantIdle("every reference is back")

		t.Step("open the device, then tell the VM")
		vm = t.NewVM()
		dev.Open()
		vm.AddVFIO(dev)
		t.WantInt(kvm.Held(), 0, "an open before the VM is known holds nothing of kvm")
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with its own descriptors")
		dev.Close()
		t.WantIdle("every reference is back")

		t.Step("the first order again")
		vm = t.NewVM()
		vm.AddVFIO(dev)
		dev.Open()
		vm.Close()
		t.Check(vm.Destroyed() == (t.Regime() == lab.R61), "the device keeps the VM alive as before")
		dev.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the device's last close")
	},
})
