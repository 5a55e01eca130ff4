package machine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Device is a PCI device that is hot-added behind a root port.
type Device struct {
	Name   string         // as scenarios name it
	Driver string         // QEMU's
	Props  map[string]any // QEMU's, as QMP takes them

	// NVMeSubsystem says that the device belongs to the machine's NVMe subsystem, which cannot be hot-added.
	NVMeSubsystem bool
}

// devices are those that a scenario can ask for.
func devices() []Device {
	return []Device{
		{Name: "edu", Driver: "edu"},
		{Name: "nvme", Driver: "nvme", Props: map[string]any{"serial": "nestbed"}},
		// Two virtual functions; the other numbers are the least that QEMU accepts for them.
		{Name: "nvme-sriov", Driver: "nvme", NVMeSubsystem: true, Props: map[string]any{
			"serial": "nestbed", "subsys": nvmeSubsystemID,
			"sriov_max_vfs": 2, "sriov_vq_flexible": 4, "sriov_vi_flexible": 2,
		}},
		// No option ROM: nothing boots from these, and some distributions package the ROMs apart.
		{Name: "e1000e", Driver: "e1000e", Props: map[string]any{"romfile": ""}},
		{Name: "igb", Driver: "igb", Props: map[string]any{"romfile": ""}},
		{Name: "pci-testdev", Driver: "pci-testdev"},
		// A virtio device goes round the IOMMU unless it is told not to.
		{Name: "virtio-net-pci", Driver: "virtio-net-pci", Props: map[string]any{"romfile": "", "disable-legacy": "on", "iommu_platform": true}},
	}
}

// DeviceNamed returns the device that scenarios call so.
func DeviceNamed(name string) (Device, error) {
	var names []string
	for _, d := range devices() {
		if d.Name == name {
			return d, nil
		}
		names = append(names, d.Name)
	}
	return Device{}, fmt.Errorf("unknown device %q, there are: %s", name, strings.Join(names, ", "))
}

// Drivers are the QEMU devices that the named machines and their hot-added devices are made of.
func Drivers() []string {
	var drivers []string
	for _, m := range named() {
		args := m.Args()
		for i, a := range args[:len(args)-1] {
			if a == "-device" {
				driver, _, _ := strings.Cut(args[i+1], ",")
				drivers = append(drivers, driver)
			}
		}
	}
	for _, d := range devices() {
		drivers = append(drivers, d.Driver)
	}
	slices.Sort(drivers)
	return slices.Compact(drivers)
}

// Add is the argument object of QMP's device_add that puts the device behind root port number port, from 1.
func (d Device) Add(id string, port int) map[string]any {
	args := map[string]any{"driver": d.Driver, "id": id, "bus": PortID(port)}
	maps.Copy(args, d.Props)
	return args
}
