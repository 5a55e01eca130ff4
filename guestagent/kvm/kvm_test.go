package kvm

import (
	"encoding/binary"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run builds a kvm_run page as the kernel would leave it.
func run(reason uint32, direction, size uint8, port uint16, count uint32, offset uint64) []byte {
	page := make([]byte, 2*4096)
	binary.LittleEndian.PutUint32(page[8:], reason)
	page[32], page[33] = direction, size
	binary.LittleEndian.PutUint16(page[34:], port)
	binary.LittleEndian.PutUint32(page[36:], count)
	binary.LittleEndian.PutUint64(page[40:], offset)
	copy(page[4096:], "\x0e\xfd\x01\x02")
	return page
}

func TestExit(t *testing.T) {
	for _, c := range []struct {
		name string
		run  []byte
		want string
	}{
		{"out", run(uapi.KVMExitIO, 1, 2, 0x3f8, 1, 4096), "OUT 0x3f8, 0e fd"},
		{"string out", run(uapi.KVMExitIO, 1, 1, 0x3f8, 4, 4096), "OUT 0x3f8, 0e fd 01 02"},
		{"in", run(uapi.KVMExitIO, 0, 1, 0x60, 1, 4096), "IN 0x60"},
		{"hlt", run(uapi.KVMExitHLT, 1, 2, 0x3f8, 1, 4096), "HLT"},
		{"triple fault", run(uapi.KVMExitShutdown, 0, 0, 0, 0, 0), "shutdown (triple fault)"},
		{"another", run(42, 0, 0, 0, 0, 0), "exit reason 42"},
	} {
		v := &VCPU{Desc: uapi.Own(-1, "vCPU 0"), run: c.run}
		exit, err := v.exit()
		assert.NilError(t, err, c.name)
		assert.Equal(t, exit.String(), c.want, c.name)
	}
}

// The kernel under test says where the data lies; a wrong place must not be read.
func TestExitDataOutOfBounds(t *testing.T) {
	for _, page := range [][]byte{
		run(uapi.KVMExitIO, 1, 2, 0x3f8, 1, 2*4096-1),
		run(uapi.KVMExitIO, 1, 2, 0x3f8, 1, 1<<63),
		run(uapi.KVMExitIO, 1, 255, 0x3f8, 1<<32-1, 4096),
		run(uapi.KVMExitIO, 1, 2, 0x3f8, 1, 4096)[:40],
	} {
		_, err := (&VCPU{Desc: uapi.Own(-1, "vCPU 0"), run: page}).exit()
		assert.ErrorContains(t, err, "kvm_run of vCPU 0")
	}
}

func TestCloseTwice(t *testing.T) {
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	vm := &VM{Desc: uapi.Own(fd, "VM")}
	assert.Equal(t, vm.FD(), fd)
	assert.NilError(t, vm.Close())
	assert.NilError(t, vm.Close())
	assert.Equal(t, vm.FD(), -1)

	// A closed VM refuses instead of asking whoever has its number now.
	_, err = vm.CreateVCPU(0)
	assert.Error(t, err, "KVM_CREATE_VCPU VM: bad file descriptor")
	_, err = vm.CreateVFIO()
	assert.ErrorIs(t, err, unix.EBADF)
}

func TestVFIOErrorsNameTheOperation(t *testing.T) {
	d := &VFIO{uapi.Own(-1, "kvm-vfio device")}
	assert.Error(t, d.Add(0), "KVM_DEV_VFIO_FILE_ADD kvm-vfio device: bad file descriptor")
	assert.Error(t, d.Del(0), "KVM_DEV_VFIO_FILE_DEL kvm-vfio device: bad file descriptor")
}
