package plan

import (
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A skip stands only while what the host knows by itself does not speak against it: a kernel that has lost
// something it was built with, and says so, fails.
func TestRefute(t *testing.T) {
	cache, err := kernels.Open(filepath.Join(t.TempDir(), "kernels"))
	assert.NilError(t, err)
	k, err := cache.Add(t.Context(), kernelFolder(t, t.TempDir()), func(string) {})
	assert.NilError(t, err)

	amd := machine.Machine{Name: "amd", IOMMU: machine.AMDIOMMU}
	amdKVM, amdNative, intel := amd, amd, machine.Machine{Name: "intel", IOMMU: machine.IntelIOMMU}
	amdKVM.Accel, amdNative.NativeHotplug = machine.KVM, true
	promised := lab.Scenario{Needs: lab.Needs{MinKernel: "6.6"}}
	config := func(option string) record.SkipReason {
		return record.SkipReason{Kind: record.SkipConfig, Option: option}
	}
	builtIn := func(module string) record.SkipReason {
		return record.SkipReason{Kind: record.SkipConfig, BuiltIn: module}
	}
	since := func(v string) record.SkipReason { return record.SkipReason{Kind: record.SkipVersion, Since: v} }
	deaf := record.SkipReason{Kind: record.SkipMachine, Limit: record.LimitDeafIOAPIC}
	noFLR := record.SkipReason{Kind: record.SkipMachine, Limit: record.LimitNVMeFLR}

	for name, c := range map[string]struct {
		cell Cell
		qemu string
		skip record.SkipReason
		want string // "": the skip stands
	}{
		"option missing":       {Cell{Kernel: k}, "", config("CONFIG_IOMMUFD"), ""},
		"option there":         {Cell{Kernel: k}, "", config("CONFIG_HOTPLUG_PCI_ACPI"), "the guest says that CONFIG_HOTPLUG_PCI_ACPI is missing, the kernel's configuration says y"},
		"option not known":     {Cell{Kernel: kernels.Kernel{Release: "6.12.9"}}, "", config("CONFIG_VFIO"), ""},
		"promised and missing": {Cell{Kernel: k, Scenario: promised}, "", config("CONFIG_IOMMUFD"), ""},
		"built in":             {Cell{Kernel: k}, "", builtIn("kvm"), ""},
		"not built in":         {Cell{Kernel: k}, "", builtIn("iommufd"), "the guest says that iommufd is built in, as this kernel was imported it is: absent"},

		"older":              {Cell{Kernel: kernels.Kernel{Release: "5.6.19"}}, "", since("5.7"), ""},
		"not older":          {Cell{Kernel: kernels.Kernel{Release: "5.7.0-rc1"}}, "", since("5.7"), "Linux 5.7 and later have it, this is 5.7.0-rc1"},
		"older and promised": {Cell{Kernel: k, Scenario: promised}, "", since("9.9"), "the scenario runs from Linux 6.6 on, this is 6.12.9-test"},
		"of no version":      {Cell{Kernel: k}, "", since("new"), `the guest names no version ("new")`},

		"deaf":               {Cell{Machine: amd}, "10.0.2", deaf, ""},
		"deaf, older QEMU":   {Cell{Machine: amd}, "7.2.22", deaf, "machine amd of QEMU 7.2.22, accelerator tcg: interrupts of the IO-APIC arrive there"},
		"deaf, KVM":          {Cell{Machine: amdKVM}, "10.0.2", deaf, "machine amd of QEMU 10.0.2, accelerator kvm: interrupts of the IO-APIC arrive there"},
		"deaf, pciehp":       {Cell{Machine: amdNative}, "10.0.2", deaf, "machine amd of QEMU 10.0.2, accelerator tcg: interrupts of the IO-APIC arrive there"},
		"deaf, other IOMMU":  {Cell{Machine: intel}, "10.0.2", deaf, "machine intel of QEMU 10.0.2, accelerator tcg: interrupts of the IO-APIC arrive there"},
		"deaf, unknown QEMU": {Cell{Machine: amd}, "", deaf, "machine amd of QEMU of unknown version, accelerator tcg: interrupts of the IO-APIC arrive there"},
		"no FLR":             {Cell{Machine: intel}, "7.0.0", noFLR, ""},
		"no FLR, newer QEMU": {Cell{Machine: intel}, "7.2.22", noFLR, "machine intel of QEMU 7.2.22, accelerator tcg: its nvme has a function level reset"},
		"unknown limit":      {Cell{Machine: intel}, "7.2.22", record.SkipReason{Kind: record.SkipMachine, Limit: "x"}, `machine intel of QEMU 7.2.22, accelerator tcg: no limit "x" is known of it`},

		"of no kind":      {Cell{Kernel: k}, "", record.SkipReason{Reason: "I would rather not"}, `the guest's skip is of no kind ("")`},
		"config, no fact": {Cell{Kernel: k}, "", record.SkipReason{Kind: record.SkipConfig}, `the guest's skip is of no kind ("config")`},
	} {
		assert.Equal(t, Refute(c.cell, c.qemu, c.skip), c.want, name)
	}
}
