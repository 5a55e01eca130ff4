package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// The way in without group and container: a device's own node, a VM that is told of it, an IOMMUFD that it is bound
// to, an address space that it is attached to. Until BIND_IOMMUFD the open node is good for nothing
// (vfio_device_fops_unl_ioctl looks at access_granted), and BIND is what takes the VM (vfio_df_get_kvm_safe, before
// vfio_df_open): a node counts twice in vfio (cdev_get and fops_get), /dev/iommu once in iommufd, BIND once in
// vfio_pci (vfio_df_device_first_open) and, from 6.6 to 7.3, once in kvm (symbol_get(kvm_put_kvm)). FILE_ADD,
// the IOAS and ATTACH take no module. With file-based references BIND holds the VM's file, and so its module.
//
// The device holds the IOMMUFD's file and the VM: both outlive their own descriptors, and data flows meanwhile.
// Conversely the kvm-vfio device holds the node's file, so that a closed node stays bound until the VM goes.
//
// Some kernels pin the vendor module for each VM (__module_get in kvm_create_vm), some do not; what is pinned must be
// given back when the VM is destroyed and not before.
var _ = lab.Register(lab.Scenario{
	Name:    "attach-cdev-iommufd",
	Summary: "cdev, IOMMUFD and IOAS: each step takes its references, data flows, and all is given back",
	Area:    lab.Attach,
	Needs: lab.Needs{
		Devices:   []lab.Device{lab.EDU},
		IOMMU:     lab.AnyIOMMU,
		Modules:   []string{"kvm", "vfio_pci", "iommufd"},
		MinKernel: "6.6",
		Options:   []string{"CONFIG_KVM", "CONFIG_VFIO_PCI", "CONFIG_IOMMUFD", "CONFIG_VFIO_DEVICE_CDEV"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const iova = 0x10_0000
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		refs := t.TraceRefs()
		one := map[bool]int{true: 1}
		pinned := t.VendorPin()               // kvm_create_vm: __module_get
		owner := one[t.Since(6, 7)]           // kvm_vm_fops, kvm_device_fops
		symbol := one[t.Regime() == lab.RSYM] // symbol_get(kvm_put_kvm)
		file := one[t.Regime() == lab.RFILE]  // the VM's file is held
		refs.Claim("a device that is bound")

		t.Step("a VM and its kvm-vfio device")
		vm := t.NewVM()
		refs.Take(lab.KVMVendor, 1+owner+pinned)
		refs.Claim("/dev/kvm and a VM are open")
		vm.NewVFIO()
		refs.Take(lab.KVMVendor, owner)
		refs.Claim("the kvm-vfio device is open")

		t.Step("the device's node, before it is bound")
		cdev := dev.OpenCdev()
		refs.Take("vfio", 2)
		refs.Claim("the node is open")
		_, err := cdev.TryInfo()
		t.WantErr(err, unix.EINVAL, "the device is not to be used yet")
		vm.AddCdev(cdev)
		refs.Claim("the VM knows of the node")

		t.Step("bind it to an IOMMUFD")
		iommufd := t.OpenIOMMUFD()
		refs.Take("iommufd", 1)
		refs.Claim("/dev/iommu is open")
		cdev.Bind(iommufd)
		refs.Take("vfio_pci", 1)
		refs.Take("kvm", symbol)
		refs.Claim("the device is bound to the IOMMUFD")
		info, err := cdev.TryInfo()
		t.WantErr(err, nil, "the device is to be used now")
		t.Check(info.PCI && info.Regions >= 9 && info.IRQs >= 5, "it has the regions and interrupts of a PCI device")
		t.WantErr(cdev.TryBind(iommufd.FD()), unix.EINVAL, "to bind it again")

		t.Step("attach it to an address space and move data")
		ioas := iommufd.NewIOAS()
		cdev.Attach(ioas)
		cdev.EnableDMA()
		ioas.Map(page, iova)
		t.Check(cdev.RoundTrip(page, iova, 0x5a), "the device reaches a page that is mapped")
		ioas.Unmap(iova)
		ioas.Map(page, iova)
		t.WantErr(ioas.TryDestroy(), unix.EBUSY, "to destroy an address space in use")
		refs.Claim("the device is attached")

		t.Step("close the VM: the device holds it")
		vm.Close()
		refs.Want(lab.KVMVendor, file*owner+pinned)
		refs.Claim("the VM's descriptors are closed")
		t.Check(!vm.Destroyed(), "the VM lives on")
		t.Check(cdev.RoundTrip(page, iova, 0xa5), "the device still reaches the page")

		t.Step("close the IOMMUFD: the device holds it too")
		iommufd.Close()
		refs.Claim("the IOMMUFD's descriptor is closed")
		t.Check(cdev.RoundTrip(page, iova, 0x3c), "the device still reaches the page")

		t.Step("close the device")
		cdev.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the device's close")
		refs.Rest()
		refs.Claim("all is closed")
		t.WantIdle("every reference is back")

		t.Step("once more, and the VM's descriptors last")
		vm = t.NewVM()
		cdev = dev.OpenCdev()
		vm.AddCdev(cdev)
		iommufd = t.OpenIOMMUFD()
		cdev.Bind(iommufd)
		ioas = iommufd.NewIOAS()
		cdev.Attach(ioas)
		cdev.EnableDMA()
		ioas.Map(page, iova)
		t.Check(cdev.RoundTrip(page, iova, 0xc3), "the device reaches a page that is mapped")
		cdev.Detach()
		ioas.Unmap(iova)
		t.WantErr(ioas.TryDestroy(), nil, "to destroy an address space that is not in use")
		cdev.Close()
		iommufd.Close()
		refs.Want(lab.KVMVendor, 1+2*owner+pinned)
		refs.Want("kvm", symbol)
		refs.Want("vfio", 2)
		refs.Want("vfio_pci", 1)
		refs.Want("iommufd", 1)
		refs.Claim("the VM still knows of the node")
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed")
		refs.Rest()
		refs.Claim("all is closed")
	},
})
