package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/fragments"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// unfit says why a scenario with these needs cannot run on this kernel and machine, and what would make it
// run; both empty if it can. What only the guest can tell is left to the scenario. Of the other
// kernels that this host has, the remedy names one that would do.
func (r Request) unfit(needs lab.Needs, k kernels.Kernel, m machine.Machine) (reason, remedy string) {
	if reason, remedy := unfitMachine(needs, m); reason != "" {
		return reason, remedy
	}
	if reason := unfitQEMU(needs, r.QEMU); reason != "" {
		return reason, "a newer QEMU (--qemu PATH)"
	}
	for _, judge := range []func(lab.Needs, kernels.Kernel, machine.Machine) (string, string){unfitKernel, unfitIOMMU} {
		if reason, remedy := judge(needs, k, m); reason != "" {
			if spec := r.fitting(needs, k, m); spec != "" {
				return reason, remedy + ", for example -k " + spec
			}
			return reason, remedy + buildable(remedy)
		}
	}
	return "", ""
}

// withOption begins the remedy for an option that a kernel was built without.
const withOption = "a kernel with "

// buildable names the build that makes a kernel with the option that remedy asks for, if nestbed's own have it.
func buildable(remedy string) string {
	option, ok := strings.CutPrefix(remedy, withOption+"CONFIG_")
	if !ok {
		return ""
	}
	base, err := fragments.Named("base")
	if err != nil {
		return ""
	}
	parts, err := base.Fragments()
	if err != nil {
		return ""
	}
	for _, f := range parts {
		for _, o := range f.Options {
			if o.Name == option && o.Value != "n" {
				return ": nestbed kernel build debian-source:6.12 makes one"
			}
		}
	}
	return ""
}

// fitting is the SPEC of the kernel nearest to k that has what k lacks, "" if none has. Only SPECs that mean
// the same on every host are named: the distribution's kernels, and what is built of its sources.
func (r Request) fitting(needs lab.Needs, k kernels.Kernel, m machine.Machine) string {
	best, spec := kernels.Version{}, ""
	for _, other := range r.Others {
		i := slices.IndexFunc(other.Specs, func(s string) bool { return strings.HasPrefix(s, "debian:") || strings.HasPrefix(s, "build:debian-") })
		if i < 0 || spec != "" && !nearer(other.Version(), best, k.Version()) {
			continue
		}
		if reason, _ := (Request{}).unfit(needs, other, m); reason == "" {
			best, spec = other.Version(), other.Specs[i]
		}
	}
	return spec
}

// nearer says whether v is nearer to the kernel at hand than w. Of two that are as near, the newer one is.
func nearer(v, w, to kernels.Version) bool {
	far := func(v kernels.Version) int {
		const minors = 20 // of a major version, since 3.0
		n := (v.Major-to.Major)*minors + v.Minor - to.Minor
		return max(n, -n)
	}
	if far(v) == far(w) {
		return w.Less(v)
	}
	return far(v) < far(w)
}

// unfitQEMU says what of the scenario's devices this QEMU does not have: without it, device_add would fail.
func unfitQEMU(needs lab.Needs, q QEMU) string {
	if q == nil {
		return ""
	}
	for _, d := range needs.Devices {
		dev, err := machine.DeviceNamed(d.Name)
		if err != nil {
			continue // fails when it is asked for
		}
		drivers := []string{dev.Driver}
		if dev.NVMeSubsystem {
			drivers = append(drivers, machine.NVMeSubsystemDriver)
		}
		for _, driver := range drivers {
			if !q.HasDevice(driver) {
				return "needs QEMU's device " + driver + ", which this QEMU does not have"
			}
		}
		for _, property := range slices.Sorted(maps.Keys(dev.Props)) {
			if !q.HasProperty(dev.Driver, property) {
				return "needs " + property + " of QEMU's device " + dev.Driver + ", which this QEMU does not have"
			}
		}
	}
	return ""
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

func unfitKernel(needs lab.Needs, k kernels.Kernel, m machine.Machine) (reason, remedy string) {
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
			return "needs " + option + ", which this kernel was built without", withOption + option
		}
	}
	for _, option := range needs.Without {
		if v := k.Option(option); v == "y" || v == "m" {
			return "needs a kernel without " + option + ", which this one has", "a kernel without " + option
		}
	}
	for _, name := range needs.Modules {
		if k.Has(name) == kernels.Absent {
			return "needs module " + name + ", which this kernel does not have", withOption + "CONFIG_" + strings.ToUpper(name)
		}
	}
	// kvm_arch_init of a PREEMPT_RT kernel refuses a CPU without X86_FEATURE_CONSTANT_TSC, which an AMD CPU has by
	// CPUID's invtsc, and TCG has no such.
	if slices.Contains(needs.Modules, "kvm") && m.Accel != machine.KVM && k.Option("CONFIG_PREEMPT_RT") == "y" {
		return "needs KVM, which a PREEMPT_RT kernel has on a CPU with a constant TSC only: TCG emulates none", "a host with KVM, or a kernel without CONFIG_PREEMPT_RT"
	}
	return "", ""
}
