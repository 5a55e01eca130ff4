package uapi

// The VFIO ioctls that reset a device or set what it offers besides regions and interrupts.
var (
	VFIODeviceReset           = Request{"VFIO_DEVICE_RESET", ioc(0, vfioIO, 111, 0)}
	VFIODeviceGetHotResetInfo = Request{"VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", ioc(0, vfioIO, 112, 0)}
	VFIODeviceHotReset        = Request{"VFIO_DEVICE_PCI_HOT_RESET", ioc(0, vfioIO, 113, 0)}
	VFIODeviceFeatureRequest  = Request{"VFIO_DEVICE_FEATURE", ioc(0, vfioIO, 117, 0)}
)

// VFIODeviceResets is VFIO_DEVICE_FLAGS_RESET of VFIO_DEVICE_GET_INFO: the device can be reset.
const VFIODeviceResets = 1 << 0

// What VFIO_DEVICE_FEATURE is asked for, besides the feature's index in the low 16 bits.
const (
	VFIOFeatureGet   = 1 << 16
	VFIOFeatureSet   = 1 << 17
	VFIOFeatureProbe = 1 << 18
)

// Indices of features.
const (
	VFIOFeatureLowPowerEntry           = 3
	VFIOFeatureLowPowerEntryWithWakeup = 4
	VFIOFeatureLowPowerExit            = 5
)

// VFIOHotResetDevice is struct vfio_pci_dependent_device.
type VFIOHotResetDevice struct {
	Group   uint32
	Segment uint16
	Bus     uint8
	DevFn   uint8
}

// VFIOHotResetInfo is struct vfio_pci_hot_reset_info with room for some devices.
type VFIOHotResetInfo struct {
	Argsz   uint32
	Flags   uint32
	Count   uint32
	Devices [8]VFIOHotResetDevice
}

// VFIOHotReset is struct vfio_pci_hot_reset with room for some groups.
type VFIOHotReset struct {
	Argsz  uint32
	Flags  uint32
	Count  uint32
	Groups [8]int32
}

// VFIODeviceFeature is struct vfio_device_feature with the data of LOW_POWER_ENTRY_WITH_WAKEUP.
type VFIODeviceFeature struct {
	Argsz         uint32
	Flags         uint32
	WakeupEventFD int32 // struct vfio_device_low_power_entry_with_wakeup
	_             uint32
}
