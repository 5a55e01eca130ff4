package scenarios

import (
	"fmt"
	"strings"
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device goes back and forth between vfio-pci and its native driver. Each works while it has the device: under
// e1000e it is a network interface in the kernel's own IOMMU domain, under vfio-pci a VM holds it and user space
// has it open. Each gives everything back when it goes, so that the last round is as good as the first.
//
// 25 rounds: e1000e's probe resets the chip, which sleeps, and under emulation costs more than the rest of a
// round; a leak of one reference in a round shows in the first, and in all of them whatever grows or wears out.
var _ = lab.Register(lab.Scenario{
	Name:    "detach-driver-override-cycle",
	Summary: "a device goes 25 times between vfio-pci and its native driver, and works under both each time",
	Area:    lab.Detach,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.E1000E},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI", "CONFIG_E1000E"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		const rounds = 25
		dev := t.BindVFIO(lab.E1000E)
		t.Module("e1000e").Load() // only now: a device that comes is its driver's
		refs := t.RefCounter(t.Module(lab.KVMVendor), t.Module("kvm"), t.Module("vfio"), t.Module("vfio_pci"), t.Module("vfio_iommu_type1"))
		idle := refs.String()

		t.Step(fmt.Sprintf("%d rounds", rounds))
		for round := 1; round <= rounds; round++ {
			var off []string
			want := func(ok bool, what string) {
				if !ok {
					off = append(off, what)
				}
			}
			vm := t.NewVM()
			vm.AddVFIO(dev)
			dev.Open()
			info := dev.Info()
			want(info.PCI && info.Regions >= 9, "the open device answers")
			dev.Close()
			vm.Close()
			want(vm.Destroyed(), "the VM is destroyed")
			want(refs.String() == idle, "references: want "+idle+", got "+refs.String())

			began := time.Now()
			want(dev.Unbind() == nil, "vfio-pci gives it away")
			want(dev.Driver() == "", "it has no driver then")
			want(dev.BindTo("e1000e") == nil, "e1000e takes it")
			want(dev.Driver() == "e1000e", "e1000e has it")
			want(dev.NetInterfaces() == 1, "it is a network interface")
			want(dev.Unbind() == nil, "e1000e gives it away")
			want(dev.NetInterfaces() == 0, "it is a network interface no more")
			want(dev.BindTo("vfio-pci") == nil, "vfio-pci takes it")
			t.WantText(strings.Join(off, "; "), "", fmt.Sprintf("round %d: each driver works and lets go", round))
			t.Log(time.Since(began).String())
		}
		t.WantIdle("every reference is back")

		t.Step("once more: the device works")
		dev.Open()
		t.Check(dev.Info().PCI, "the device answers")
		dev.Close()
	},
})
