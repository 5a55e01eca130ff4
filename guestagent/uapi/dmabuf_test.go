package uapi

import (
	"testing"
	"unsafe"

	"gotest.tools/v3/assert"
)

// From a C program compiled against the headers of 7.3.
func TestDMABuf(t *testing.T) {
	assert.Equal(t, unsafe.Offsetof(VFIODMABuf{}.Region), uintptr(8), "vfio_device_feature")
	assert.Equal(t, unsafe.Offsetof(VFIODMABuf{}.Offset), uintptr(8+16), "vfio_device_feature_dma_buf.dma_ranges")
	assert.Equal(t, unsafe.Sizeof(VFIODMABuf{}), uintptr(8+16+16), "with one vfio_region_dma_range")
	assert.Equal(t, VFIODeviceFeatureDMABuf.Number, uintptr(0x3b75), "VFIO_DEVICE_FEATURE")
	assert.Equal(t, VFIOFeatureGetDMABuf, 0x1000b)
	assert.Equal(t, VFIOPCIRequest, 4, "VFIO_PCI_REQ_IRQ_INDEX")
}
