package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// The legacy way in, step by step: a container, the device's group in it, a type1 IOMMU, a VM that is told
// of the group, the device. Each step takes the references that it should and no others, the device moves
// data through the IOMMU, and the way out gives everything back.
//
// The kvm-vfio device keeps the group's file, so that the container keeps its IOMMU (type1 +1) until the
// VM is closed, though the scenario closes group and container before. 5.10 takes a user of the group
// instead of its file (vfio_group_get_external_user), with the same outcome.
var _ = lab.Register(lab.Scenario{
	Name:    "attach-group-container",
	Summary: "group, container and type1: each step takes its references and gives them back",
	Area:    lab.Attach,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		kvm, vendor := t.Module("kvm"), t.Module(lab.KVMVendor)
		pci, type1 := t.Module("vfio_pci"), t.Module("vfio_iommu_type1")
		dev := t.BindVFIO(lab.EDU)
		t.WantInt(pci.Held(), 0, "a device that is bound but not open holds nothing of vfio_pci")

		t.Step("a container with the group and a type1 IOMMU")
		dev.OpenContainer()
		dev.OpenGroup()
		dev.SetContainer()
		t.WantInt(type1.Held(), 0, "a container without an IOMMU holds nothing of type1")
		dev.SetIOMMU()
		t.WantInt(type1.Held(), 1, "SET_IOMMU holds one reference of type1")

		t.Step("a VM that knows of the group")
		vm := t.NewVM()
		vm.CloseSystem()
		t.Check(vendor.Held() > 0, "an open VM holds the vendor module")
		vm.AddVFIO(dev)
		t.WantInt(kvm.Held(), 0, "to know of a group holds nothing of kvm")
		t.WantInt(pci.Held(), 0, "nor of vfio_pci")

		t.Step("the device")
		dev.Open()
		t.WantInt(pci.Held(), 1, "the first open holds one reference of vfio_pci")
		t.WantInt(kvm.Held(), map[lab.Regime]int{lab.RSYM: 1}[t.Regime()], "and, from 6.2 to 7.3, one of kvm")
		info := dev.Info()
		t.Check(info.PCI, "the device says that it is a PCI device")
		t.Check(info.Regions >= 9 && info.IRQs >= 5, "it has the regions and interrupts of a PCI device")

		t.Step("data through the IOMMU")
		const iova = 0x10_0000
		page := t.NewPage()
		dev.EnableDMA()
		dev.Map(page, iova)
		t.Check(dev.RoundTrip(page, iova, 0x5a), "the device reaches a page that is mapped")
		dev.Unmap(iova)

		t.Step("close the device's side: the VM keeps the group")
		dev.Close()
		t.WantInt(pci.Held(), 0, "the last close gives vfio_pci back")
		t.WantInt(kvm.Held(), 0, "and kvm")
		t.Check(!vm.Destroyed(), "the VM lives on")
		t.WantInt(type1.Held(), 1, "the group that the VM knows of is still in its container")

		t.Step("close the VM")
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed")
		t.WantIdle("every reference is back")
	},
})
