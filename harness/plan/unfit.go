package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// unfit says why a scenario with these needs cannot run on this kernel and machine, and what would make it
// run; both empty if it can. What only the guest can tell is left to the scenario. Of the others, kernels that
// this host has, the remedy names one that would do.
func unfit(needs lab.Needs, k kernels.Kernel, m machine.Machine, others []kernels.Kernel) (reason, remedy string) {
	if reason, remedy := unfitMachine(needs, m); reason != "" {
		return reason, remedy
	}
	for _, judge := range []func(lab.Needs, kernels.Kernel, machine.Machine) (string, string){unfitKernel, unfitIOMMU} {
		if reason, remedy := judge(needs, k, m); reason != "" {
			if spec := fitting(needs, k, m, others); spec != "" {
				remedy += ", for example -k " + spec
			}
			return reason, remedy
		}
	}
	return "", ""
}

// fitting is the SPEC of the kernel nearest to k that has what k lacks, "" if none has. Only SPECs that mean
// the same on every host are named.
func fitting(needs lab.Needs, k kernels.Kernel, m machine.Machine, others []kernels.Kernel) string {
	best, spec := kernels.Version{}, ""
	for _, other := range others {
		i := slices.IndexFunc(other.Specs, func(s string) bool { return strings.HasPrefix(s, "debian:") })
		if i < 0 || spec != "" && !nearer(other.Version(), best, k.Version()) {
			continue
		}
		if reason, _ := unfit(needs, other, m, nil); reason == "" {
			best, spec = other.Version(), other.Specs[i]
		}
	}
	return spec
}

// nearer says whether v is nearer to the kernel at hand than w. On either side of it all are newer or all are
// older as a rule; where they are not, the newer ones go first.
func nearer(v, w, to kernels.Version) bool {
	if to.Less(v) && to.Less(w) {
		return v.Less(w)
	}
	return w.Less(v)
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

func unfitKernel(needs lab.Needs, k kernels.Kernel, _ machine.Machine) (reason, remedy string) {
	v := k.Version()
	// A bound that does not parse is refused when the scenario registers.
	if lowest, err := kernels.ParseVersion(needs.MinKernel); err == nil && v.Less(lowest) {
		return fmt.Sprintf("needs Linux %s or later, this is %s", lowest, k.Release), "a kernel of " + lowest.String() + " or newer"
	}
	if highest, err := kernels.ParseVersion(needs.MaxKernel); err == nil && highest.Less(v) {
		return fmt.Sprintf("needs Linux %s or earlier, this is %s", highest, k.Release), "a kernel of " + highest.String() + " or older"
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
