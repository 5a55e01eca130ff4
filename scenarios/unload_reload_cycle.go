package scenarios

import (
	"fmt"
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// The whole stack down and up, again and again: what a module registers it takes back, so that the next
// one finds the place empty (kvm_vfio_ops_init warned of a device type that was there already before
// 571ee1b68598 and 3c3c29fd0d7c), no reference count creeps, and the device that was bound comes back with
// driver_override and attaches as the first time. KVM and VFIO go down and come up in either order.
//
// A round takes two seconds of an emulated CPU on a stock kernel, most of it to load kvm, kvm_amd and vfio_pci;
// five rounds are what ten seconds hold, and take each order twice. A leak of an allocation is for kernels that
// have kmemleak; here it is the counts, and a warning at rmmod for objects that remain in a cache.
var _ = lab.Register(lab.Scenario{
	Name:    "unload-reload-cycle",
	Summary: "KVM and VFIO leave and return in both orders, and every round is like the first",
	Area:    lab.Unload,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI", "CONFIG_MODULE_UNLOAD"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		held := map[lab.Regime]int{lab.RSYM: 1}[t.Regime()]
		kvm, pci, type1 := t.Module("kvm"), t.Module("vfio_pci"), t.Module("vfio_iommu_type1")
		kvmStack := []*lab.Module{t.Module(lab.KVMVendor), kvm}
		vfioStack := []*lab.Module{pci, t.Module("vfio_pci_core"), type1, t.Module("vfio"), t.Module("vfio_virqfd")}
		dev := t.BindVFIO(lab.EDU)

		const rounds = 5
		for n := range rounds {
			t.Step(fmt.Sprintf("round %d: attach, detach", n+1))
			vm := t.NewVM()
			vm.NewVCPU()
			vm.AddVFIO(dev)
			dev.Open()
			t.WantInt(kvm.Held(), held, "from 6.2 to 7.3 the device holds one reference of kvm")
			t.WantInt(type1.Held(), 1, "the container holds one of type1")
			vm.Close()
			dev.Close()
			t.Check(vm.Destroyed(), "the VM is destroyed")
			t.WantIdle("every reference is as in the first round")

			t.Step(fmt.Sprintf("round %d: down and up", n+1))
			down, up := append(kvmStack, vfioStack...), []*lab.Module{t.Module(lab.KVMVendor), pci, type1}
			if n%2 == 1 {
				down, up = append(vfioStack, kvmStack...), []*lab.Module{pci, type1, t.Module(lab.KVMVendor)}
			}
			for _, m := range append(down, t.Module("irqbypass")) {
				if m.Loaded() { // not every kernel has every one as a module
					t.WantErr(m.Unload(), nil, m.Name()+" may leave")
					t.Check(!m.Loaded(), m.Name()+" is gone")
				}
			}
			t.Check(dev.Driver() == "", "the device has no driver")
			for _, m := range up {
				m.Load()
			}
			t.Check(dev.Driver() == "vfio-pci", "the device is bound again")
		}
	},
})
