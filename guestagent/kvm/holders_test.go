package kvm

import (
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

func TestStatsID(t *testing.T) {
	b := make([]byte, 24+48)
	copy(b, "\x00\x00\x00\x00\x30\x00\x00\x00\x02\x00\x00\x00\x18\x00\x00\x00\x48\x00\x00\x00\x48")
	copy(b[24:], "kvm-77\x00")
	id, err := statsID(b, "statistics of VM")
	assert.NilError(t, err)
	assert.Equal(t, id, "kvm-77")

	// A kernel that lies about the place is not followed.
	_, err = statsID(b[:40], "statistics of VM")
	assert.Error(t, err, "statistics of VM: a name up to 72 of 40 bytes")
	_, err = statsID(b[:23], "statistics of VM")
	assert.Error(t, err, "statistics of VM: 23 bytes, no header")
	copy(b[4:], "\xff\xff\xff\xff\x02\x00\x00\x00\xff\xff\xff\xff")
	_, err = statsID(b, "statistics of VM")
	assert.ErrorContains(t, err, "of 72 bytes")
}

func TestClosedHolders(t *testing.T) {
	vm := &VM{Desc: uapi.Own(-1, "VM")}
	_, err := vm.Stats()
	assert.Error(t, err, "KVM_GET_STATS_FD VM: bad file descriptor")
	_, err = vm.CreateGuestMemory(4096)
	assert.Error(t, err, "KVM_CREATE_GUEST_MEMFD VM: bad file descriptor")
	_, err = (&Stats{uapi.Own(-1, "statistics of VM")}).ID()
	assert.ErrorIs(t, err, unix.EBADF)
	mem, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
	assert.NilError(t, err)
	v := &VCPU{Desc: uapi.Own(-1, "vCPU 0"), run: mem}
	assert.NilError(t, v.Unmap())
	assert.NilError(t, v.Unmap())
	assert.NilError(t, v.Close())
}
