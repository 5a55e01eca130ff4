package lab

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// Power is the device's state of runtime power management: "active", "suspended", or between the two. Looking
// does not wake it.
func (d *VFIODevice) Power() string {
	state, err := d.pci.Attribute("power/runtime_status")
	d.t.mustHost("power state", err)
	return state
}

// PCIPower is the device's PCI power state as the kernel knows it, "D0" or "D3hot"; "" from a kernel that does
// not say.
func (d *VFIODevice) PCIPower() string {
	state, err := d.pci.Attribute("power_state")
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	d.t.mustHost("power state", err)
	return state
}

// Sleeps waits until the device is suspended. The kernel suspends in its own time, from a work item, and tells
// nobody.
func (d *VFIODevice) Sleeps(limit time.Duration) bool {
	ctx, cancel := d.t.patience(limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for d.Power() != "suspended" {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// LowPower lets the kernel put the open device to sleep.
func (d *VFIODevice) LowPower() error { return d.device.LowPower() }

// WakeUp counts how often the kernel signals that it has woken the device.
type WakeUp struct {
	t  *T
	fd int
}

// LowPowerUntilWoken is LowPower until anything wakes the device.
func (d *VFIODevice) LowPowerUntilWoken() *WakeUp {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	d.t.mustHost("eventfd", err)
	d.t.atEnd("close the eventfd", func() error { return unix.Close(fd) })
	d.t.must(d.device.LowPowerUntilWoken(fd))
	return &WakeUp{d.t, fd}
}

// TryLowPowerUntilWoken is LowPowerUntilWoken with a descriptor that the kernel may refuse.
func (d *VFIODevice) TryLowPowerUntilWoken(fd int) error { return d.device.LowPowerUntilWoken(fd) }

// Signals is how many have come since the last call.
func (w *WakeUp) Signals() int {
	var count [8]byte
	_, err := unix.Read(w.fd, count[:])
	if errors.Is(err, unix.EAGAIN) {
		return 0
	}
	w.t.mustHost("eventfd", err)
	return int(binary.NativeEndian.Uint64(count[:]))
}

// FullPower takes back LowPower.
func (d *VFIODevice) FullPower() error { return d.device.FullPower() }

// OffersFeature asks whether something can be done with a feature of the open device.
func (d *VFIODevice) OffersFeature(feature, direction uint32) error {
	return d.device.Offers(feature, direction)
}
