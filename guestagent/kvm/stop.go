package kvm

import (
	"errors"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// ErrStopped is RunOrStop's answer when Stop ended it.
var ErrStopped = errors.New("stopped")

// RunOrStop is Run for a guest that may halt for ever: Stop ends it.
func (v *VCPU) RunOrStop() (Exit, error) {
	for {
		_, err := uapi.Ioctl(v.FD(), v.Name(), uapi.KVMRun, 0)
		if errors.Is(err, unix.EINTR) {
			if atomic.LoadUint32(v.head()) == 0 {
				continue // a signal of the Go runtime's
			}
			return Exit{}, ErrStopped
		}
		if err != nil {
			return Exit{}, err
		}
		return v.exit()
	}
}

// Stop makes the thread that is or will be in RunOrStop return, and each one after it until Resume.
// The kernel looks at immediate_exit at the start of KVM_RUN; the signal is for a thread that is past it.
func (v *VCPU) Stop(tid int) error {
	atomic.StoreUint32(v.head(), 1<<(8*unsafe.Offsetof(uapi.KVMRunState{}.ImmediateExit)))
	// The Go runtime takes SIGURG for a request to preempt the thread, which does no harm.
	err := unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)
	if errors.Is(err, unix.ESRCH) {
		return nil // it has ended meanwhile
	}
	return err
}

// Resume takes Stop back.
func (v *VCPU) Resume() { atomic.StoreUint32(v.head(), 0) }

// head is the first word of kvm_run: request_interrupt_window, immediate_exit and padding, all ours to write.
func (v *VCPU) head() *uint32 { return (*uint32)(unsafe.Pointer(unsafe.SliceData(v.run))) }
