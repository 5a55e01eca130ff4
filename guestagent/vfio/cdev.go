package vfio

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// OpenCdev opens a device by its own node, /dev/vfio/devices/vfioN; name is what errors call it. The kernel
// refuses everything of it until BindIOMMUFD.
func OpenCdev(node, name string) (*Device, error) {
	fd, err := uapi.Open(node, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return &Device{uapi.Own(fd, name)}, nil
}

// BindIOMMUFD opens the device behind a cdev's descriptor, as one of an IOMMUFD, in which it has the returned id.
func (d *Device) BindIOMMUFD(iommufd int) (uint32, error) {
	req := uapi.VFIOBindIOMMUFD{IOMMUFD: int32(iommufd)}
	req.Argsz = uint32(unsafe.Sizeof(req))
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceBindIOMMUFD, &req)
	return req.ID, err
}

// AttachIOMMUFD has the device's DMA go through an IOAS, by its id, from now on. It returns the id of the hardware
// page table (HWPT) that the kernel chose.
func (d *Device) AttachIOMMUFD(ioas uint32) (uint32, error) {
	req := uapi.VFIOAttachIOMMUFD{ID: ioas}
	req.Argsz = uint32(unsafe.Sizeof(req))
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceAttachIOMMUFD, &req)
	return req.ID, err
}

// DetachIOMMUFD undoes AttachIOMMUFD: the device's DMA is blocked.
func (d *Device) DetachIOMMUFD() error {
	req := uapi.VFIODetachIOMMUFD{}
	req.Argsz = uint32(unsafe.Sizeof(req))
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceDetachIOMMUFD, &req)
	return err
}
