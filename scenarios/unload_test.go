package scenarios

// How the scenarios of the area unload were seen to fail: bugs of stock kernels, and faults put into the scenario
// or its verbs by hand, on stock 6.12 with intel-iommu.
var (
	_ = seenToFail("unload-kvm-while-vfio-holds-kvm",
		"the device opened before the VM knew of it: 'the open device holds one reference' was false, want 1, got 0")
	_ = seenToFail("unload-vendor-while-vfio-holds-kvm",
		"stock 6.12.117, 7.2.12, 7.3.4: rmmod kvm_amd succeeds under an open device, whose close is an oops in kvm_destroy_vm_debugfs")
	_ = seenToFail("unload-vendor-stats-fd",
		"stock 6.12.117, 7.2.12, 7.3.4: 'stays while the statistics are open' was false, want EWOULDBLOCK, got success, and an oops at their close")
	_ = seenToFail("unload-vendor-debugfs-file",
		"stock 6.12.117, 7.2.12, 7.3.4: 'stays while the file is open' was false, want EWOULDBLOCK, got success, and a jump into freed text at its close")
	_ = seenToFail("unload-vendor-single-fd-matrix",
		"@bar: stock 6.12.117 and 7.3.4, rmmod kvm_amd succeeds under a mapped BAR. @kvm: nothing left open: 'stays for /dev/kvm' was false, want EWOULDBLOCK, got success")
	_ = seenToFail("unload-vfio-pci-open",
		"the mapping undone before the unload: 'vfio_pci stays with only a mapping left' was false, want EWOULDBLOCK, got success")
	_ = seenToFail("unload-vfio-pci-cdev-unbound",
		"the node closed before the unload, 6.12 built with IOMMUFD: 'it waits in vfio_unregister_group_dev' was false")
	_ = seenToFail("unload-vfio-pci-idle-bound",
		"an open of the device left: 'vfio_pci may leave' was false, want success, got EWOULDBLOCK")
	_ = seenToFail("unload-type1-container",
		"the second group taken out before it should: 'type1 stays with the device closed' was false, want EWOULDBLOCK, got success")
	_ = seenToFail("unload-reload-cycle",
		"the first round's device left open: 'kvm may leave' was false, want success, got EWOULDBLOCK, after 'vfio_iommu_type1: want 0, got 1'")
)
