package plan

import (
	"cmp"
	"fmt"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results/record"
)

// Refute says why what a guest's skip rests on is not so, "" when nothing speaks against the skip. qemu is the
// version of the QEMU that the cell ran on. What the host cannot tell, the configuration of a kernel that came
// without one, speaks against nothing; a skip of no kind rests on nothing.
func Refute(c Cell, qemu string, s record.SkipReason) string {
	switch {
	case s.Kind == record.SkipConfig && s.Option != "":
		if value := c.Kernel.Option(s.Option); value != "n" && value != "" {
			return fmt.Sprintf("the guest says that %s is missing, the kernel's configuration says %s", s.Option, value)
		}
		return ""
	case s.Kind == record.SkipConfig && s.BuiltIn != "":
		if how := c.Kernel.Has(s.BuiltIn); how != kernels.BuiltIn && how != kernels.Unknown {
			return fmt.Sprintf("the guest says that %s is built in, as this kernel was imported it is: %s", s.BuiltIn, how)
		}
		return ""
	case s.Kind == record.SkipVersion:
		return refuteVersion(c, s.Since)
	case s.Kind == record.SkipMachine:
		return refuteLimit(c.Machine, qemu, s.Limit)
	}
	return fmt.Sprintf("the guest's skip is of no kind (%.32q)", s.Kind)
}

func refuteVersion(c Cell, since string) string {
	// A version among the needs is a promise: from there on the scenario runs.
	if promised := c.Needs().MinKernel; promised != "" {
		return fmt.Sprintf("the scenario runs from Linux %s on, this is %s", promised, c.Kernel.Release)
	}
	first, err := kernels.ParseVersion(since)
	if err != nil {
		return fmt.Sprintf("the guest names no version (%.32q)", since)
	}
	if v := c.Kernel.Version(); !v.Less(first) {
		return fmt.Sprintf("Linux %s and later have it, this is %s", first, c.Kernel.Release)
	}
	return ""
}

// refuteLimit knows which machines have a limit. The version is the most that can be told: no property of
// QEMU's says either.
func refuteLimit(m machine.Machine, qemu string, limit record.MachineLimit) string {
	v, err := kernels.ParseVersion(qemu) // QEMU's has the same form
	this := fmt.Sprintf("machine %s of QEMU %s, accelerator %s", m.Name, cmp.Or(qemu, "of unknown version"), cmp.Or(m.Accel, machine.TCG))
	switch limit {
	case record.LimitDeafIOAPIC:
		// Seen with the amd-iommu of QEMU 10 under TCG, and never with that of 7.2.
		if m.IOMMU == machine.AMDIOMMU && m.Accel != machine.KVM && !m.NativeHotplug && err == nil && !v.Less(kernels.Version{Major: 8}) {
			return ""
		}
		return this + ": interrupts of the IO-APIC arrive there"
	case record.LimitNVMeFLR:
		if err == nil && v.Less(kernels.Version{Major: 7, Minor: 1}) {
			return ""
		}
		return this + ": its nvme has a function level reset"
	}
	return fmt.Sprintf("%s: no limit %.32q is known of it", this, limit)
}
