package uapi

const iommufdIO = ';' // IOMMUFD_TYPE; IOMMUFD's ioctls carry no size, their structs do (size)

// The ioctls of IOMMUFD that the agent uses.
var (
	IOMMUDestroy   = Request{"IOMMU_DESTROY", ioc(0, iommufdIO, 0x80, 0)}
	IOMMUIOASAlloc = Request{"IOMMU_IOAS_ALLOC", ioc(0, iommufdIO, 0x81, 0)}
	IOMMUIOASMap   = Request{"IOMMU_IOAS_MAP", ioc(0, iommufdIO, 0x85, 0)}
	IOMMUIOASUnmap = Request{"IOMMU_IOAS_UNMAP", ioc(0, iommufdIO, 0x86, 0)}
)

// The ioctls of a VFIO device that join it to an IOMMUFD. They are a cdev's; a group's device has none of them.
var (
	VFIODeviceBindIOMMUFD   = Request{"VFIO_DEVICE_BIND_IOMMUFD", ioc(0, vfioIO, 118, 0)}
	VFIODeviceAttachIOMMUFD = Request{"VFIO_DEVICE_ATTACH_IOMMUFD_PT", ioc(0, vfioIO, 119, 0)}
	VFIODeviceDetachIOMMUFD = Request{"VFIO_DEVICE_DETACH_IOMMUFD_PT", ioc(0, vfioIO, 120, 0)}
)

// Flags of IOMMU_IOAS_MAP.
const (
	IOMMUMapFixedIOVA = 1 << 0
	IOMMUMapWriteable = 1 << 1
	IOMMUMapReadable  = 1 << 2
)

// IOMMUDestroyArgs is struct iommu_destroy.
type IOMMUDestroyArgs struct {
	Size uint32
	ID   uint32
}

// IOMMUIOASAllocArgs is struct iommu_ioas_alloc.
type IOMMUIOASAllocArgs struct {
	Size  uint32
	Flags uint32
	ID    uint32 // out_ioas_id
}

// IOMMUIOASMapArgs is struct iommu_ioas_map.
type IOMMUIOASMapArgs struct {
	Size   uint32
	Flags  uint32
	ID     uint32 // ioas_id
	_      uint32
	VAddr  uint64 // user_va
	Length uint64
	IOVA   uint64
}

// IOMMUIOASUnmapArgs is struct iommu_ioas_unmap.
type IOMMUIOASUnmapArgs struct {
	Size   uint32
	ID     uint32 // ioas_id
	IOVA   uint64
	Length uint64
}

// VFIOBindIOMMUFD is struct vfio_device_bind_iommufd without token_uuid_ptr, which later kernels appended.
type VFIOBindIOMMUFD struct {
	Argsz   uint32
	Flags   uint32
	IOMMUFD int32
	ID      uint32 // out_devid
}

// VFIOAttachIOMMUFD is struct vfio_device_attach_iommufd_pt without pasid, which later kernels appended.
type VFIOAttachIOMMUFD struct {
	Argsz uint32
	Flags uint32
	ID    uint32 // pt_id: of an IOAS or HWPT, and of the HWPT in the answer
}

// VFIODetachIOMMUFD is struct vfio_device_detach_iommufd_pt without pasid, which later kernels appended.
type VFIODetachIOMMUFD struct {
	Argsz uint32
	Flags uint32
}
