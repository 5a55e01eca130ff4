// Package vfio wraps VFIO's two ways to a device: the legacy one, a container with a type1 IOMMU, a group and
// the device in it, and the device's own node, which is bound to an IOMMUFD. One type for each file descriptor
// and its owner.
//
// Calls return the kernel's errors and judge nothing. An IOMMUFD and its objects are package iommufd's. Binding a device to vfio-pci is sysfs and lives in
// package pci; what a device does with its registers is not here either.
package vfio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// ContainerPath is the node of a container.
const ContainerPath = "/dev/vfio/vfio"

// Container is an open /dev/vfio/vfio.
type Container struct{ uapi.Desc }

// OpenContainer opens a container and checks its API version.
func OpenContainer() (*Container, error) {
	fd, err := uapi.Open(ContainerPath, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	c := &Container{uapi.Own(fd, "container")}
	version, err := uapi.Ioctl(fd, c.Name(), uapi.VFIOGetAPIVersion, 0)
	if err == nil && version != uapi.VFIOAPIVersion {
		err = fmt.Errorf("%s: API version %d, want %d", ContainerPath, version, uapi.VFIOAPIVersion)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// SetIOMMU gives the container its IOMMU type; a group must be attached.
func (c *Container) SetIOMMU(iommu uintptr) error {
	_, err := uapi.Ioctl(c.FD(), c.Name(), uapi.VFIOSetIOMMU, iommu)
	return err
}

// Map lets devices of the container's groups reach mem at iova, to read and to write. The memory stays the
// caller's, and must outlive the mapping and not be the Go heap's.
func (c *Container) Map(mem []byte, iova uint64) error {
	req := uapi.VFIODMAMap{
		Flags: uapi.VFIODMARead | uapi.VFIODMAWrite,
		VAddr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))),
		IOVA:  iova,
		Size:  uint64(len(mem)),
	}
	req.Argsz = uint32(unsafe.Sizeof(req))
	_, err := uapi.IoctlPtr(c.FD(), c.Name(), uapi.VFIOIOMMUMapDMA, &req)
	return err
}

// Unmap undoes mappings within [iova, iova+size) and returns how many bytes it unmapped.
func (c *Container) Unmap(iova, size uint64) (uint64, error) {
	req := uapi.VFIODMAUnmap{IOVA: iova, Size: size}
	req.Argsz = uint32(unsafe.Sizeof(req))
	_, err := uapi.IoctlPtr(c.FD(), c.Name(), uapi.VFIOIOMMUUnmapDMA, &req)
	return req.Size, err
}

// Group is an open /dev/vfio/N.
type Group struct{ uapi.Desc }

// OpenGroup opens a group by its number.
func OpenGroup(number int) (*Group, error) {
	path := "/dev/vfio/" + strconv.Itoa(number)
	fd, err := uapi.Open(path, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return &Group{uapi.Own(fd, "group "+strconv.Itoa(number))}, nil
}

// Viable reports whether every device of the group is bound to VFIO or to nothing.
func (g *Group) Viable() (bool, error) {
	status := uapi.VFIOGroupStatus{}
	status.Argsz = uint32(unsafe.Sizeof(status))
	_, err := uapi.IoctlPtr(g.FD(), g.Name(), uapi.VFIOGroupGetStatus, &status)
	return status.Flags&uapi.VFIOGroupViable != 0, err
}

// SetContainer attaches the group to a container.
func (g *Group) SetContainer(c *Container) error {
	fd := int32(c.FD())
	_, err := uapi.IoctlPtr(g.FD(), g.Name(), uapi.VFIOGroupSetContainer, &fd)
	return err
}

// UnsetContainer takes the group out of its container.
func (g *Group) UnsetContainer() error {
	_, err := uapi.Ioctl(g.FD(), g.Name(), uapi.VFIOGroupUnsetContainer, 0)
	return err
}

// Device opens a device of the group by its name, for PCI its address.
func (g *Group) Device(name string) (*Device, error) {
	cname, err := unix.BytePtrFromString(name)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", name, g.Name(), err)
	}
	fd, err := uapi.IoctlPtr(g.FD(), g.Name()+" "+name, uapi.VFIOGroupGetDeviceFD, cname)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return &Device{uapi.Own(fd, name)}, nil
}

// Device is a VFIO device's descriptor, its group's or its own.
type Device struct{ uapi.Desc }

// Info is what VFIO_DEVICE_GET_INFO says.
type Info struct {
	PCI           bool
	Regions, IRQs int
}

// Info asks the device what it is.
func (d *Device) Info() (Info, error) {
	info := uapi.VFIODeviceInfo{}
	info.Argsz = uint32(unsafe.Sizeof(info))
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceGetInfo, &info)
	return Info{
		PCI:     info.Flags&uapi.VFIODevicePCI != 0,
		Regions: int(info.NumRegions),
		IRQs:    int(info.NumIRQs),
	}, err
}

// Region finds a region by its index.
func (d *Device) Region(index int) (*Region, error) {
	info := uapi.VFIORegionInfo{Index: uint32(index)}
	info.Argsz = uint32(unsafe.Sizeof(info))
	if _, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceGetRegionInfo, &info); err != nil {
		return nil, err
	}
	return &Region{dev: d, name: fmt.Sprintf("%s region %d", d.Name(), index), size: info.Size, offset: info.Offset}, nil
}

// EnableMSI makes the device's first MSI vector signal an eventfd, which stays the caller's.
func (d *Device) EnableMSI(eventfd int) error {
	set := uapi.VFIOIRQSet{
		Flags: uapi.VFIOIRQDataEventFD | uapi.VFIOIRQActionTrigger,
		Index: uapi.VFIOPCIMSI,
		Count: 1,
		FD:    int32(eventfd),
	}
	set.Argsz = uint32(unsafe.Sizeof(set))
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceSetIRQs, &set)
	return err
}

// EnableDMA sets memory decoding and bus mastering in the device's COMMAND register. VFIO opens a device
// with both off, and a device that may not master the bus moves nothing and faults nothing.
func (d *Device) EnableDMA() error {
	config, err := d.Region(uapi.VFIOPCIConfig)
	if err != nil {
		return err
	}
	const (
		command = 0x04 // PCI_COMMAND
		memory  = 1 << 1
		master  = 1 << 2
	)
	var reg [2]byte
	if err := config.read(reg[:], command); err != nil {
		return err
	}
	binary.LittleEndian.PutUint16(reg[:], binary.LittleEndian.Uint16(reg[:])|memory|master)
	return config.write(reg[:], command)
}

// Region is a part of a device that pread(2) and pwrite(2) on its descriptor reach.
type Region struct {
	dev    *Device
	name   string
	size   uint64
	offset uint64
}

// Read32 reads a little-endian register in one access.
func (r *Region) Read32(at uint64) (uint32, error) {
	var b [4]byte
	err := r.read(b[:], at)
	return binary.LittleEndian.Uint32(b[:]), err
}

// Write32 writes a little-endian register in one access.
func (r *Region) Write32(at uint64, value uint32) error {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], value)
	return r.write(b[:], at)
}

func (r *Region) read(b []byte, at uint64) error  { return r.access("pread", unix.Pread, b, at) }
func (r *Region) write(b []byte, at uint64) error { return r.access("pwrite", unix.Pwrite, b, at) }

func (r *Region) access(op string, call func(int, []byte, int64) (int, error), b []byte, at uint64) error {
	if n := uint64(len(b)); at > r.size || n > r.size-at {
		return fmt.Errorf("%s %s: %d bytes at %#x of %#x", op, r.name, n, at, r.size)
	}
	n, err := call(r.dev.FD(), b, int64(r.offset+at))
	if err != nil {
		errno, _ := errors.AsType[unix.Errno](err)
		return &uapi.Error{Op: op, Object: fmt.Sprintf("%s at %#x", r.name, at), Errno: errno}
	}
	if n != len(b) {
		return fmt.Errorf("%s %s at %#x: %d of %d bytes", op, r.name, at, n, len(b))
	}
	return nil
}
