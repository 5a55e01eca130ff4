package lab

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// KVMVendor stands for kvm_amd or kvm_intel, whichever this CPU uses.
const KVMVendor = "kvm vendor"

// underTest are the modules whose references the closing invariant compares, as far as they are loaded.
var underTest = []string{
	"kvm", "kvm_amd", "kvm_intel", "irqbypass",
	"vfio", "vfio_pci", "vfio_pci_core", "vfio_iommu_type1", "vfio_virqfd", "iommufd",
}

// loadedUnderTest names the modules under test that are loaded.
func (t *T) loadedUnderTest() []string {
	return slices.DeleteFunc(slices.Clone(underTest), func(name string) bool { return !t.mods.Loaded(name) })
}

// Module is a kernel module under test.
type Module struct {
	t    *T
	name string
}

// Module names a module, or KVMVendor.
func (t *T) Module(name string) *Module {
	if name == KVMVendor {
		if t.vendor == "" {
			t.Broken("scenario " + t.scenario.Name + ` asks for the KVM vendor module, its Needs do not say "kvm"`)
		}
		name = t.vendor
	}
	return &Module{t, name}
}

// Refs is the reference count, other modules that use it included. A module that is built into the kernel
// has none, and the scenario is skipped.
func (m *Module) Refs() int {
	m.needsModule()
	n, err := m.t.mods.Refs(m.name)
	m.t.must(err)
	m.t.asked = append(m.t.asked, m.name)
	return n
}

// needsModule ends the scenario if the module is built into this kernel.
func (m *Module) needsModule() {
	if m.t.mods.Present(m.name) && !m.t.mods.Loaded(m.name) {
		m.t.SkipBuiltIn(m.name)
	}
}

// Held is how many references are taken beyond those of an idle guest with its devices bound.
func (m *Module) Held() int { return m.Refs() - m.t.idle.refs[m.name] }

// Unload tries to unload the module. If that succeeds, the module is loaded again at the scenario's end at
// the latest. One that is built into the kernel cannot be, and the scenario is skipped.
func (m *Module) Unload() error {
	m.needsModule()
	m.t.asked = append(m.t.asked, m.name)
	err := m.t.mods.Unload(m.name)
	if err == nil {
		m.t.atEnd("load "+m.name+" again", func() error { return m.t.mods.Load(m.name) })
	}
	return err
}

// StartUnload begins an Unload whose end the module's exit function may keep waiting for. If the module goes, it is
// loaded again at the scenario's end at the latest.
func (m *Module) StartUnload() *Pending {
	m.needsModule()
	m.t.atEnd("load "+m.name+" again", func() error { return m.t.mods.Load(m.name) })
	return m.t.Start("unload "+m.name, func() error { return m.t.mods.Unload(m.name) })
}

// Load loads the module and what it depends on; nothing happens if it is there.
func (m *Module) Load() {
	there := m.Loaded()
	m.t.must(m.t.mods.Load(m.name))
	if m.name == "vfio_iommu_type1" && !there && m.t.slots > 0 {
		m.t.allowInterrupts() // what BindVFIO told it went with it
	}
}

// loadNeeds loads what the scenario needs, and finds the CPU's vendor module on the way.
func (t *T) loadNeeds() error {
	for _, name := range t.scenario.NeedsOf(t.env.Variant).Modules {
		if err := t.mods.Load(name); err != nil {
			return err
		}
		switch name {
		case "kvm":
			vendor, err := cpuVendorModule(t.env.Root)
			if err != nil {
				return err
			}
			if err := t.mods.Load(vendor); err != nil {
				return fmt.Errorf("KVM does not work in this guest: %w", err)
			}
			t.vendor = vendor
		case "vfio_pci":
			// vfio.ko asks modprobe for it, which this guest has not. A kernel without containers has none.
			if !t.mods.Has("vfio_iommu_type1") {
				continue
			}
			if err := t.mods.Load("vfio_iommu_type1"); err != nil {
				return err
			}
		}
	}
	return nil
}

// cpuVendorModule looks for the CPU's virtualization feature.
func cpuVendorModule(root string) (string, error) {
	info, err := os.ReadFile(root + "/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(info)) {
		if key, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "flags" {
			for flag := range strings.FieldsSeq(flags) {
				switch flag {
				case "svm":
					return "kvm_amd", nil
				case "vmx":
					return "kvm_intel", nil
				}
			}
			break
		}
	}
	return "", fmt.Errorf("the guest's CPU has neither svm nor vmx: KVM cannot work in it")
}

// Name is the module's own, also of KVMVendor.
func (m *Module) Name() string { return m.name }

// Loaded reports whether the kernel has it as a module, now.
func (m *Module) Loaded() bool { return m.t.mods.Loaded(m.name) }
