package uapi

import (
	"testing"
	"unsafe"

	"gotest.tools/v3/assert"
)

// The numbers come from a C program compiled against the kernel's own headers.
func TestReset(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"vfio_pci_dependent_device", unsafe.Sizeof(VFIOHotResetDevice{}), 8},
		{"vfio_pci_hot_reset_info", unsafe.Offsetof(VFIOHotResetInfo{}.Devices), 12},
		{"vfio_pci_hot_reset", unsafe.Offsetof(VFIOHotReset{}.Groups), 12},
		{"vfio_device_feature", unsafe.Offsetof(VFIODeviceFeature{}.WakeupEventFD), 8},
		{"vfio_device_feature and its data", unsafe.Sizeof(VFIODeviceFeature{}), 8 + 8},
		{VFIODeviceReset.Name, VFIODeviceReset.Number, 0x3b6f},
		{VFIODeviceGetHotResetInfo.Name, VFIODeviceGetHotResetInfo.Number, 0x3b70},
		{VFIODeviceHotReset.Name, VFIODeviceHotReset.Number, 0x3b71},
		{VFIODeviceFeatureRequest.Name, VFIODeviceFeatureRequest.Number, 0x3b75},
	} {
		assert.Equal(t, c.got, c.want, c.name)
	}
}
