package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A VFIO device opened on behalf of a VM keeps that VM alive until the device is closed, from 6.2 on. The
// VM's own descriptors may go first; the vendor module must then stay pinned, because destroying the VM
// runs its code, and come free once the device goes.
//
// Up to 6.1 the device holds nothing: the VM is destroyed with its last descriptor and the vendor module may
// leave. From 6.7 to 7.3 the module leaves although the VM is alive (the pin that 5f6de5cbebee gave each VM
// was replaced by file_operations.owner, 087e15206d6a and ea61294befd3, and VFIO's reference is no file):
// kvm_destroy_vm then runs over what kvm_exit freed.
var _ = lab.Register(lab.Scenario{
	Name:    "unload-vendor-while-vfio-holds-kvm",
	Summary: "an open VFIO device pins the KVM vendor module after its VM is closed",
	Area:    lab.Unload,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI", "CONFIG_MODULE_UNLOAD"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		vendor := t.Module(lab.KVMVendor)
		t.WantErr(vendor.Unload(), nil, "the vendor module may leave while nothing uses it")
		vendor.Load()
		dev := t.BindVFIO(lab.EDU)
		vm := t.NewVM()

		t.Step("attach: tell the VM about the device, then open it")
		vm.AddVFIO(dev)
		dev.Open()
		t.WantErr(vendor.Unload(), unix.EWOULDBLOCK, "the vendor module stays while the VM is open")

		t.Step("close the VM, keep the device")
		vm.Close()
		t.Check(vm.Destroyed() == (t.Regime() == lab.R61), "from 6.2 on, and only then, the device keeps the VM alive")
		if vm.Destroyed() {
			t.WantErr(vendor.Unload(), nil, "the vendor module may leave with no VM left")
			vendor.Load()
		} else {
			t.WantErr(vendor.Unload(), unix.EWOULDBLOCK, "the vendor module stays while VFIO holds the VM")
		}

		t.Step("detach: close the device")
		dev.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the device's last close")
		t.WantInt(vendor.Held(), 0, "the vendor module's references are back")
		t.WantErr(vendor.Unload(), nil, "the vendor module may leave now")
	},
})
