package uapi

import "unsafe"

// The ioctls that make descriptors beside the usual ones, and the one that takes a group out of its container.
var (
	KVMGetStatsFD           = Request{"KVM_GET_STATS_FD", ioc(0, kvmIO, 0xce, 0)}
	KVMCreateGuestMemfd     = Request{"KVM_CREATE_GUEST_MEMFD", ioc(iocRead|iocWrite, kvmIO, 0xd4, unsafe.Sizeof(KVMGuestMemfd{}))}
	VFIOGroupUnsetContainer = Request{"VFIO_GROUP_UNSET_CONTAINER", ioc(0, vfioIO, 105, 0)}
)

// KVMGuestMemfd is struct kvm_create_guest_memfd.
type KVMGuestMemfd struct {
	Size     uint64
	Flags    uint64
	Reserved [6]uint64
}

// KVMStatsHeader is struct kvm_stats_header, with which a statistics descriptor begins.
type KVMStatsHeader struct {
	Flags      uint32
	NameSize   uint32
	NumDesc    uint32
	IDOffset   uint32
	DescOffset uint32
	DataOffset uint32
}
