package vfio

import (
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

func TestMapMemory(t *testing.T) {
	c := &Container{uapi.Own(-1, "container")}
	err := c.MapMemory(Memory{Flags: uapi.VFIODMARead, IOVA: 0x1000, Size: 0x1000})
	assert.Error(t, err, "VFIO_IOMMU_MAP_DMA container: bad file descriptor")

	mem, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
	assert.NilError(t, err)
	assert.Assert(t, AddressOf(mem)%4096 == 0 && AddressOf(mem[1:]) == AddressOf(mem)+1)
	assert.NilError(t, unix.Munmap(mem))
}
