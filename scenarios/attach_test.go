package scenarios

// How the scenarios of the area attach were seen to fail: bugs of kernels, and faults put into the scenario or its
// verbs by hand, on stock 6.12 with intel-iommu unless another kernel is named.
var (
	_ = seenToFail("attach-add-before-vs-after-open",
		"the VM told after the open in the first step: 'the open holds one reference of kvm' was false, want 1, got 0")
	_ = seenToFail("attach-cdev-double-bind-kvm",
		"6.12.117 built with IOMMUFD: 'the refused BIND leaks no VM' was false, and a reference of kvm, the VM and its memory stay for good")
	_ = seenToFail("attach-cdev-double-bind-nokvm",
		"6.12.117 built with IOMMUFD: 'the refused BIND puts no VM' was false, want 1, got 0, and the VM went before its device; "+
			"a duplicate of /dev/iommu left: 'references of iommufd are back', 'open files' and 'allocations' were false")
	_ = seenToFail("attach-cdev-iommufd",
		"the VM told after BIND, 6.12 built with IOMMUFD: 'the device is bound to the IOMMUFD: references of kvm' was false, want 1, got 0")
	_ = seenToFail("attach-group-container",
		"one more open of the device kept over its close: 'the last close gives vfio_pci back' was false, want 0, got 1")
	_ = seenToFail("attach-group-vs-cdev-exclusion",
		"the group not closed, 6.12 built with IOMMUFD: 'the group opens again' was false, want success, got EBUSY")
	_ = seenToFail("attach-late-group-add",
		"the VM told before the first open: 'the open before the VM was known holds nothing of kvm' was false, want 0, got 1")
	_ = seenToFail("attach-multi-open-group",
		"all three descriptors closed at the first close: 'close 1 of 3 gives nothing of kvm back' was false, want 1, got 0")
	_ = seenToFail("attach-two-devices-one-vm",
		"the VM not told of the second device: 'and the second device another' was false, want 2, got 1")
	_ = seenToFail("attach-unsafe-irq-eperm",
		"allow_unsafe_interrupts left at Y: 'SET_IOMMU is refused' was false, want EPERM, got success")
)

var _ = seenToFail("attach-refcount-trace",
	"the close of /dev/kvm left out: '/dev/kvm is closed: references of kvm_amd' was false, want 1, got 2, on 6.12")
