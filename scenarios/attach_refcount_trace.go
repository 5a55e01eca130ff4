package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// Every step of the legacy way in takes references of exactly the modules whose code it can run later, and
// the way out gives back the same. The counts of all modules are claimed at every step, so that one
// file_operations without its owner shows, although nothing else does before the module is unloaded.
//
// /dev/vfio/vfio is a misc device (vfio +1), a group a character device, counted by cdev_get and by fops_get
// from 6.1 on (vfio +2; 5.10 has one cdev for all groups, without an owner), a device's file an anonymous
// inode (vfio +1). KVM's part changed twice: 5.10 has an owner in the operations of VM and vCPU and pins the
// module in kvm_create_vm besides; 6.1 only pins it (70375c2d8fa3); from 6.7 on VM, vCPU and kvm-vfio have
// the owner and nothing is pinned (087e15206d6a, ea61294befd3). An MSI vector holds irqbypass for as long as
// irq_bypass_register_producer took a reference: seen up to 6.12, no more in 7.2.
var _ = lab.Register(lab.Scenario{
	Name:    "attach-refcount-trace",
	Summary: "every step of the group interface takes exactly its module references and gives them back",
	Area:    lab.Attach,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		dev := t.BindVFIO(lab.EDU)
		refs := t.TraceRefs()
		one := map[bool]int{true: 1}
		pinned := t.VendorPin()                       // kvm_create_vm: __module_get
		owner := one[!t.Since(6, 1) || t.Since(6, 7)] // kvm_vm_fops, kvm_vcpu_fops
		deviceOwner := one[t.Since(6, 7)]             // kvm_device_fops
		group := 1 + one[t.Since(6, 1)]               // cdev and file
		symbol := one[t.Regime() == lab.RSYM]         // symbol_get(kvm_put_kvm)
		lives := one[t.Regime() != lab.R61]           // the device keeps the VM alive
		file := one[t.Regime() == lab.RFILE]          // by its file, whose module is as before
		producer := t.BypassRefs()                    // irq_bypass_register_producer
		refs.Claim("a device that is bound")

		t.Step("the way in")
		dev.OpenContainer()
		refs.Take("vfio", 1)
		refs.Claim("the container is open")
		dev.OpenGroup()
		refs.Take("vfio", group)
		refs.Claim("the group is open")
		dev.SetContainer()
		refs.Claim("the group is in the container")
		dev.SetIOMMU()
		refs.Take("vfio_iommu_type1", 1)
		refs.Claim("the container has an IOMMU")
		vm := t.NewVM()
		refs.Take(lab.KVMVendor, 1+pinned+owner)
		refs.Claim("/dev/kvm and a VM are open")
		vm.CloseSystem()
		refs.Take(lab.KVMVendor, -1)
		refs.Claim("/dev/kvm is closed")
		vm.NewVCPU()
		refs.Take(lab.KVMVendor, owner)
		refs.Claim("a vCPU is open")
		vm.AddVFIO(dev)
		refs.Take(lab.KVMVendor, deviceOwner)
		refs.Claim("the VM knows of the group")
		dev.Open()
		refs.Take("vfio", 1)
		refs.Take("kvm", symbol)
		refs.Take("vfio_pci", 1)
		refs.Claim("the device is open")
		dev.EnableMSI()
		refs.Take("irqbypass", producer)
		refs.Claim("an MSI vector is set up")

		t.Step("the way out, the VM's descriptors first")
		vm.Close()
		refs.Want(lab.KVMVendor, lives*pinned+file*owner)
		refs.Claim("the VM's descriptors are closed")
		dev.Close()
		refs.Rest()
		refs.Claim("all is closed")

		t.Step("once more, the device's descriptors first")
		vm = t.NewVM()
		vm.AddVFIO(dev)
		dev.Open()
		dev.EnableMSI()
		dev.Close()
		refs.Want(lab.KVMVendor, 1+pinned+owner+deviceOwner)
		refs.Want("vfio_iommu_type1", 1)
		// kvm-vfio keeps the group's file; on 5.10 a user of the group instead, which is no file.
		refs.Take("vfio", group*one[t.Since(6, 1)])
		refs.Claim("the VM still knows of the group")
		vm.Close()
		refs.Rest()
		refs.Claim("all is closed")
	},
})
