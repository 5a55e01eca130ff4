package kvm

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// VCPU is a vCPU's descriptor and its kvm_run mapping. The mapping keeps the VM alive as the descriptor
// does, so Close undoes both.
type VCPU struct {
	uapi.Desc
	run []byte
}

// Close unmaps kvm_run and closes the descriptor.
func (v *VCPU) Close() error {
	return errors.Join(v.Unmap(), v.Desc.Close())
}

// StartReal sets the vCPU to real mode, code segment 0, at address ip, with ax and bx set.
func (v *VCPU) StartReal(ip uint64, ax, bx uint16) error {
	var sregs uapi.KVMSregs
	if _, err := uapi.IoctlPtr(v.FD(), v.Name(), uapi.KVMGetSregs, &sregs); err != nil {
		return err
	}
	// Reset leaves CS at 0xffff0000.
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	if _, err := uapi.IoctlPtr(v.FD(), v.Name(), uapi.KVMSetSregs, &sregs); err != nil {
		return err
	}
	const always1 = 1 << 1 // RFLAGS bit 1 reads as one
	_, err := uapi.IoctlPtr(v.FD(), v.Name(), uapi.KVMSetRegs, &uapi.KVMRegs{
		RIP: ip, RFLAGS: always1, RAX: uint64(ax), RBX: uint64(bx),
	})
	return err
}

// Exit is why KVM_RUN returned to user space.
type Exit struct {
	Reason uint32 // uapi.KVMExit...
	Port   uint16 // of an I/O exit
	Out    bool
	Data   []byte // what an OUT wrote
}

func (e Exit) String() string {
	switch e.Reason {
	case uapi.KVMExitIO:
		if e.Out {
			return fmt.Sprintf("OUT %#x, % x", e.Port, e.Data)
		}
		return fmt.Sprintf("IN %#x", e.Port)
	case uapi.KVMExitHLT:
		return "HLT"
	case uapi.KVMExitShutdown:
		return "shutdown (triple fault)"
	case uapi.KVMExitFailEntry:
		return "entry failed"
	case uapi.KVMExitInternalError:
		return "internal error"
	}
	return fmt.Sprintf("exit reason %d", e.Reason)
}

// Run is KVM_RUN until the next exit to user space. A signal to the thread (the Go runtime sends some)
// resumes the guest; a guest that never exits keeps the caller, whose deadline it is.
func (v *VCPU) Run() (Exit, error) {
	for {
		_, err := uapi.Ioctl(v.FD(), v.Name(), uapi.KVMRun, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return Exit{}, err
		}
		return v.exit()
	}
}

func (v *VCPU) exit() (Exit, error) {
	if len(v.run) < int(unsafe.Sizeof(uapi.KVMRunState{})) {
		return Exit{}, fmt.Errorf("kvm_run of %s: %d bytes", v.Name(), len(v.run))
	}
	state := (*uapi.KVMRunState)(unsafe.Pointer(unsafe.SliceData(v.run)))
	ex := Exit{Reason: state.ExitReason}
	if ex.Reason != uapi.KVMExitIO {
		return ex, nil
	}
	ex.Port, ex.Out = state.IOPort, state.IODirection == uapi.KVMExitIOOut
	if ex.Out {
		// The kernel under test says where; believe nothing.
		n := uint64(state.IOSize) * uint64(state.IOCount)
		if at := state.IODataOffset; n > uint64(len(v.run)) || at > uint64(len(v.run))-n {
			return ex, fmt.Errorf("kvm_run of %s: %d bytes of I/O data at %d of %d", v.Name(), n, at, len(v.run))
		} else {
			ex.Data = append([]byte(nil), v.run[at:at+n]...)
		}
	}
	return ex, nil
}
