package scenarios

// All on 6.12, intel, by a change to the scenario that takes away what it is about, unless it says otherwise.
var (
	_ = seenToFail("iommu-dma-after-unmap", "UNMAP left out: 'no byte of the unmapped page changed', want 4096, got 1")
	_ = seenToFail("iommu-fault-unmapped",
		"the page mapped where nothing should be: 'the IOMMU refuses the write', want 1, got 0, and its 4 bytes changed")
	_ = seenToFail("iommu-readonly-map-write",
		"the page mapped to be written too: 'no byte changed', want 4096, got 4032, and no fault")
	_ = seenToFail("iommu-map-negative",
		"the limits not set: 'one too many', want ENOSPC, got success; 'one page too many', want ENOMEM, got success")
	_ = seenToFail("iommu-memlock-accounting",
		"UNMAP of another address: 'pages locked: the hundred are gone', want 1, got 101, and as many pinned")
	_ = seenToFail("iommu-munmap-pinned",
		"munmap and the new mapping left out: 'the device writes nothing of it', want 4096, got 3840")
	_ = seenToFail("iommu-fork-cow",
		"@fork-then-map on 5.10, which pins the shared page: 'the device reads what the parent wrote' false; "+
			"@map-then-fork with the parent given a new page after the fork, as a copy would: the same")
)
