package pci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Registers of configuration space, and bits in them.
const (
	Command       = 0x04
	CommandMemory = 1 << 1
	CommandMaster = 1 << 2
	FirstBAR      = 0x10

	CapPM      = 0x01
	CapMSI     = 0x05
	CapExpress = 0x10

	status          = 0x06
	statusCaps      = 1 << 4
	firstCap        = 0x34
	expressDevCaps  = 0x04    // from the capability
	expressCapReset = 1 << 28 // PCI_EXP_DEVCAP_FLR
)

// Config is a device's configuration space as sysfs shows it: what is there, past whatever VFIO makes its
// user believe. An access wakes the device.
type Config struct{ dev Device }

// Config names the device's configuration space.
func (d Device) Config() Config { return Config{d} }

// Read reads len(b) bytes at a register.
func (c Config) Read(b []byte, at int64) error {
	f, err := os.Open(c.dev.path("config"))
	if err == nil {
		_, err = f.ReadAt(b, at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("pci %s: read config at %#x: %w", c.dev.Address, at, err)
	}
	return nil
}

// Read16 reads a register.
func (c Config) Read16(at int64) (uint16, error) {
	var b [2]byte
	err := c.Read(b[:], at)
	return binary.LittleEndian.Uint16(b[:]), err
}

// Read32 reads a register.
func (c Config) Read32(at int64) (uint32, error) {
	var b [4]byte
	err := c.Read(b[:], at)
	return binary.LittleEndian.Uint32(b[:]), err
}

// Write32 writes a register.
func (c Config) Write32(at int64, value uint32) error {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], value)
	f, err := os.OpenFile(c.dev.path("config"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(b[:], at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("pci %s: write config at %#x: %w", c.dev.Address, at, err)
	}
	return nil
}

// Capability finds a capability, 0 if the device has none such.
func (c Config) Capability(id byte) (int64, error) {
	var space [256]byte
	if err := c.Read(space[:], 0); err != nil {
		return 0, err
	}
	if space[status]&statusCaps == 0 {
		return 0, nil
	}
	at := space[firstCap] &^ 3
	for range len(space) / 4 {
		switch {
		case at == 0:
			return 0, nil
		case space[at] == id:
			return int64(at), nil
		}
		at = space[at+1] &^ 3
	}
	return 0, fmt.Errorf("pci %s: the list of capabilities has no end", c.dev.Address)
}

// FunctionReset reports whether the device has a function level reset.
func (c Config) FunctionReset() (bool, error) {
	at, err := c.Capability(CapExpress)
	if err != nil || at == 0 {
		return false, err
	}
	caps, err := c.Read32(at + expressDevCaps)
	return caps&expressCapReset != 0, err
}

// Attribute reads one of the device's files in sysfs, without the newline. The error wraps fs.ErrNotExist if
// this kernel has no such file.
func (d Device) Attribute(name string) (string, error) {
	text, err := os.ReadFile(d.path(name))
	if err != nil {
		return "", fmt.Errorf("pci %s: %w", d.Address, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// ResetMethods are the ways to reset the device in the kernel's order, "" if this kernel does not say (before
// 5.15).
func (d Device) ResetMethods() (string, error) {
	methods, err := d.Attribute("reset_method")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return methods, err
}
