package scenarios

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// Whatever is left of a VM pins the vendor module by itself: a descriptor of /dev/kvm, the VM, a vCPU or the
// kvm-vfio device, guest memory (guest_memfd, 6.8 on, where the kernel has it), the mapping of kvm_run with its
// descriptor closed. A mapping keeps the file, and the file its module: since 6.7 by .owner (087e15206d6a), up
// to 6.6 by the VM's own reference (5f6de5cbebee, which stable 5.10 has on top of an .owner for VM and vCPU: two
// references there, one for the kvm-vfio device). All but /dev/kvm keep the VM alive too.
//
// In the variant bar the last thing left is a mapped BAR of a VFIO device that was opened for the VM. It
// keeps the device open, and so, from 6.2 on, the VM; vfio_pci must stay in any case. Up to 6.1 the VM is gone and
// the vendor module may leave; from 6.7 to 7.3 it leaves though the VM is alive, as in
// unload-vendor-while-vfio-holds-kvm.
var _ = lab.Register(lab.Scenario{
	Name:    "unload-vendor-single-fd-matrix",
	Summary: "each descriptor and each mapping of a VM pins the KVM vendor module by itself",
	Area:    lab.Unload,
	Needs: lab.Needs{
		Modules: []string{"kvm"},
		Options: []string{"CONFIG_KVM", "CONFIG_MODULE_UNLOAD"},
	},
	Variants: []lab.Variant{
		{Name: "kvm"},
		{Name: "bar", Needs: lab.Needs{
			Devices: []lab.Device{lab.EDU},
			IOMMU:   lab.AnyIOMMU,
			Modules: []string{"vfio_pci", "vfio_iommu_type1"},
			Options: []string{"CONFIG_VFIO_PCI"},
		}},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		vendor := t.Module(lab.KVMVendor)
		if t.Variant() == "bar" {
			barAlone(t, vendor)
		} else {
			eachAlone(t, vendor)
		}
		t.WantErr(vendor.Unload(), nil, "the vendor module may leave with nothing left")
	},
})

func eachAlone(t *lab.T, vendor *lab.Module) {
	alone := func(what string, vm *lab.VM, destroyed bool, letGo func()) {
		t.Log(fmt.Sprintf("%s: %d references of the vendor module", what, vendor.Held()))
		t.Check(vm.Destroyed() == destroyed, "all but /dev/kvm keeps the VM alive: "+what)
		t.WantErr(vendor.Unload(), unix.EWOULDBLOCK, "the vendor module stays for "+what)
		letGo()
		t.Check(vm.Destroyed(), "the VM is gone without "+what)
		t.WantInt(vendor.Held(), 0, "and the references are back without "+what)
	}
	for _, part := range []lab.Part{lab.PartSystem, lab.PartVM, lab.PartVCPU, lab.PartRun, lab.PartVFIO} {
		t.Step("only " + string(part))
		vm := t.NewVM()
		vm.NewVCPU()
		vm.NewVFIO()
		vm.CloseAllBut(part)
		alone(string(part), vm, part == lab.PartSystem, vm.Close)
	}
	t.Step("only guest memory")
	vm := t.NewVM()
	memory := vm.NewGuestMemory()
	vm.Close()
	if memory != nil {
		alone("guest memory", vm, false, memory.Close)
	}
}

func barAlone(t *lab.T, vendor *lab.Module) {
	pci := t.Module("vfio_pci")
	dev := t.BindVFIO(lab.EDU)

	t.Step("only a mapped BAR of a device that was opened for the VM")
	vm := t.NewVM()
	vm.AddVFIO(dev)
	dev.Open()
	dev.EnableDMA()
	bar := dev.MapBAR(0)
	id := bar.Register(0)
	vm.Close()
	dev.Close()
	t.Check(bar.Register(0) == id, "the device answers through the mapping")
	t.WantErr(pci.Unload(), unix.EWOULDBLOCK, "vfio_pci stays for the mapping")
	t.Check(vm.Destroyed() == (t.Regime() == lab.R61), "from 6.2 on, and only then, the mapping keeps the VM alive")
	if vm.Destroyed() {
		t.WantErr(vendor.Unload(), nil, "the vendor module may leave with no VM left")
		vendor.Load()
	} else {
		t.WantErr(vendor.Unload(), unix.EWOULDBLOCK, "the vendor module stays while the mapping holds the VM")
	}
	bar.Unmap()
	t.Check(vm.Destroyed(), "the VM is destroyed with the mapping")
	t.WantIdle("every reference is back")
}
