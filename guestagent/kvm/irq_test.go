package kvm

import (
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

func TestLAPIC(t *testing.T) {
	l := new(LAPIC)
	assert.Equal(t, len(l.Requested()), 0)
	// The request register is 8 words, each 16 bytes apart.
	l.state.Regs[0x200+3] = 1 << 7   // 31
	l.state.Regs[0x210] = 1          // 32
	l.state.Regs[0x270+3] = 1<<7 | 1 // 255, 248
	l.state.Regs[0x270+4] = 0xff     // between the words
	l.state.Regs[0x100+3] = 1 << 7   // in service, not requested
	assert.DeepEqual(t, l.Requested(), []int{31, 32, 248, 255})
	l.Clear()
	assert.Equal(t, len(l.Requested()), 0)
	assert.Equal(t, l.state.Regs[0x100+3], byte(1<<7))

	l.state.Regs[0xf0] = 0xff
	l.Enable()
	assert.DeepEqual(t, l.state.Regs[0xf0:0xf4], []byte{0xff, 1, 0, 0})
}

func TestPIC(t *testing.T) {
	assert.Equal(t, len(raised(0)), 0)
	assert.DeepEqual(t, raised(1<<7|1<<5|1), []int{0, 5, 7})
}

func TestIRQErrorsNameTheOperation(t *testing.T) {
	vm := &VM{Desc: uapi.Own(-1, "VM")}
	v := &VCPU{Desc: uapi.Own(-1, "vCPU 0")}
	_, lapic := v.LAPIC()
	_, pic := vm.PICRequested()
	for _, e := range []struct {
		err  error
		want string
	}{
		{vm.CreateIRQChip(), "KVM_CREATE_IRQCHIP VM"},
		{vm.RouteMSI(MSIRoute{GSI: 24}), "KVM_SET_GSI_ROUTING VM"},
		{vm.AssignIRQFD(24, 0), "KVM_IRQFD VM"},
		{vm.AssignResampler(5, 0, 0), "KVM_IRQFD VM"},
		{vm.DeassignIRQFD(24, 0), "KVM_IRQFD VM"},
		{pic, "KVM_GET_IRQCHIP VM"},
		{lapic, "KVM_GET_LAPIC vCPU 0"},
		{v.SetLAPIC(new(LAPIC)), "KVM_SET_LAPIC vCPU 0"},
		{v.ReachLAPIC(), "KVM_GET_SREGS vCPU 0"},
	} {
		assert.Error(t, e.err, e.want+": bad file descriptor")
	}
}

// Stop sets immediate_exit and nothing else of kvm_run, and forgives a thread that has ended.
func TestStop(t *testing.T) {
	v := &VCPU{Desc: uapi.Own(-1, "vCPU 0"), run: make([]byte, 4096)}
	assert.NilError(t, v.Stop(1<<22-1)) // no such thread
	assert.DeepEqual(t, v.run[:8], []byte{0, 1, 0, 0, 0, 0, 0, 0})
	v.Resume()
	assert.DeepEqual(t, v.run[:8], make([]byte, 8))
	_, err := v.RunOrStop()
	assert.ErrorIs(t, err, unix.EBADF)
}
