package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// kvm.ko must not leave while anything can still call into it: a descriptor of KVM, or a VFIO device that
// will put its VM at its last close. While the vendor module is loaded delete_module("kvm") is refused for
// that holder alone, so that the reference beyond it is counted too.
//
// The vendor module is left alone while VFIO holds the VM: that is another scenario's subject
// (unload-vendor-while-vfio-holds-kvm) and the end of the kernel from 6.7 to 7.3. Up to 6.1 VFIO holds
// nothing, and both modules may leave under an open device. With file-based references the VM's file pins
// its own module, the vendor's, which in turn holds kvm.ko.
var _ = lab.Register(lab.Scenario{
	Name:    "unload-kvm-while-vfio-holds-kvm",
	Summary: "an open VFIO device pins kvm.ko after its VM is closed",
	Area:    lab.Unload,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI", "CONFIG_MODULE_UNLOAD"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		kvm, vendor := t.Module("kvm"), t.Module(lab.KVMVendor)
		refused := func(when string) {
			t.WantErr(kvm.Unload(), unix.EWOULDBLOCK, "kvm stays "+when)
		}
		t.WantErr(vendor.Unload(), nil, "the vendor module may leave while nothing uses it")
		t.WantErr(kvm.Unload(), nil, "and so may kvm")
		vendor.Load()
		dev := t.BindVFIO(lab.EDU)

		t.Step("attach: at every stage kvm stays")
		refused("under its vendor module")
		vm := t.NewVM()
		refused("with a VM open")
		t.WantInt(kvm.Held(), 0, "an open VM holds nothing of kvm beside the vendor module")
		vm.AddVFIO(dev)
		refused("with a VM that knows of a device")
		t.WantInt(kvm.Held(), 0, "nor does a VM that knows of a device")
		dev.Open()
		refused("with the device open")
		t.WantInt(kvm.Held(), map[lab.Regime]int{lab.RSYM: 1}[t.Regime()], "from 6.2 to 7.3 the open device holds one reference")

		t.Step("close the VM, keep the device")
		vm.Close()
		switch t.Regime() {
		case lab.R61:
			t.Check(vm.Destroyed(), "the VM is destroyed with its last descriptor")
			t.WantInt(kvm.Held(), 0, "the device holds nothing of kvm")
			t.WantErr(vendor.Unload(), nil, "the vendor module may leave with no VM left")
			t.WantErr(kvm.Unload(), nil, "kvm may leave with no VM left")
			vendor.Load()
		case lab.RSYM:
			t.Check(!vm.Destroyed(), "the device keeps the VM alive")
			t.WantInt(kvm.Held(), 1, "the device holds one reference of kvm, beside the vendor module's")
			refused("while VFIO holds the VM")
		case lab.RFILE:
			t.Check(!vm.Destroyed(), "the device keeps the VM alive")
			t.Check(vendor.Held() > 0, "the VM's file holds the vendor module, and that kvm")
			refused("while VFIO holds the VM's file")
		}

		t.Step("detach: close the device")
		dev.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the device's last close")
		t.WantInt(kvm.Held(), 0, "kvm's references are back")
		t.WantErr(vendor.Unload(), nil, "the vendor module may leave now")
		t.WantErr(kvm.Unload(), nil, "kvm may leave now")
	},
})
