package vfio

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// DMABuf is a part of a device's region that was exported for other devices to reach.
type DMABuf struct {
	uapi.Desc
	size int
}

// ExportDMABuf exports size bytes of a region from offset on.
func (d *Device) ExportDMABuf(region int, offset, size uint64) (*DMABuf, error) {
	req := uapi.VFIODMABuf{
		Flags: uapi.VFIOFeatureGetDMABuf, Region: uint32(region), OpenFlags: unix.O_RDWR | unix.O_CLOEXEC,
		Ranges: 1, Offset: offset, Length: size,
	}
	req.Argsz = uint32(unsafe.Sizeof(req))
	name := fmt.Sprintf("%s region %d", d.Name(), region)
	fd, err := uapi.IoctlPtr(d.FD(), name, uapi.VFIODeviceFeatureDMABuf, &req)
	if err != nil {
		return nil, err
	}
	return &DMABuf{uapi.Own(fd, "dma-buf of "+name), int(size)}, nil
}

// Size is what lseek(2) says.
func (b *DMABuf) Size() (int64, error) {
	n, err := unix.Seek(b.FD(), 0, unix.SEEK_END)
	if err != nil {
		errno, _ := errors.AsType[unix.Errno](err)
		return 0, &uapi.Error{Op: "lseek", Object: b.Name(), Errno: errno}
	}
	return n, nil
}

// Mmap maps the buffer for the CPU.
func (b *DMABuf) Mmap() (*Mapping, error) { return mapShared(b.FD(), b.Name(), 0, b.size) }
