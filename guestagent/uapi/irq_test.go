package uapi

import (
	"testing"
	"unsafe"

	"gotest.tools/v3/assert"
)

// The numbers come from a C program compiled against the kernel's own headers.
func TestIRQ(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"KVM_CREATE_IRQCHIP", KVMCreateIRQChip.Number, 0xae60},
		{"KVM_SET_GSI_ROUTING", KVMSetGSIRouting.Number, 0x4008ae6a},
		{"KVM_IRQFD", KVMIRQFD.Number, 0x4020ae76},
		{"KVM_GET_IRQCHIP", KVMGetIRQChip.Number, 0xc208ae62},
		{"KVM_GET_LAPIC", KVMGetLAPIC.Number, 0x8400ae8e},
		{"KVM_SET_LAPIC", KVMSetLAPIC.Number, 0x4400ae8f},
		{"VFIO_DEVICE_GET_IRQ_INFO", VFIODeviceGetIRQInfo.Number, 0x3b6d},
		{"kvm_irqfd", unsafe.Sizeof(KVMIRQFDArgs{}), 32},
		{"kvm_irqfd.resamplefd", unsafe.Offsetof(KVMIRQFDArgs{}.ResampleFD), 12},
		{"kvm_irq_routing header", unsafe.Offsetof(KVMIRQRouting{}.Entries), 8},
		{"kvm_irq_routing_entry", unsafe.Sizeof(KVMIRQRoutingEntry{}), 48},
		{"kvm_irq_routing_entry.u", unsafe.Offsetof(KVMIRQRoutingEntry{}.AddressLo), 16},
		{"kvm_irq_routing_entry.u.msi.data", unsafe.Offsetof(KVMIRQRoutingEntry{}.Data), 24},
		{"kvm_irqchip", unsafe.Sizeof(KVMIRQChip{}), 520},
		{"kvm_lapic_state", unsafe.Sizeof(KVMLAPICState{}), 1024},
		{"kvm_run.immediate_exit", unsafe.Offsetof(KVMRunState{}.ImmediateExit), 1},
		{"vfio_irq_info", unsafe.Sizeof(VFIOIRQInfo{}), 16},
	} {
		assert.Equal(t, c.got, c.want, c.name)
	}
}
