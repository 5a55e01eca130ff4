package scenarios

// All on Debian's 6.12, intel.
var (
	_ = seenToFail("detach-close-order-permutations",
		"the kvm-vfio device not closed: 'order VPDFG: every close gives back its own' was false, after D want vendor 0, got 1, and type1 1 to the end")
	_ = seenToFail("detach-driver-override-cycle",
		"the bind to e1000e left out: 'round 1: each driver works and lets go' was false, got 'e1000e has it; it is a network interface; e1000e gives it away'")
	_ = seenToFail("detach-file-del-bound",
		"the first DEL left out: 'DEL of a group that is no longer there' was false, want ENOENT, got success")
)
