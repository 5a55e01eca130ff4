package fragments

import (
	"fmt"
	"strings"

	"github.com/nestbed/nestbed/kernels"
)

// Flavour is a way to build a kernel.
type Flavour struct {
	Name    string
	Purpose string
	Cost    string          // in boot time and a cell's CPU time, of base's (BenchmarkFlavours, 6.12 under TCG); "" where nobody has measured
	Since   kernels.Version // the oldest tree that has it

	adds []string // fragments on top of those that every flavour has
}

// common are the fragments of every flavour, in the order of their merging: the last word counts.
var common = []string{"base", "console", "kvm", "vfio", "iommu", "pci", "observe"}

// Flavours lists them all.
func Flavours() []Flavour {
	return []Flavour{
		{Name: "base", Purpose: "small and fast", Cost: "boots in 0.44 of the stock kernel's time"},
		{Name: "lockdep", Purpose: "lock order, sleeping in atomic context", Cost: "boots 1.7 times as long as base, a cell takes 1.5 times its CPU", adds: []string{"lockdep"}},
		{Name: "kasan", Purpose: "use after free, leaks, list and object life cycles; lockdep too", Cost: "boot 9.7 times, a cell 8 times", adds: []string{"lockdep", "kasan"}},
		{Name: "fault", Purpose: "failing allocations and copies; mock IOMMU domains", Cost: "boot 1.0, a cell 1.2 times", adds: []string{"fault"}},
		{Name: "vfio-y", Purpose: "VFIO and IOMMUFD built in, KVM as modules", Cost: "a cell 1.2 times", adds: []string{"vfio-y"}},
		{Name: "kvm-y", Purpose: "KVM built in, its vendor modules and VFIO as modules", Cost: "boot 1.1, a cell 1.2 times", adds: []string{"kvm-y"}},
		{Name: "kvm-n", Purpose: "VFIO without KVM", Cost: "boot 1.1, a cell 1.1 times", adds: []string{"kvm-n"}},
		{Name: "iommufd-y", Purpose: "IOMMUFD built in, VFIO as modules", Cost: "boot 1.1, a cell 1.3 times", Since: kernels.Version{Major: 6, Minor: 2}, adds: []string{"iommufd-y"}},
		{Name: "vfio-group-n", Purpose: "VFIO by cdev only", Since: kernels.Version{Major: 6, Minor: 6}, adds: []string{"vfio-group-n"}},
		{Name: "container-n", Purpose: "IOMMUFD in the container's place", Cost: "boot 1.2 times", Since: kernels.Version{Major: 6, Minor: 2}, adds: []string{"container-n"}},
		{Name: "preempt-rt", Purpose: "sleeping spinlocks, threaded interrupts", Cost: "boot 1.0 times; no KVM under TCG", Since: kernels.Version{Major: 6, Minor: 12}, adds: []string{"preempt-rt"}},
	}
}

// Named gives a flavour.
func Named(name string) (Flavour, error) {
	var names []string
	for _, f := range Flavours() {
		if f.Name == name {
			return f, nil
		}
		names = append(names, f.Name)
	}
	return Flavour{}, fmt.Errorf("no flavour %q, there are %s", name, strings.Join(names, ", "))
}

// Fragments are what the flavour is merged of, in this order.
func (f Flavour) Fragments() ([]Fragment, error) {
	list, err := load(append(append([]string(nil), common...), f.adds...))
	if err != nil {
		return nil, err
	}
	// uname -r then says which of a tree's kernels it is.
	local, err := Parse("the flavour's name", []byte(fmt.Sprintf("CONFIG_LOCALVERSION=\"-%s\"\n", f.Name)))
	return append(list, local), err
}
