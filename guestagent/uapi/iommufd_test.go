package uapi

import (
	"testing"
	"unsafe"

	"gotest.tools/v3/assert"
)

// The numbers come from a C program compiled against the headers of Linux 6.12.
func TestIOMMUFD(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"iommu_destroy", unsafe.Sizeof(IOMMUDestroyArgs{}), 8},
		{"iommu_ioas_alloc", unsafe.Sizeof(IOMMUIOASAllocArgs{}), 12},
		{"iommu_ioas_alloc.out_ioas_id", unsafe.Offsetof(IOMMUIOASAllocArgs{}.ID), 8},
		{"iommu_ioas_map", unsafe.Sizeof(IOMMUIOASMapArgs{}), 40},
		{"iommu_ioas_map.user_va", unsafe.Offsetof(IOMMUIOASMapArgs{}.VAddr), 16},
		{"iommu_ioas_map.iova", unsafe.Offsetof(IOMMUIOASMapArgs{}.IOVA), 32},
		{"iommu_ioas_unmap", unsafe.Sizeof(IOMMUIOASUnmapArgs{}), 24},
		{"iommu_ioas_unmap.iova", unsafe.Offsetof(IOMMUIOASUnmapArgs{}.IOVA), 8},
		{"vfio_device_bind_iommufd up to out_devid", unsafe.Sizeof(VFIOBindIOMMUFD{}), 16},
		{"vfio_device_bind_iommufd.out_devid", unsafe.Offsetof(VFIOBindIOMMUFD{}.ID), 12},
		{"vfio_device_attach_iommufd_pt up to pt_id", unsafe.Sizeof(VFIOAttachIOMMUFD{}), 12},
		{"vfio_device_attach_iommufd_pt.pt_id", unsafe.Offsetof(VFIOAttachIOMMUFD{}.ID), 8},
		{"vfio_device_detach_iommufd_pt up to flags", unsafe.Sizeof(VFIODetachIOMMUFD{}), 8},
		{IOMMUDestroy.Name, IOMMUDestroy.Number, 0x3b80},
		{IOMMUIOASAlloc.Name, IOMMUIOASAlloc.Number, 0x3b81},
		{IOMMUIOASMap.Name, IOMMUIOASMap.Number, 0x3b85},
		{IOMMUIOASUnmap.Name, IOMMUIOASUnmap.Number, 0x3b86},
		{VFIODeviceBindIOMMUFD.Name, VFIODeviceBindIOMMUFD.Number, 0x3b76},
		{VFIODeviceAttachIOMMUFD.Name, VFIODeviceAttachIOMMUFD.Number, 0x3b77},
		{VFIODeviceDetachIOMMUFD.Name, VFIODeviceDetachIOMMUFD.Number, 0x3b78},
		{"IOMMU_IOAS_MAP_FIXED_IOVA", IOMMUMapFixedIOVA, 1},
		{"IOMMU_IOAS_MAP_WRITEABLE", IOMMUMapWriteable, 2},
		{"IOMMU_IOAS_MAP_READABLE", IOMMUMapReadable, 4},
	} {
		assert.Equal(t, c.got, c.want, c.name)
	}
}
