// Package kvm wraps /dev/kvm: the system, a VM, its vCPUs and its kvm-vfio device, one type for each
// file descriptor and its owner.
//
// Calls return the kernel's errors and judge nothing. What a guest computes, and what VFIO does with a VM,
// is not here.
package kvm

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// Path is the node of the system descriptor.
const Path = "/dev/kvm"

// System is an open /dev/kvm.
type System struct{ uapi.Desc }

// Open opens /dev/kvm and checks its API version.
func Open() (*System, error) {
	fd, err := uapi.Open(Path, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	s := &System{uapi.Own(fd, Path)}
	version, err := uapi.Ioctl(fd, Path, uapi.KVMGetAPIVersion, 0)
	if err == nil && version != uapi.KVMAPIVersion {
		err = fmt.Errorf("%s: API version %d, want %d", Path, version, uapi.KVMAPIVersion)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// CreateVM makes a VM.
func (s *System) CreateVM() (*VM, error) {
	fd, err := uapi.Ioctl(s.FD(), Path, uapi.KVMCreateVM, 0)
	// mm_take_all_locks gives up for any signal, and the Go runtime sends some.
	for errors.Is(err, unix.EINTR) {
		fd, err = uapi.Ioctl(s.FD(), Path, uapi.KVMCreateVM, 0)
	}
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	size, err := uapi.Ioctl(s.FD(), Path, uapi.KVMGetVCPUMmapSize, 0)
	if err != nil {
		uapi.Close(fd, "VM")
		return nil, err
	}
	return &VM{uapi.Own(fd, "VM"), size}, nil
}

// VM is a VM's descriptor. It does not close what was made from it.
type VM struct {
	uapi.Desc
	runSize int
}

// SetMemory maps mem at a guest physical address. The memory stays the caller's, and must outlive the VM and
// not be the Go heap's.
func (vm *VM) SetMemory(slot uint32, guest uint64, mem []byte) error {
	_, err := uapi.IoctlPtr(vm.FD(), vm.Name(), uapi.KVMSetUserMemoryRegion, &uapi.KVMUserspaceMemoryRegion{
		Slot:          slot,
		GuestPhysAddr: guest,
		MemorySize:    uint64(len(mem)),
		UserspaceAddr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))),
	})
	return err
}

// PrepareRealMode gives an Intel CPU without unrestricted guest mode the pages that it needs to emulate
// real mode. Others ignore them.
func (vm *VM) PrepareRealMode(tss, identity uint64) error {
	if _, err := uapi.IoctlPtr(vm.FD(), vm.Name(), uapi.KVMSetIdentityMapAddr, &identity); err != nil {
		return err
	}
	_, err := uapi.Ioctl(vm.FD(), vm.Name(), uapi.KVMSetTSSAddr, uintptr(tss))
	return err
}

// CreateVCPU makes a vCPU and maps its kvm_run.
func (vm *VM) CreateVCPU(id int) (*VCPU, error) {
	fd, err := uapi.Ioctl(vm.FD(), vm.Name(), uapi.KVMCreateVCPU, uintptr(id))
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	v := &VCPU{Desc: uapi.Own(fd, fmt.Sprintf("vCPU %d", id))}
	run, err := unix.Mmap(fd, 0, vm.runSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		v.Close()
		return nil, fmt.Errorf("mmap kvm_run of %s: %w", v.Name(), err)
	}
	v.run = run
	return v, nil
}

// CreateVFIO makes the VM's kvm-vfio device.
func (vm *VM) CreateVFIO() (*VFIO, error) {
	dev := uapi.KVMDevice{Type: uapi.KVMDevTypeVFIO}
	if _, err := uapi.IoctlPtr(vm.FD(), "VM (kvm-vfio)", uapi.KVMCreateDevice, &dev); err != nil {
		return nil, err
	}
	unix.CloseOnExec(int(dev.FD))
	return &VFIO{uapi.Own(int(dev.FD), "kvm-vfio device")}, nil
}

// VFIO is a VM's kvm-vfio device, which tells the VM of VFIO files and them of the VM.
type VFIO struct{ uapi.Desc }

// Add is KVM_DEV_VFIO_FILE_ADD (GROUP_ADD before 6.6, the same number): fd is a group's.
func (d *VFIO) Add(fd int) error { return d.set("KVM_DEV_VFIO_FILE_ADD", uapi.KVMDevVFIOFileAdd, fd) }

// Del is KVM_DEV_VFIO_FILE_DEL.
func (d *VFIO) Del(fd int) error { return d.set("KVM_DEV_VFIO_FILE_DEL", uapi.KVMDevVFIOFileDel, fd) }

func (d *VFIO) set(op string, attr uint64, fd int) error {
	file := new(int32)
	*file = int32(fd)
	// The struct carries the address as a number, which keeps nothing alive and nothing in place.
	var pin runtime.Pinner
	pin.Pin(file)
	defer pin.Unpin()
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.Request{Name: op, Number: uapi.KVMSetDeviceAttr.Number}, &uapi.KVMDeviceAttr{
		Group: uapi.KVMDevVFIOFile,
		Attr:  attr,
		Addr:  uint64(uintptr(unsafe.Pointer(file))),
	})
	return err
}
