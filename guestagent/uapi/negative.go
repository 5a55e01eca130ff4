package uapi

import "unsafe"

// The ioctls that are only asked to be refused.
var (
	KVMGetDeviceAttr = Request{"KVM_GET_DEVICE_ATTR", ioc(iocWrite, kvmIO, 0xe2, unsafe.Sizeof(KVMDeviceAttr{}))}
	KVMHasDeviceAttr = Request{"KVM_HAS_DEVICE_ATTR", ioc(iocWrite, kvmIO, 0xe3, unsafe.Sizeof(KVMDeviceAttr{}))}
)

// KVMCreateDeviceTest asks KVM_CREATE_DEVICE whether it could (KVM_CREATE_DEVICE_TEST).
const KVMCreateDeviceTest = 1

// VFIOBase is one of VFIO's ioctls by its place after VFIO_BASE, as the header defines them all: none carries a
// direction or a size.
func VFIOBase(name string, n uintptr) Request { return Request{name, ioc(0, vfioIO, 100+n, 0)} }
