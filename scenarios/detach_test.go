package scenarios

// All on Debian's 6.12, intel, unless another kernel is named.
var (
	_ = seenToFail("detach-close-order-permutations",
		"the kvm-vfio device not closed: 'order VPDFG: every close gives back its own' was false, after D want vendor 0, got 1, and type1 1 to the end")
	_ = seenToFail("detach-del-reopened-cdev",
		"6.12 built with IOMMUFD, the first DEL by the open that was added: 'DEL by the other open' was false, want ENOENT, got success")
	_ = seenToFail("detach-driver-override-cycle",
		"the bind to e1000e left out: 'round 1: each driver works and lets go' was false, got 'e1000e has it; it is a network interface; e1000e gives it away'")
	_ = seenToFail("detach-file-del-bound",
		"the first DEL left out: 'DEL of a group that is no longer there' was false, want ENOENT, got success")
	_ = seenToFail("detach-fork-child",
		"the heir's close of the device left out: 'the VM is destroyed with the device's last close' was false")
	_ = seenToFail("detach-scm-rights-survivor",
		"the heir's close of the device left out: 'the VM is destroyed with the device's last close' was false, want 0, got 1")
	_ = seenToFail("detach-sigkill-in-vcpu-run",
		"the kill left out: 'everything is back' was false, kvm_amd want 0, got 4, and the next owner's group was EBUSY")
	_ = seenToFail("detach-sigkill-owner",
		"the kill left out: 'kill after \"open /dev/kvm\": everything is back' was false, kvm_amd want 0, got 1; each of the others "+
			"aimed at the first step: 'the kills came at different moments' was false, 3 of 19 steps")
	_ = seenToFail("detach-unbind-sysfs-open",
		"the unbind left out: 'the kernel asks for the device' and 'and waits in vfio_unregister_group_dev' were false, and the device's driver was vfio-pci; "+
			"the device closed before the VM: 'the unbind waits' was false")
)
