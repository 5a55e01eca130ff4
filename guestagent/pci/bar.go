package pci

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BAR is a mapped memory BAR of a device that no driver owns.
type BAR struct {
	dev Device
	mem []byte
}

// MapBAR enables the device and maps size bytes of one of its BARs through sysfs, without VFIO and without
// an IOMMU in between.
func (d Device) MapBAR(index, size int) (*BAR, error) {
	if err := d.write(d.path("enable"), "1"); err != nil {
		return nil, err
	}
	b := &BAR{dev: d}
	f, err := os.OpenFile(d.path(fmt.Sprintf("resource%d", index)), os.O_RDWR, 0)
	if err == nil {
		b.mem, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pci %s: map BAR %d: %w", d.Address, index, err), b.Close())
	}
	return b, nil
}

// Close unmaps the BAR and disables the device again.
func (b *BAR) Close() error {
	var err error
	if b.mem != nil {
		err = unix.Munmap(b.mem)
		b.mem = nil
	}
	return errors.Join(err, b.dev.write(b.dev.path("enable"), "0"))
}

// Read32 reads a register in one access.
func (b *BAR) Read32(at uint64) (uint32, error) {
	p, err := b.register(at)
	if err != nil {
		return 0, err
	}
	return atomic.LoadUint32(p), nil
}

// Write32 writes a register in one access.
func (b *BAR) Write32(at uint64, value uint32) error {
	p, err := b.register(at)
	if err != nil {
		return err
	}
	atomic.StoreUint32(p, value)
	return nil
}

func (b *BAR) register(at uint64) (*uint32, error) {
	if at%4 != 0 || at+4 > uint64(len(b.mem)) {
		return nil, fmt.Errorf("pci %s: register %#x of %#x", b.dev.Address, at, len(b.mem))
	}
	return (*uint32)(unsafe.Pointer(&b.mem[at])), nil
}
