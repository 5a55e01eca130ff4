package vfio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// IRQInfo is what VFIO_DEVICE_GET_IRQ_INFO says of one of a device's kinds of interrupt.
type IRQInfo struct {
	Count      int // of vectors
	EventFD    bool
	Maskable   bool
	Automasked bool // each signal masks the interrupt until the user unmasks it
}

// IRQInfo asks about an index: uapi.VFIOPCIINTx, VFIOPCIMSI or VFIOPCIMSIX.
func (d *Device) IRQInfo(index int) (IRQInfo, error) {
	info := uapi.VFIOIRQInfo{Index: uint32(index)}
	info.Argsz = uint32(unsafe.Sizeof(info))
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceGetIRQInfo, &info)
	return IRQInfo{
		Count:      int(info.Count),
		EventFD:    info.Flags&uapi.VFIOIRQInfoEventFD != 0,
		Maskable:   info.Flags&uapi.VFIOIRQInfoMaskable != 0,
		Automasked: info.Flags&uapi.VFIOIRQInfoAutomasked != 0,
	}, err
}

// SetTriggers has the vectors from start on signal these eventfds, -1 being none. It is what enables an
// index; the first such call also says how many vectors it has.
func (d *Device) SetTriggers(index, start int, eventfds ...int) error {
	return d.setIRQs(uapi.VFIOIRQDataEventFD|uapi.VFIOIRQActionTrigger, index, start, len(eventfds), words(eventfds))
}

// Trigger signals count vectors from start on as the device would, for the sake of a test.
func (d *Device) Trigger(index, start, count int) error {
	return d.setIRQs(uapi.VFIOIRQDataNone|uapi.VFIOIRQActionTrigger, index, start, count, nil)
}

// TriggerIf is Trigger of those vectors from start on whose word is true.
func (d *Device) TriggerIf(index, start int, which ...bool) error {
	return d.setIRQs(uapi.VFIOIRQDataBool|uapi.VFIOIRQActionTrigger, index, start, len(which), bools(which))
}

// DisableIRQ turns all vectors of an index off.
func (d *Device) DisableIRQ(index int) error {
	return d.setIRQs(uapi.VFIOIRQDataNone|uapi.VFIOIRQActionTrigger, index, 0, 0, nil)
}

// Mask and Unmask are INTx's, the only interrupt that VFIO masks.
func (d *Device) Mask() error {
	return d.setIRQs(uapi.VFIOIRQDataNone|uapi.VFIOIRQActionMask, uapi.VFIOPCIINTx, 0, 1, nil)
}

// Unmask undoes a mask. An interrupt that the device still asks for is signalled at once.
func (d *Device) Unmask() error {
	return d.setIRQs(uapi.VFIOIRQDataNone|uapi.VFIOIRQActionUnmask, uapi.VFIOPCIINTx, 0, 1, nil)
}

// UnmaskOn has each signal of an eventfd unmask INTx, within the kernel; -1 ends it.
func (d *Device) UnmaskOn(eventfd int) error {
	return d.setIRQs(uapi.VFIOIRQDataEventFD|uapi.VFIOIRQActionUnmask, uapi.VFIOPCIINTx, 0, 1, words([]int{eventfd}))
}

// setIRQs is VFIO_DEVICE_SET_IRQS: the header of struct vfio_irq_set and its data.
func (d *Device) setIRQs(flags uint32, index, start, count int, data []byte) error {
	header := int(unsafe.Offsetof(uapi.VFIOIRQSet{}.FD))
	set := binary.LittleEndian.AppendUint32(nil, uint32(header+len(data)))
	for _, word := range []uint32{flags, uint32(index), uint32(start), uint32(count)} {
		set = binary.LittleEndian.AppendUint32(set, word)
	}
	set = append(set, data...)
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceSetIRQs, unsafe.SliceData(set))
	return err
}

func words(list []int) []byte {
	var b []byte
	for _, v := range list {
		b = binary.LittleEndian.AppendUint32(b, uint32(int32(v)))
	}
	return b
}

func bools(list []bool) []byte {
	b := make([]byte, len(list))
	for i, v := range list {
		if v {
			b[i] = 1
		}
	}
	return b
}

// Memory maps n bytes of the region from its start, for a VM to have. The mapping is the caller's, and
// holds the device's file.
func (r *Region) Memory(n int) ([]byte, error) {
	if uint64(n) > r.size {
		return nil, fmt.Errorf("mmap %s: %d bytes of %#x", r.name, n, r.size)
	}
	mem, err := unix.Mmap(r.dev.FD(), int64(r.offset), n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		errno, _ := errors.AsType[unix.Errno](err)
		return nil, &uapi.Error{Op: "mmap", Object: r.name, Errno: errno}
	}
	return mem, nil
}
