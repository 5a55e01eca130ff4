package scenarios

var (
	_ = seenToFail("hotplug-del-idle", "device_del left out: 'QEMU has not deleted it' ended the scenario, on 6.12; and "+
		"references of vfio.ko that nobody knew of: 'every reference is back' was false, want 4, got 3, on 6.12")
	_ = seenToFail("hotplug-del-open", "the request's eventfd not registered: 'the kernel asks for the device' was false, on 6.12")
	_ = seenToFail("hotplug-del-mmap-dma", "the page unmapped before the device was closed: unexpected IOMMU fault, on 6.12")
	_ = seenToFail("hotplug-readd-same-bdf", "the device neither unplugged nor plugged in again: 'the device's buffer is that of "+
		"a new device' was false, on 6.12")
	_ = seenToFail("hotplug-slot-power-off", "the slot never switched off: 'the kernel asks for the device' was false, on 6.12; and "+
		"acpiphp's answer to power 1 taken for pciehp's: want ENODEV, got success")
	_ = seenToFail("hotplug-vf-remove-open", "sriov_numvfs not written: 'the kernel asks for the first VF' was false, on 6.12; and a "+
		"register that an offline VF does not have: 'both VFs answer' was false")
)
