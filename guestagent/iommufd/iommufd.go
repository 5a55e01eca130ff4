// Package iommufd wraps /dev/iommu: a context and the I/O address spaces (IOAS) in it.
//
// Calls return the kernel's errors and judge nothing. To bind a device to a context and to attach it to an IOAS
// are ioctls of the device's and live in package vfio.
package iommufd

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// Path is the node of a context.
const Path = "/dev/iommu"

// Context is an open /dev/iommu. Its objects go with its last descriptor and the last device that is bound to it.
type Context struct{ uapi.Desc }

// Open opens a context.
func Open() (*Context, error) {
	fd, err := uapi.Open(Path, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return &Context{uapi.Own(fd, "IOMMUFD")}, nil
}

// IOAS is an I/O address space, an object of its context.
type IOAS struct {
	context *Context
	id      uint32
}

// AllocIOAS makes an address space with nothing in it.
func (c *Context) AllocIOAS() (*IOAS, error) {
	req := uapi.IOMMUIOASAllocArgs{}
	req.Size = uint32(unsafe.Sizeof(req))
	if _, err := uapi.IoctlPtr(c.FD(), c.Name(), uapi.IOMMUIOASAlloc, &req); err != nil {
		return nil, err
	}
	return &IOAS{c, req.ID}, nil
}

// ID is the object's in its context.
func (s *IOAS) ID() uint32 { return s.id }

func (s *IOAS) name() string { return fmt.Sprintf("IOAS %d", s.id) }

// Map lets devices that are attached reach mem at iova, to read and to write. The memory stays the caller's, and
// must outlive the mapping and not be the Go heap's.
func (s *IOAS) Map(mem []byte, iova uint64) error {
	req := uapi.IOMMUIOASMapArgs{
		Flags:  uapi.IOMMUMapFixedIOVA | uapi.IOMMUMapReadable | uapi.IOMMUMapWriteable,
		ID:     s.id,
		VAddr:  uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))),
		Length: uint64(len(mem)),
		IOVA:   iova,
	}
	req.Size = uint32(unsafe.Sizeof(req))
	_, err := uapi.IoctlPtr(s.context.FD(), s.name(), uapi.IOMMUIOASMap, &req)
	return err
}

// Unmap undoes the mappings that make up [iova, iova+size) and returns how many bytes it unmapped.
func (s *IOAS) Unmap(iova, size uint64) (uint64, error) {
	req := uapi.IOMMUIOASUnmapArgs{ID: s.id, IOVA: iova, Length: size}
	req.Size = uint32(unsafe.Sizeof(req))
	_, err := uapi.IoctlPtr(s.context.FD(), s.name(), uapi.IOMMUIOASUnmap, &req)
	return req.Length, err
}

// Destroy removes the address space and what is mapped in it; EBUSY while a device is attached.
func (s *IOAS) Destroy() error {
	req := uapi.IOMMUDestroyArgs{ID: s.id}
	req.Size = uint32(unsafe.Sizeof(req))
	_, err := uapi.IoctlPtr(s.context.FD(), s.name(), uapi.IOMMUDestroy, &req)
	return err
}
