package uapi

// VFIODeviceFeatureDMABuf is VFIO_DEVICE_FEATURE for the feature that exports part of a region as a dma-buf.
var VFIODeviceFeatureDMABuf = Request{"VFIO_DEVICE_FEATURE_DMA_BUF", ioc(0, vfioIO, 117, 0)}

// VFIOFeatureGetDMABuf is VFIO_DEVICE_FEATURE_DMA_BUF with VFIO_DEVICE_FEATURE_GET.
const VFIOFeatureGetDMABuf = 11 | 1<<16

// VFIODMABuf is struct vfio_device_feature with struct vfio_device_feature_dma_buf and one range.
type VFIODMABuf struct {
	Argsz     uint32
	Flags     uint32
	Region    uint32
	OpenFlags uint32
	BufFlags  uint32
	Ranges    uint32
	Offset    uint64
	Length    uint64
}
