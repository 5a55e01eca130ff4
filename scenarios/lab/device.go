package lab

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nestbed/nestbed/guestagent/pci"
)

// Device is a kind of device under test. The host knows it by its name, the guest by its id.
type Device struct {
	Name  string
	ID    pci.ID
	alive func(pci.Registers) error // reads BAR 0 without VFIO
	bar   int                       // bytes of BAR 0 that alive looks at
}

// The devices that a scenario can ask for. The host must know them by the same names (harness/machine).
var (
	// EDU is QEMU's educational device: the device of choice, because its DMA engine does what it is told.
	// It has INTx and one MSI vector, and no reset of its own.
	EDU = Device{Name: "edu", ID: pci.EDUID, bar: pci.EDUBarSize, alive: func(r pci.Registers) error { return pci.EDU{Registers: r}.Alive() }}
	// NVMe has MSI-X and FLR.
	NVMe = Device{Name: "nvme", ID: pci.ID{Vendor: 0x1b36, Device: 0x0010}, bar: 4096, alive: nvmeAlive}
	// NVMeSRIOV is an NVMe that can have two virtual functions.
	NVMeSRIOV = Device{Name: "nvme-sriov", ID: NVMe.ID, bar: 4096, alive: nvmeAlive}
	// E1000E has INTx, MSI, MSI-X, FLR, and power management.
	E1000E = Device{Name: "e1000e", ID: pci.ID{Vendor: 0x8086, Device: 0x10d3}, bar: 4096, alive: e1000eAlive}
	// Testdev is pci-testdev: BARs and nothing else.
	Testdev = Device{Name: "pci-testdev", ID: pci.ID{Vendor: 0x1b36, Device: 0x0005}, bar: 4096, alive: testdevAlive}
)

// DeviceNamed finds a kind of device by its name.
func DeviceNamed(name string) (Device, error) {
	kinds := []Device{EDU, NVMe, E1000E, Testdev}
	names := make([]string, len(kinds))
	for i, d := range kinds {
		if d.Name == name {
			return d, nil
		}
		names[i] = d.Name
	}
	return Device{}, fmt.Errorf("unknown device %q, there are: %s", name, strings.Join(names, ", "))
}

// nvmeAlive reads the version register, which is 1.x for every controller.
func nvmeAlive(r pci.Registers) error {
	version, err := r.Read32(0x08)
	if err == nil && version>>16 != 1 {
		err = fmt.Errorf("nvme: version register reads %#x", version)
	}
	return err
}

// e1000eAlive writes the flow control transmit timer, which is 16 bits of plain storage, and reads it back.
func e1000eAlive(r pci.Registers) error {
	const timer, probe = 0x0170, 0x5aa5
	err := r.Write32(timer, probe)
	if err != nil {
		return err
	}
	got, err := r.Read32(timer)
	if err == nil && got != probe {
		err = fmt.Errorf("e1000e: wrote %#x to a timer, read %#x", probe, got)
	}
	return err
}

// testdevAlive selects the first test and reads its header, which is all zeros as long as none is selected:
// the number, the width of an access and the name's place are then neither zeros nor ones.
func testdevAlive(r pci.Registers) error {
	if err := r.Write32(0, 0); err != nil {
		return err
	}
	head, err := r.Read32(0)
	if err == nil && (head == 0 || head == 0xffffffff) {
		err = fmt.Errorf("pci-testdev: header reads %#x", head)
	}
	return err
}

// proveAlive reaches the device without VFIO and without an IOMMU in between. A dead device would pass
// every check that nothing arrives.
func (t *T) proveAlive(dev pci.Device, kind Device) {
	if kind.alive == nil {
		t.Broken("nothing here can prove a " + kind.Name + " alive")
	}
	bar, err := dev.MapBAR(0, kind.bar)
	t.mustHost("prove the device alive", err)
	err = errors.Join(kind.alive(bar), bar.Close())
	t.mustHost("prove the device alive", err)
	// Evidence of which device it was, and how it was set up.
	var space [256]byte
	t.mustHost("prove the device alive", dev.Config().Read(space[:], 0))
	t.stream.log(fmt.Sprintf("%s is %s, config space %x", kind.Name, dev.Address, space))
}
