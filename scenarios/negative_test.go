package scenarios

// Both on Debian's 6.12, intel.
var (
	_ = seenToFail("neg-kvm-vfio-errno",
		"the DEL of the valid pair left out: 'DEL of a group that was not added' was false, want ENOENT, got success, and every valid ADD after a refusal EEXIST")
	_ = seenToFail("neg-vfio-errno",
		"the UNMAP of the valid pair left out: every valid MAP after a refusal was EEXIST; and on 7.3 and 7.2 by wrong claims about their kernels, 'an IOVA that wraps' want EINVAL, got EOVERFLOW")
)
