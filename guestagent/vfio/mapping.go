package vfio

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// UnsetContainer takes the group out of its container.
func (g *Group) UnsetContainer() error {
	_, err := uapi.Ioctl(g.FD(), g.Name(), uapi.VFIOGroupUnsetContainer, 0)
	return err
}

// Mapping is the first page of a region, mapped. It outlives the device's descriptor, and keeps the file.
type Mapping struct {
	name string
	mem  []byte
}

// Map maps the region's first page.
func (r *Region) Map() (*Mapping, error) {
	mem, err := unix.Mmap(r.dev.FD(), int64(r.offset), unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap %s: %w", r.name, err)
	}
	return &Mapping{r.name, mem}, nil
}

// Read32 reads a register in one access. It kills the reader if the device's memory is disabled.
func (m *Mapping) Read32(at uint64) (uint32, error) {
	if at%4 != 0 || at+4 > uint64(len(m.mem)) {
		return 0, fmt.Errorf("%s: register %#x of %#x mapped bytes", m.name, at, len(m.mem))
	}
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(&m.mem[at]))), nil
}

// Close undoes the mapping, once.
func (m *Mapping) Close() error {
	if m.mem == nil {
		return nil
	}
	err := unix.Munmap(m.mem)
	m.mem = nil
	if err != nil {
		return fmt.Errorf("munmap %s: %w", m.name, err)
	}
	return nil
}
