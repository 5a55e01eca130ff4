package lab

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nestbed/nestbed/guestagent/vfio"
)

// Unbind takes the device from its driver, as root would through sysfs. It waits as long as the driver does.
func (d *VFIODevice) Unbind() error { return d.pci.Unbind() }

// BindTo gives the device, which has no driver, to one: by driver_override, whether or not it is on the driver's
// list.
func (d *VFIODevice) BindTo(driver string) error { return d.pci.Bind(driver) }

// Driver is the driver that the device is bound to, "" for none.
func (d *VFIODevice) Driver() string {
	name, err := d.pci.Driver()
	d.t.mustHost("driver of the device", err)
	return name
}

// NetInterfaces counts the network interfaces that the device's driver has made of it.
func (d *VFIODevice) NetInterfaces() int {
	entries, err := os.ReadDir(filepath.Join(d.t.env.Root, "/sys/bus/pci/devices", d.pci.Address, "net"))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	d.t.mustHost("network interfaces of the device", err)
	return len(entries)
}

// TryOpen is GET_DEVICE_FD of a device whose group is attached, for a scenario that judges the outcome: what it
// opens it closes again.
func (d *VFIODevice) TryOpen() error {
	device, err := d.group.Device(d.pci.Address)
	if err == nil {
		d.t.must(device.Close())
	}
	return err
}

// TryOpenGroup opens the device's group, for a scenario that judges the outcome: what it opens it closes again.
func (d *VFIODevice) TryOpenGroup() error {
	group, err := vfio.OpenGroup(d.number)
	if err == nil {
		d.t.must(group.Close())
	}
	return err
}

// SettleDMA waits until edu's engine is through with what somebody else began.
func (d *VFIODevice) SettleDMA() {
	ctx, cancel := d.t.patience(5 * time.Second)
	defer cancel()
	d.t.mustDevice("DMA of edu", d.edu.Settle(ctx))
}

// KernelSymbol is the first of these functions that the kernel has: the one for Pending.BlockedIn where kernels
// name it differently.
func (t *T) KernelSymbol(names ...string) string {
	table := t.symbols()
	for _, name := range names {
		if table.has(name) {
			return name
		}
	}
	t.Broken("this kernel has no function " + strings.Join(names, " or ") + ": its name has changed")
	return ""
}

// HasSymbol reports whether the kernel has a function. It tells how a kernel was configured where nothing else does.
func (t *T) HasSymbol(name string) bool { return t.symbols().has(name) }

// symbols is the kernel's list of its functions.
func (t *T) symbols() symbolTable {
	table, err := os.ReadFile(filepath.Join(t.env.Root, "/proc/kallsyms"))
	if errors.Is(err, fs.ErrNotExist) {
		t.SkipConfig("CONFIG_KALLSYMS", "this kernel does not name its functions")
	}
	t.mustHost("symbols of the kernel", err)
	return table
}

type symbolTable []byte

func (s symbolTable) has(name string) bool {
	// A module's function is followed by its module.
	return bytes.Contains(s, []byte(" "+name+"\n")) || bytes.Contains(s, []byte(" "+name+"\t"))
}

// GroupViable asks the open group whether every device of it is bound to VFIO or to nothing.
func (d *VFIODevice) GroupViable() (bool, error) { return d.group.Viable() }
