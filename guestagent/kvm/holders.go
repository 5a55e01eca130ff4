package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// Stats is a descriptor of statistics, a VM's or a vCPU's.
type Stats struct{ uapi.Desc }

// Stats opens the VM's statistics.
func (vm *VM) Stats() (*Stats, error) { return stats(&vm.Desc) }

// Stats opens the vCPU's statistics.
func (v *VCPU) Stats() (*Stats, error) { return stats(&v.Desc) }

func stats(of *uapi.Desc) (*Stats, error) {
	fd, err := uapi.Ioctl(of.FD(), of.Name(), uapi.KVMGetStatsFD, 0)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return &Stats{uapi.Own(fd, "statistics of "+of.Name())}, nil
}

// ID reads whose statistics they are: kvm-PID, with a vCPU kvm-PID/vcpu-N.
func (s *Stats) ID() (string, error) {
	b := make([]byte, 4096)
	n, err := unix.Pread(s.FD(), b, 0)
	if err != nil {
		errno, _ := errors.AsType[unix.Errno](err)
		return "", &uapi.Error{Op: "pread", Object: s.Name(), Errno: errno}
	}
	return statsID(b[:n], s.Name())
}

// statsID takes the name out of what a descriptor of statistics is read as.
func statsID(b []byte, name string) (string, error) {
	var h uapi.KVMStatsHeader
	if _, err := binary.Decode(b, binary.LittleEndian, &h); err != nil {
		return "", fmt.Errorf("%s: %d bytes, no header", name, len(b))
	}
	// The kernel under test says where; believe nothing.
	if end := uint64(h.IDOffset) + uint64(h.NameSize); end > uint64(len(b)) {
		return "", fmt.Errorf("%s: a name up to %d of %d bytes", name, end, len(b))
	}
	return unix.ByteSliceToString(b[h.IDOffset:][:h.NameSize]), nil
}

// GuestMemory is a guest_memfd: memory of a VM that user space does not map.
type GuestMemory struct{ uapi.Desc }

// CreateGuestMemory makes size bytes of it.
func (vm *VM) CreateGuestMemory(size uint64) (*GuestMemory, error) {
	fd, err := uapi.IoctlPtr(vm.FD(), vm.Name(), uapi.KVMCreateGuestMemfd, &uapi.KVMGuestMemfd{Size: size})
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return &GuestMemory{uapi.Own(fd, "guest_memfd")}, nil
}

// Unmap undoes the mapping of kvm_run and keeps the descriptor. A vCPU without its mapping does not Run.
func (v *VCPU) Unmap() error {
	if v.run == nil {
		return nil
	}
	err := unix.Munmap(v.run)
	v.run = nil
	if err != nil {
		return fmt.Errorf("munmap kvm_run of %s: %w", v.Name(), err)
	}
	return nil
}
