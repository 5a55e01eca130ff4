package scenarios

// Each of these left one thing out of the scenario; 6.12, intel.
var (
	_ = seenToFail("irq-msi-irqfd-lapic", "the APIC left disabled: 'the APIC is asked for the vector, and for no other' was false, want [65], got []")
	_ = seenToFail("irq-intx-resample", "VFIO not told of the EOI's eventfd: 'the handler ran a thousand times' was false, want 1002, got 3")
	_ = seenToFail("irq-intx-null-trigger", "the eventfd left in place: 'the eventfd of before is not signalled' was false")
	_ = seenToFail("irq-msix-cycle", "the third vector's eventfd left in place: 'its reference of irqbypass' was false, want 4, got 5, "+
		"and 'the others signal, it does not', want [1 1 0 1 1], got [1 1 1 1 1]")
	_ = seenToFail("irq-close-vm-inflight", "close of the VM left out: 'the next one stays in the eventfd' was false, want 1, got 0, "+
		"and 'not in the APIC of a vCPU that is still there', want [], got [65]; INTx disabled: 'it is pending in the VM's PIC' was false in every "+
		"order, want [5], got []")
)
