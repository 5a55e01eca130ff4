package kvm

import (
	"encoding/binary"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// CreateIRQChip gives the VM its interrupt controllers, which run in the kernel: PIC, IOAPIC and, with each
// vCPU made after it, a local APIC.
func (vm *VM) CreateIRQChip() error {
	_, err := uapi.Ioctl(vm.FD(), vm.Name(), uapi.KVMCreateIRQChip, 0)
	return err
}

// PICRequested are the lines of the first PIC that have been raised and that no vCPU has taken.
func (vm *VM) PICRequested() ([]int, error) {
	var chip uapi.KVMIRQChip
	if _, err := uapi.IoctlPtr(vm.FD(), vm.Name(), uapi.KVMGetIRQChip, &chip); err != nil {
		return nil, err
	}
	return raised(chip.IRR), nil
}

func raised(irr uint8) []int {
	var lines []int
	for line := range 8 {
		if irr&(1<<line) != 0 {
			lines = append(lines, line)
		}
	}
	return lines
}

// MSIRoute says which message a GSI stands for.
type MSIRoute struct {
	GSI     uint32
	Address uint64
	Data    uint32
}

// RouteMSI makes these routes the whole table: those to the interrupt controllers' pins are gone.
func (vm *VM) RouteMSI(routes ...MSIRoute) error {
	table := uapi.KVMIRQRouting{Nr: uint32(len(routes))}
	for i, r := range routes {
		table.Entries[i] = uapi.KVMIRQRoutingEntry{
			GSI:       r.GSI,
			Type:      uapi.KVMIRQRoutingMSI,
			AddressLo: uint32(r.Address),
			AddressHi: uint32(r.Address >> 32),
			Data:      r.Data,
		}
	}
	_, err := uapi.IoctlPtr(vm.FD(), vm.Name(), uapi.KVMSetGSIRouting, &table)
	return err
}

// AssignIRQFD has an eventfd's signals injected as interrupts of the GSI. The kernel keeps the eventfd
// itself, not its descriptor.
func (vm *VM) AssignIRQFD(gsi uint32, eventfd int) error {
	return vm.irqfd(uapi.KVMIRQFDArgs{FD: uint32(eventfd), GSI: gsi})
}

// AssignResampler is AssignIRQFD for a level: a signal raises the GSI, the guest's EOI lowers it and
// signals resample.
func (vm *VM) AssignResampler(gsi uint32, eventfd, resample int) error {
	return vm.irqfd(uapi.KVMIRQFDArgs{FD: uint32(eventfd), GSI: gsi, Flags: uapi.KVMIRQFDResample, ResampleFD: uint32(resample)})
}

// DeassignIRQFD undoes either. Nothing is injected through it once it has returned.
func (vm *VM) DeassignIRQFD(gsi uint32, eventfd int) error {
	return vm.irqfd(uapi.KVMIRQFDArgs{FD: uint32(eventfd), GSI: gsi, Flags: uapi.KVMIRQFDDeassign})
}

func (vm *VM) irqfd(args uapi.KVMIRQFDArgs) error {
	_, err := uapi.IoctlPtr(vm.FD(), vm.Name(), uapi.KVMIRQFD, &args)
	return err
}

// LAPIC is the state of a vCPU's local APIC.
type LAPIC struct{ state uapi.KVMLAPICState }

// LAPIC reads the vCPU's.
func (v *VCPU) LAPIC() (*LAPIC, error) {
	l := new(LAPIC)
	_, err := uapi.IoctlPtr(v.FD(), v.Name(), uapi.KVMGetLAPIC, &l.state)
	return l, err
}

// SetLAPIC writes the vCPU's.
func (v *VCPU) SetLAPIC(l *LAPIC) error {
	_, err := uapi.IoctlPtr(v.FD(), v.Name(), uapi.KVMSetLAPIC, &l.state)
	return err
}

// Enable sets the software enable bit, without which the APIC takes no interrupt.
func (l *LAPIC) Enable() {
	reg := l.state.Regs[uapi.LAPICSpurious:]
	binary.LittleEndian.PutUint32(reg, binary.LittleEndian.Uint32(reg)|uapi.LAPICEnable)
}

// Requested are the vectors in the interrupt request register: accepted, and not yet taken by the CPU.
func (l *LAPIC) Requested() []int {
	var vectors []int
	for v := range 256 {
		if l.state.Regs[irrByte(v)]&(1<<(v%8)) != 0 {
			vectors = append(vectors, v)
		}
	}
	return vectors
}

// Clear empties the interrupt request register.
func (l *LAPIC) Clear() {
	for v := range 256 {
		l.state.Regs[irrByte(v)] = 0
	}
}

func irrByte(vector int) int { return uapi.LAPICIRR + vector/32*16 + vector%32/8 }

// ReachLAPIC points FS at the local APIC, which real mode reaches with no base of its own making. KVM's
// registers allow it, as a CPU does that was in protected mode before.
func (v *VCPU) ReachLAPIC() error {
	var sregs uapi.KVMSregs
	if _, err := uapi.IoctlPtr(v.FD(), v.Name(), uapi.KVMGetSregs, &sregs); err != nil {
		return err
	}
	sregs.FS.Base = uapi.LAPICBase
	_, err := uapi.IoctlPtr(v.FD(), v.Name(), uapi.KVMSetSregs, &sregs)
	return err
}
