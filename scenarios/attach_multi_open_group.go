package scenarios

import (
	"fmt"
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// GET_DEVICE_FD three times gives three descriptors and one hold of the VM: taken at the first open, given
// back at the last close, whichever of the three that is (open_count in vfio_df_group_open and
// vfio_df_group_close). In each of the six orders of closing the VM lives until the last.
//
// From 6.2 on vfio_pci is held once for all opens (vfio_device_first_open), before that by each of them
// (try_module_get in vfio_device_open, in 5.10 in vfio_pci_open). Up to 6.1 no open holds the VM.
var _ = lab.Register(lab.Scenario{
	Name:    "attach-multi-open-group",
	Summary: "three opens of a device hold its VM once, until the last is closed, in every order",
	Area:    lab.Attach,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 45 * time.Second,
	Run: func(t *lab.T) {
		kvm, pci := t.Module("kvm"), t.Module("vfio_pci")
		held := map[lab.Regime]int{lab.RSYM: 1}[t.Regime()]
		old := t.Regime() == lab.R61
		dev := t.BindVFIO(lab.EDU)

		for _, order := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			t.Step(fmt.Sprintf("open three times, close the VM, close in the order %v", order))
			vm := t.NewVM()
			vm.AddVFIO(dev)
			var files [3]*lab.DeviceFile
			for i := range files {
				files[i] = dev.OpenFile()
				t.WantInt(kvm.Held(), held, fmt.Sprintf("from 6.2 to 7.3 kvm is held once by %d opens", i+1))
				want := 1
				if old {
					want = i + 1
				}
				t.WantInt(pci.Held(), want, fmt.Sprintf("vfio_pci is held once by %d opens, up to 6.1 by each", i+1))
			}
			vm.Close()
			t.Check(vm.Destroyed() == old, "from 6.2 on, and only then, the device keeps the VM alive")
			for n, i := range order {
				files[i].Close()
				if n == 2 {
					break
				}
				t.WantInt(kvm.Held(), held, fmt.Sprintf("close %d of 3 gives nothing of kvm back", n+1))
				t.Check(vm.Destroyed() == old, fmt.Sprintf("nor does it destroy the VM: close %d", n+1))
				t.Check(files[order[2]].Works(), "the device works through the descriptor that is left")
			}
			t.Check(vm.Destroyed(), "the VM is destroyed with the last close")
			t.WantInt(kvm.Held(), 0, "and kvm's reference is back")
			dev.Close()
			t.WantIdle("every reference is back")
		}
	},
})
