package vfio

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// ErrSIGBUS is what an access to a mapping came to whose memory the kernel does not give (any more).
var ErrSIGBUS = errors.New("SIGBUS")

// Mapping is memory of a device that is mapped into this process. The mapping holds the descriptor's file,
// so that closing the descriptor alone ends nothing.
type Mapping struct {
	name string
	mem  []byte
}

// Mmap maps the whole region, to read and to write.
func (r *Region) Mmap() (*Mapping, error) {
	return mapShared(r.dev.FD(), r.name, int64(r.offset), int(r.size))
}

func mapShared(fd int, name string, offset int64, size int) (*Mapping, error) {
	mem, err := unix.Mmap(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		errno, _ := errors.AsType[unix.Errno](err)
		return nil, &uapi.Error{Op: "mmap", Object: name, Errno: errno}
	}
	return &Mapping{name, mem}, nil
}

// Close unmaps, once.
func (m *Mapping) Close() error {
	if m.mem == nil {
		return nil
	}
	mem := m.mem
	m.mem = nil
	if err := unix.Munmap(mem); err != nil {
		errno, _ := errors.AsType[unix.Errno](err)
		return &uapi.Error{Op: "munmap", Object: m.name, Errno: errno}
	}
	return nil
}

// Read32 reads a register in one access. The error wraps ErrSIGBUS when that raised the signal.
func (m *Mapping) Read32(at uint64) (value uint32, err error) {
	err = m.access("read", at, func(p *uint32) { value = atomic.LoadUint32(p) })
	return value, err
}

// Write32 writes a register in one access. The error wraps ErrSIGBUS when that raised the signal.
func (m *Mapping) Write32(at uint64, value uint32) error {
	return m.access("write", at, func(p *uint32) { atomic.StoreUint32(p, value) })
}

// access turns the signal of a fault into an error. Both the setting and the signal are this goroutine's.
func (m *Mapping) access(op string, at uint64, touch func(*uint32)) (err error) {
	if at%4 != 0 || at+4 > uint64(len(m.mem)) {
		return fmt.Errorf("%s %s: register %#x of %#x mapped", op, m.name, at, len(m.mem))
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		fault, ok := p.(interface {
			runtime.Error
			Addr() uintptr
		})
		if !ok {
			panic(p)
		}
		err = fmt.Errorf("%s %s at %#x (address %#x): %w", op, m.name, at, fault.Addr(), ErrSIGBUS)
	}()
	touch((*uint32)(unsafe.Pointer(&m.mem[at])))
	return nil
}
