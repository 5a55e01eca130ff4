package plan

import (
	"fmt"
	"strings"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// unfit says why a scenario with these needs cannot run on this kernel and machine, and what would make it
// run; both empty if it can. What only the guest can tell is left to the scenario.
func unfit(needs lab.Needs, k kernels.Kernel, m machine.Machine) (reason, remedy string) {
	if reason, remedy := unfitMachine(needs, m); reason != "" {
		return reason, remedy
	}
	if reason, remedy := unfitKernel(needs, k); reason != "" {
		return reason, remedy
	}
	return unfitIOMMU(needs, k, m)
}

// iommuDriver is the option of the driver that a machine's vIOMMU needs.
var iommuDriver = map[machine.IOMMU]string{
	machine.IntelIOMMU: "CONFIG_INTEL_IOMMU", machine.AMDIOMMU: "CONFIG_AMD_IOMMU", machine.VirtioIOMMU: "CONFIG_VIRTIO_IOMMU",
}

func unfitIOMMU(needs lab.Needs, k kernels.Kernel, m machine.Machine) (reason, remedy string) {
	driver := iommuDriver[m.IOMMU]
	if needs.IOMMU == lab.AnyIOMMU && k.Option(driver) == "n" {
		return "machine " + m.Name + " needs " + driver + ", which this kernel was built without", "-m intel, or a kernel with " + driver
	}
	return "", ""
}

func unfitMachine(needs lab.Needs, m machine.Machine) (reason, remedy string) {
	switch {
	case needs.IOMMU == lab.AnyIOMMU && (m.IOMMU == machine.NoIOMMU || m.IOMMU == ""):
		return "needs a vIOMMU, machine " + m.Name + " has none", "-m intel"
	case len(needs.Devices) > m.RootPorts:
		return fmt.Sprintf("needs %d devices, machine %s has %d root ports", len(needs.Devices), m.Name, m.RootPorts), "-m intel"
	}
	return "", ""
}

func unfitKernel(needs lab.Needs, k kernels.Kernel) (reason, remedy string) {
	v := k.Version()
	// A bound that does not parse is refused when the scenario registers.
	if lowest, err := kernels.ParseVersion(needs.MinKernel); err == nil && v.Less(lowest) {
		return fmt.Sprintf("needs Linux %s or later, this is %s", lowest, k.Release), "-k debian:" + lowest.String()
	}
	if highest, err := kernels.ParseVersion(needs.MaxKernel); err == nil && highest.Less(v) {
		return fmt.Sprintf("needs Linux %s or earlier, this is %s", highest, k.Release), "-k debian:" + highest.String()
	}
	for _, option := range needs.Options {
		if k.Option(option) == "n" {
			return "needs " + option + ", which this kernel was built without", "a kernel with " + option
		}
	}
	for _, name := range needs.Modules {
		if k.Has(name) == kernels.Absent {
			return "needs module " + name + ", which this kernel does not have", "a kernel with CONFIG_" + strings.ToUpper(name)
		}
	}
	return "", ""
}
