package vfio

import (
	"unsafe"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// Memory is a mapping as VFIO_IOMMU_MAP_DMA is asked for it: any address, any size, any flags. The kernel
// judges it.
type Memory struct {
	Flags uint32
	VAddr uintptr
	IOVA  uint64
	Size  uint64
	Argsz uint32 // 0: the struct's own size
}

// AddressOf is the address of memory that the Go heap does not own.
func AddressOf(mem []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mem))) }

// MapMemory maps what Map cannot say: other flags, other sizes, and what the kernel must refuse.
func (c *Container) MapMemory(m Memory) error {
	req := uapi.VFIODMAMap{Argsz: m.Argsz, Flags: m.Flags, VAddr: uint64(m.VAddr), IOVA: m.IOVA, Size: m.Size}
	if req.Argsz == 0 {
		req.Argsz = uint32(unsafe.Sizeof(req))
	}
	_, err := uapi.IoctlPtr(c.FD(), c.Name(), uapi.VFIOIOMMUMapDMA, &req)
	return err
}
