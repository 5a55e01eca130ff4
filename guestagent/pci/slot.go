package pci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Slot is a hot-plug slot: a folder of /sys/bus/pci/slots, which the slot's driver (acpiphp or pciehp) made
// because it can switch the slot.
type Slot struct {
	Name string
	dir  string
}

// ErrNoSlot says that no driver made a slot for the device's place.
var ErrNoSlot = errors.New("no slot")

// Slot finds the slot that the device is in by its address, without the function.
func (d Device) Slot() (Slot, error) {
	dir := filepath.Join(d.bus.dir, "slots")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Slot{}, fmt.Errorf("pci slots: %w", err)
	}
	want, _, _ := strings.Cut(d.Address, ".")
	for _, e := range entries {
		s := Slot{e.Name(), filepath.Join(dir, e.Name())}
		if address, err := s.read("address"); err == nil && address == want {
			return s, nil
		}
	}
	return Slot{}, fmt.Errorf("pci %s: %w", d.Address, ErrNoSlot)
}

// Power reports whether the slot is on.
func (s Slot) Power() (bool, error) {
	text, err := s.read("power")
	return text == "1", err
}

// SetPower switches the slot. Off first takes the device from its driver, and waits for as long as that does;
// the kernel's errno is in the error.
func (s Slot) SetPower(on bool) error {
	value := map[bool]string{true: "1", false: "0"}[on]
	if err := os.WriteFile(filepath.Join(s.dir, "power"), []byte(value), 0); err != nil {
		return fmt.Errorf("pci slot %s: %w", s.Name, err)
	}
	return nil
}

func (s Slot) read(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return "", fmt.Errorf("pci slot %s: %w", s.Name, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// SetVFs makes a physical function have n virtual ones; 0 removes them all, and waits for their drivers.
func (d Device) SetVFs(n int) error { return d.write(d.path("sriov_numvfs"), strconv.Itoa(n)) }

// VFs are the virtual functions that there are.
func (d Device) VFs() ([]Device, error) {
	var vfs []Device
	for i := 0; ; i++ {
		address, err := d.link("virtfn" + strconv.Itoa(i))
		if err != nil || address == "" {
			return vfs, err
		}
		vfs = append(vfs, d.bus.Device(address))
	}
}

// Rescan looks for devices on a bus by its number, 0000:01.
func (b Bus) Rescan(number string) error {
	path := filepath.Join(b.dir, "../../class/pci_bus", number, "rescan")
	if err := os.WriteFile(path, []byte("1"), 0); err != nil {
		return fmt.Errorf("pci bus %s: %w", number, err)
	}
	return nil
}
