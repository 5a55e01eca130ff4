// Package pci finds PCI devices in sysfs, binds them to drivers and back, and drives the one device model
// that scenarios move data with, QEMU's edu.
//
// It owns files under /sys/bus/pci. VFIO's device nodes belong to package vfio; waiting for a device to
// appear, to whoever reads uevents.
package pci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// ID is a device's vendor and device number.
type ID struct{ Vendor, Device uint16 }

func (id ID) String() string { return fmt.Sprintf("%04x:%04x", id.Vendor, id.Device) }

// Bus is /sys/bus/pci.
type Bus struct{ dir string }

// NewBus takes a root to put before every path, empty outside tests.
func NewBus(root string) Bus { return Bus{filepath.Join(root, "/sys/bus/pci")} }

// Device is a PCI device. It holds no descriptor; the device may be gone.
type Device struct {
	Address string // 0000:01:00.0
	bus     Bus
}

// Devices lists what is on the bus.
func (b Bus) Devices() ([]Device, error) {
	entries, err := os.ReadDir(filepath.Join(b.dir, "devices"))
	if err != nil {
		return nil, fmt.Errorf("pci devices: %w", err)
	}
	devs := make([]Device, len(entries))
	for i, e := range entries {
		devs[i] = b.Device(e.Name())
	}
	return devs, nil
}

// Device names a device by its address, there or not.
func (b Bus) Device(address string) Device { return Device{address, b} }

func (d Device) path(name string) string { return filepath.Join(d.bus.dir, "devices", d.Address, name) }

func (d Device) write(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0); err != nil {
		return fmt.Errorf("pci %s: %w", d.Address, err)
	}
	return nil
}

// link returns the base name of what a symbolic link of the device points at, "" if there is none.
func (d Device) link(name string) (string, error) {
	target, err := os.Readlink(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("pci %s: %w", d.Address, err)
	}
	return filepath.Base(target), nil
}

// Present reports whether the kernel has the device.
func (d Device) Present() bool {
	_, err := os.Lstat(d.path(""))
	return err == nil
}

// Driver is the driver that the device is bound to, "" for none.
func (d Device) Driver() (string, error) { return d.link("driver") }

// Group is the number of the device's IOMMU group. With virtio-iommu there is none until a driver has
// been bound, on 6.12 at least.
func (d Device) Group() (int, error) {
	name, err := d.link("iommu_group")
	if err != nil {
		return 0, err
	}
	if name == "" {
		return 0, fmt.Errorf("pci %s: in no IOMMU group", d.Address)
	}
	n, err := strconv.Atoi(name)
	if err != nil {
		return 0, fmt.Errorf("pci %s: IOMMU group %q", d.Address, name)
	}
	return n, nil
}

// Settle returns once a hot-plug that has announced the device is over. The announcement comes first: the
// BARs are assigned and the device can be bound only later, all under pci_rescan_remove_lock, which a
// rescan of the device's bus takes too.
func (d Device) Settle() error { return d.write(d.path("rescan"), "1") }

// Bind makes driver the device's, which must have none. driver_override lets a driver have a device that
// is not on its list.
func (d Device) Bind(driver string) error {
	if err := d.write(d.path("driver_override"), driver); err != nil {
		return err
	}
	return d.Rebind(driver)
}

// Rebind gives the device to a driver that would take it unasked.
func (d Device) Rebind(driver string) error {
	return d.write(filepath.Join(d.bus.dir, "drivers", driver, "bind"), d.Address)
}

// Unbind takes the device from its driver and clears the override. It waits as long as the driver does:
// vfio-pci keeps a device until the last user closes it.
func (d Device) Unbind() error {
	if err := d.write(d.path("driver/unbind"), d.Address); err != nil {
		return err
	}
	return d.write(d.path("driver_override"), "\n")
}
