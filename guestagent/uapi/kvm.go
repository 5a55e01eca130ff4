package uapi

import "unsafe"

const kvmIO = 0xAE // KVMIO

// The KVM ioctls that the agent uses.
var (
	KVMGetAPIVersion       = Request{"KVM_GET_API_VERSION", ioc(0, kvmIO, 0x00, 0)}
	KVMCreateVM            = Request{"KVM_CREATE_VM", ioc(0, kvmIO, 0x01, 0)}
	KVMGetVCPUMmapSize     = Request{"KVM_GET_VCPU_MMAP_SIZE", ioc(0, kvmIO, 0x04, 0)}
	KVMCreateVCPU          = Request{"KVM_CREATE_VCPU", ioc(0, kvmIO, 0x41, 0)}
	KVMSetUserMemoryRegion = Request{"KVM_SET_USER_MEMORY_REGION", ioc(iocWrite, kvmIO, 0x46, unsafe.Sizeof(KVMUserspaceMemoryRegion{}))}
	KVMSetTSSAddr          = Request{"KVM_SET_TSS_ADDR", ioc(0, kvmIO, 0x47, 0)}
	KVMSetIdentityMapAddr  = Request{"KVM_SET_IDENTITY_MAP_ADDR", ioc(iocWrite, kvmIO, 0x48, 8)}
	KVMRun                 = Request{"KVM_RUN", ioc(0, kvmIO, 0x80, 0)}
	KVMSetRegs             = Request{"KVM_SET_REGS", ioc(iocWrite, kvmIO, 0x82, unsafe.Sizeof(KVMRegs{}))}
	KVMGetSregs            = Request{"KVM_GET_SREGS", ioc(iocRead, kvmIO, 0x83, unsafe.Sizeof(KVMSregs{}))}
	KVMSetSregs            = Request{"KVM_SET_SREGS", ioc(iocWrite, kvmIO, 0x84, unsafe.Sizeof(KVMSregs{}))}
	KVMCreateDevice        = Request{"KVM_CREATE_DEVICE", ioc(iocRead|iocWrite, kvmIO, 0xe0, unsafe.Sizeof(KVMDevice{}))}
	KVMSetDeviceAttr       = Request{"KVM_SET_DEVICE_ATTR", ioc(iocWrite, kvmIO, 0xe1, unsafe.Sizeof(KVMDeviceAttr{}))}
)

// KVMAPIVersion is what KVM_GET_API_VERSION has answered since 2007.
const KVMAPIVersion = 12

// The kvm-vfio device: KVM_DEV_VFIO_GROUP, since 6.6 also named KVM_DEV_VFIO_FILE, same numbers.
const (
	KVMDevTypeVFIO    = 4 // KVM_DEV_TYPE_VFIO
	KVMDevVFIOFile    = 1 // KVM_DEV_VFIO_FILE, attribute group
	KVMDevVFIOFileAdd = 1 // KVM_DEV_VFIO_FILE_ADD
	KVMDevVFIOFileDel = 2 // KVM_DEV_VFIO_FILE_DEL
)

// Why KVM_RUN returned, kvm_run.exit_reason.
const (
	KVMExitIO            = 2
	KVMExitHLT           = 5
	KVMExitShutdown      = 8
	KVMExitFailEntry     = 9
	KVMExitInternalError = 17
)

// KVMExitIOOut is kvm_run.io.direction of an OUT.
const KVMExitIOOut = 1

// KVMUserspaceMemoryRegion is struct kvm_userspace_memory_region.
type KVMUserspaceMemoryRegion struct {
	Slot          uint32
	Flags         uint32
	GuestPhysAddr uint64
	MemorySize    uint64
	UserspaceAddr uint64
}

// KVMRegs is struct kvm_regs.
type KVMRegs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

// KVMSegment is struct kvm_segment.
type KVMSegment struct {
	Base                           uint64
	Limit                          uint32
	Selector                       uint16
	Type                           uint8
	Present, DPL, DB, S, L, G, AVL uint8
	Unusable                       uint8
	_                              uint8
}

// KVMDTable is struct kvm_dtable.
type KVMDTable struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

// KVMSregs is struct kvm_sregs.
type KVMSregs struct {
	CS, DS, ES, FS, GS, SS  KVMSegment
	TR, LDT                 KVMSegment
	GDT, IDT                KVMDTable
	CR0, CR2, CR3, CR4, CR8 uint64
	EFER                    uint64
	APICBase                uint64
	InterruptBitmap         [4]uint64
}

// KVMDevice is struct kvm_create_device.
type KVMDevice struct {
	Type  uint32
	FD    uint32
	Flags uint32
}

// KVMDeviceAttr is struct kvm_device_attr.
type KVMDeviceAttr struct {
	Flags uint32
	Group uint32
	Attr  uint64
	Addr  uint64
}

// KVMRunState is the head of struct kvm_run as far as the exits that the agent handles reach.
type KVMRunState struct {
	RequestInterruptWindow uint8
	ImmediateExit          uint8
	_                      [6]uint8
	ExitReason             uint32
	ReadyForInjection      uint8
	IFFlag                 uint8
	Flags                  uint16
	CR8                    uint64
	APICBase               uint64
	// the union's io member
	IODirection  uint8
	IOSize       uint8
	IOPort       uint16
	IOCount      uint32
	IODataOffset uint64
}
