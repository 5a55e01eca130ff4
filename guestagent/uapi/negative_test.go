package uapi

import (
	"testing"

	"gotest.tools/v3/assert"
)

// The numbers come from a C program compiled against the kernel's own headers.
func TestNegative(t *testing.T) {
	assert.Equal(t, KVMCreateDeviceTest, 1)
	for _, c := range []struct {
		req  Request
		want uintptr
	}{
		{KVMGetDeviceAttr, 0x4018aee2},
		{KVMHasDeviceAttr, 0x4018aee3},
		{VFIOBase("VFIO_GROUP_UNSET_CONTAINER", 5), 0x3b69},
		{VFIOBase("VFIO_DEVICE_GET_IRQ_INFO", 9), 0x3b6d},
		{VFIOBase("VFIO_DEVICE_RESET", 11), 0x3b6f},
		{VFIOBase("VFIO_DEVICE_PCI_HOT_RESET", 13), 0x3b71},
		{VFIOBase("VFIO_DEVICE_FEATURE", 17), 0x3b75},
	} {
		assert.Equal(t, c.req.Number, c.want, c.req.Name)
	}
	assert.Equal(t, VFIOPCIRequest, 4)
}
