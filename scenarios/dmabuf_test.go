package scenarios

var (
	_ = seenToFail("dmabuf-lifetime", "the first dma-buf left open: 'a closed dma-buf holds nothing' was false, want 1, got 2, "+
		"and vfio_pci_core did not unload, on 7.3")
	_ = seenToFail("dmabuf-revoke", "COMMAND.MEM never cleared: 'the importers are told that the memory went' was false, "+
		"want 1, got 0, on 7.3")
)
