package uapi

const vfioIO = ';' // VFIO_TYPE; VFIO's ioctls carry no size, their structs do (argsz)

// The VFIO ioctls that the agent uses.
var (
	VFIOGetAPIVersion       = Request{"VFIO_GET_API_VERSION", ioc(0, vfioIO, 100, 0)}
	VFIOSetIOMMU            = Request{"VFIO_SET_IOMMU", ioc(0, vfioIO, 102, 0)}
	VFIOGroupGetStatus      = Request{"VFIO_GROUP_GET_STATUS", ioc(0, vfioIO, 103, 0)}
	VFIOGroupSetContainer   = Request{"VFIO_GROUP_SET_CONTAINER", ioc(0, vfioIO, 104, 0)}
	VFIOGroupGetDeviceFD    = Request{"VFIO_GROUP_GET_DEVICE_FD", ioc(0, vfioIO, 106, 0)}
	VFIODeviceGetInfo       = Request{"VFIO_DEVICE_GET_INFO", ioc(0, vfioIO, 107, 0)}
	VFIODeviceGetRegionInfo = Request{"VFIO_DEVICE_GET_REGION_INFO", ioc(0, vfioIO, 108, 0)}
	VFIODeviceSetIRQs       = Request{"VFIO_DEVICE_SET_IRQS", ioc(0, vfioIO, 110, 0)}
	VFIOIOMMUMapDMA         = Request{"VFIO_IOMMU_MAP_DMA", ioc(0, vfioIO, 113, 0)}
	VFIOIOMMUUnmapDMA       = Request{"VFIO_IOMMU_UNMAP_DMA", ioc(0, vfioIO, 114, 0)}
)

// VFIOAPIVersion is what VFIO_GET_API_VERSION answers.
const VFIOAPIVersion = 0

// VFIOType1v2IOMMU is the type1 IOMMU whose UNMAP never splits a mapping.
const VFIOType1v2IOMMU = 3

// Flags of group and device status.
const (
	VFIOGroupViable = 1 << 0 // VFIO_GROUP_FLAGS_VIABLE
	VFIODevicePCI   = 1 << 1 // VFIO_DEVICE_FLAGS_PCI
)

// Region and interrupt indices of a PCI device.
const (
	VFIOPCIBAR0   = 0 // VFIO_PCI_BAR0_REGION_INDEX
	VFIOPCIConfig = 7 // VFIO_PCI_CONFIG_REGION_INDEX
	VFIOPCIMSI    = 1 // VFIO_PCI_MSI_IRQ_INDEX
)

// Flags of VFIO_DEVICE_SET_IRQS.
const (
	VFIOIRQDataEventFD   = 1 << 2
	VFIOIRQActionTrigger = 1 << 5
)

// Flags of VFIO_IOMMU_MAP_DMA.
const (
	VFIODMARead  = 1 << 0
	VFIODMAWrite = 1 << 1
)

// VFIOGroupStatus is struct vfio_group_status.
type VFIOGroupStatus struct {
	Argsz uint32
	Flags uint32
}

// VFIODeviceInfo is struct vfio_device_info without cap_offset, which later kernels appended: argsz says
// how much the caller knows.
type VFIODeviceInfo struct {
	Argsz      uint32
	Flags      uint32
	NumRegions uint32
	NumIRQs    uint32
}

// VFIORegionInfo is struct vfio_region_info.
type VFIORegionInfo struct {
	Argsz     uint32
	Flags     uint32
	Index     uint32
	CapOffset uint32
	Size      uint64
	Offset    uint64
}

// VFIOIRQSet is struct vfio_irq_set with room for one eventfd.
type VFIOIRQSet struct {
	Argsz uint32
	Flags uint32
	Index uint32
	Start uint32
	Count uint32
	FD    int32 // data[0]
}

// VFIODMAMap is struct vfio_iommu_type1_dma_map.
type VFIODMAMap struct {
	Argsz uint32
	Flags uint32
	VAddr uint64
	IOVA  uint64
	Size  uint64
}

// VFIODMAUnmap is struct vfio_iommu_type1_dma_unmap.
type VFIODMAUnmap struct {
	Argsz uint32
	Flags uint32
	IOVA  uint64
	Size  uint64
}
