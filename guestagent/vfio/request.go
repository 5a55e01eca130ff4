package vfio

import (
	"unsafe"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// SignalRequests makes the kernel's requests for the device, which somebody wants to have back, signal an
// eventfd, which stays the caller's.
func (d *Device) SignalRequests(eventfd int) error {
	set := uapi.VFIOIRQSet{
		Flags: uapi.VFIOIRQDataEventFD | uapi.VFIOIRQActionTrigger,
		Index: uapi.VFIOPCIRequest,
		Count: 1,
		FD:    int32(eventfd),
	}
	set.Argsz = uint32(unsafe.Sizeof(set))
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceSetIRQs, &set)
	return err
}
