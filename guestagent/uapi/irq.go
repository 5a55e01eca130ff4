package uapi

import "unsafe"

// The ioctls of interrupts, KVM's and VFIO's.
var (
	KVMCreateIRQChip = Request{"KVM_CREATE_IRQCHIP", ioc(0, kvmIO, 0x60, 0)}
	KVMGetIRQChip    = Request{"KVM_GET_IRQCHIP", ioc(iocRead|iocWrite, kvmIO, 0x62, unsafe.Sizeof(KVMIRQChip{}))}
	// KVM_SET_GSI_ROUTING carries the size of the header; its entries follow.
	KVMSetGSIRouting = Request{"KVM_SET_GSI_ROUTING", ioc(iocWrite, kvmIO, 0x6a, unsafe.Offsetof(KVMIRQRouting{}.Entries))}
	KVMIRQFD         = Request{"KVM_IRQFD", ioc(iocWrite, kvmIO, 0x76, unsafe.Sizeof(KVMIRQFDArgs{}))}
	KVMGetLAPIC      = Request{"KVM_GET_LAPIC", ioc(iocRead, kvmIO, 0x8e, unsafe.Sizeof(KVMLAPICState{}))}
	KVMSetLAPIC      = Request{"KVM_SET_LAPIC", ioc(iocWrite, kvmIO, 0x8f, unsafe.Sizeof(KVMLAPICState{}))}

	VFIODeviceGetIRQInfo = Request{"VFIO_DEVICE_GET_IRQ_INFO", ioc(0, vfioIO, 109, 0)}
)

// Flags of KVM_IRQFD.
const (
	KVMIRQFDDeassign = 1 << 0
	KVMIRQFDResample = 1 << 1
)

// KVMIRQRoutingMSI is kvm_irq_routing_entry.type of an MSI: KVM_IRQ_ROUTING_MSI.
const KVMIRQRoutingMSI = 2

// The local APIC: where it is, and registers within it.
const (
	LAPICBase     = 0xfee00000 // APIC_DEFAULT_PHYS_BASE, and where a write of the bus is an MSI
	LAPICEOI      = 0xb0
	LAPICSpurious = 0xf0   // APIC_SPIV
	LAPICEnable   = 1 << 8 // in it: APIC_SPIV_APIC_ENABLED
	LAPICIRR      = 0x200  // 8 registers of 32 bits, each 16 bytes wide
)

// Interrupt indices of a PCI device, beside VFIOPCIMSI.
const (
	VFIOPCIINTx = 0 // VFIO_PCI_INTX_IRQ_INDEX
	VFIOPCIMSIX = 2 // VFIO_PCI_MSIX_IRQ_INDEX
)

// Flags of VFIO_DEVICE_SET_IRQS, beside VFIOIRQDataEventFD and VFIOIRQActionTrigger.
const (
	VFIOIRQDataNone     = 1 << 0
	VFIOIRQDataBool     = 1 << 1
	VFIOIRQActionMask   = 1 << 3
	VFIOIRQActionUnmask = 1 << 4
)

// Flags that VFIO_DEVICE_GET_IRQ_INFO answers.
const (
	VFIOIRQInfoEventFD    = 1 << 0
	VFIOIRQInfoMaskable   = 1 << 1
	VFIOIRQInfoAutomasked = 1 << 2
)

// KVMIRQRouting is struct kvm_irq_routing with as many entries as the agent uses.
type KVMIRQRouting struct {
	Nr      uint32
	Flags   uint32
	Entries [8]KVMIRQRoutingEntry
}

// KVMIRQRoutingEntry is struct kvm_irq_routing_entry with the union's msi member.
type KVMIRQRoutingEntry struct {
	GSI       uint32
	Type      uint32
	Flags     uint32
	_         uint32
	AddressLo uint32
	AddressHi uint32
	Data      uint32
	DevID     uint32
	_         [4]uint32
}

// KVMIRQFDArgs is struct kvm_irqfd.
type KVMIRQFDArgs struct {
	FD         uint32
	GSI        uint32
	Flags      uint32
	ResampleFD uint32
	_          [16]uint8
}

// KVMIRQChip is struct kvm_irqchip; of chip 0, the first PIC, with the registers that come first.
type KVMIRQChip struct {
	Chip    uint32
	_       uint32
	LastIRR uint8
	IRR     uint8
	_       [510]uint8
}

// KVMLAPICState is struct kvm_lapic_state: the registers, each 16 bytes apart.
type KVMLAPICState struct{ Regs [1024]byte }

// VFIOIRQInfo is struct vfio_irq_info.
type VFIOIRQInfo struct {
	Argsz uint32
	Flags uint32
	Index uint32
	Count uint32
}
