package lab

import (
	"strings"

	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/guestagent/uapi"
)

// Bits of a PCI device's COMMAND register.
const (
	CommandMemory = pci.CommandMemory
	CommandMaster = pci.CommandMaster
)

// Resets reports whether VFIO knows a way to reset the open device.
func (d *VFIODevice) Resets() bool {
	resets, err := d.device.Resets()
	d.t.must(err)
	return resets
}

// ResetMethods are the ways to reset the device in the kernel's order: "flr bus". A kernel before 5.15 does not
// say, and there it is "".
func (d *VFIODevice) ResetMethods() string {
	methods, err := d.pci.ResetMethods()
	d.t.mustHost("reset methods", err)
	return methods
}

// HasFLR reports whether the device says that it can reset its function by itself.
func (d *VFIODevice) HasFLR() bool {
	flr, err := d.pci.Config().FunctionReset()
	d.t.mustHost("device capabilities", err)
	return flr
}

// Reset resets the open device alone (VFIO_DEVICE_RESET).
func (d *VFIODevice) Reset() error { return d.device.Reset() }

// HotReset resets the device's bus (VFIO_DEVICE_PCI_HOT_RESET), for which the device's group must be the only
// one on it.
func (d *VFIODevice) HotReset() error { return d.device.HotReset(d.group) }

// HotResetDevices lists what is on the device's bus, by addresses.
func (d *VFIODevice) HotResetDevices() string {
	list, err := d.device.HotResetDevices()
	d.t.must(err)
	return strings.Join(list, " ")
}

// Command reads the COMMAND register of the open device as VFIO shows it.
func (d *VFIODevice) Command() int {
	command, err := d.device.Command()
	d.t.must(err)
	return int(command)
}

// SetCommand sets and clears bits of it.
func (d *VFIODevice) SetCommand(set, clear int) {
	d.t.must(d.device.SetCommand(uint16(d.Command()&^clear | set)))
}

// RealCommand reads the COMMAND register without VFIO, open or not.
func (d *VFIODevice) RealCommand() int {
	command, err := d.pci.Config().Read16(pci.Command)
	d.t.mustHost("configuration space", err)
	return int(command)
}

// RealBARs reads the six BARs without VFIO.
func (d *VFIODevice) RealBARs() [6]uint32 {
	var bars [6]uint32
	for i := range bars {
		var err error
		bars[i], err = d.pci.Config().Read32(pci.FirstBAR + 4*int64(i))
		d.t.mustHost("configuration space", err)
	}
	return bars
}

// RealMSIAddress reads the address that MSI writes to, without VFIO, which shows its user another one.
func (d *VFIODevice) RealMSIAddress() uint32 {
	address, err := d.pci.Config().Read32(d.msiAddress())
	d.t.mustHost("configuration space", err)
	return address
}

// SetRealMSIAddress writes it. While MSI is off, nothing uses it, and nobody writes it again after a reset.
func (d *VFIODevice) SetRealMSIAddress(address uint32) {
	d.t.mustHost("configuration space", d.pci.Config().Write32(d.msiAddress(), address))
}

func (d *VFIODevice) msiAddress() int64 {
	at, err := d.pci.Config().Capability(pci.CapMSI)
	d.t.mustHost("configuration space", err)
	if at == 0 {
		d.t.Broken("device " + d.pci.Address + " has no MSI")
	}
	return at + 4
}

// Register reads a register of the open device's first BAR, through VFIO's region.
func (d *VFIODevice) Register(at uint64) (uint32, error) {
	bar, err := d.device.Region(uapi.VFIOPCIBAR0)
	d.t.must(err)
	return bar.Read32(at)
}

// SetRegister writes one.
func (d *VFIODevice) SetRegister(at uint64, value uint32) error {
	bar, err := d.device.Region(uapi.VFIOPCIBAR0)
	d.t.must(err)
	return bar.Write32(at, value)
}
