package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device that its user has closed may not master the bus any more (vfio_pci_core_disable: pci_clear_master,
// pci_disable_device), and one that is opened comes without (vfio_pci_core_enable): the next owner's memory is
// not the last one's to write.
//
// A device without the bit writes nothing and the IOMMU hears nothing of it, so the refused transfers stand
// between transfers that come through at the same address, of the same mapping.
var _ = lab.Register(lab.Scenario{
	Name:    "reset-close-clears-busmaster",
	Summary: "close takes bus mastering from the device, and open does not give it back",
	Area:    lab.Reset,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const iova, n, canary = 0x10_0000, 64, 0xc3
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		t.WantInt(dev.RealCommand()&lab.CommandMaster, 0, "an idle device does not master the bus")

		t.Step("open, enable, transfer")
		dev.Open()
		t.WantInt(dev.Command()&lab.CommandMaster, 0, "VFIO opens the device without")
		dev.EnableDMA()
		dev.Map(page, iova)
		dev.ProveDMA(page, iova, 0x5a)
		t.WantInt(dev.RealCommand()&lab.CommandMaster, lab.CommandMaster, "the device masters the bus")

		t.Step("close")
		dev.Close()
		t.WantInt(dev.RealCommand()&lab.CommandMaster, 0, "the device does not master the bus")

		t.Step("open again: nothing moves")
		dev.Open()
		dev.SetCommand(lab.CommandMemory, 0) // edu's registers
		t.WantInt(dev.RealCommand()&lab.CommandMaster, 0, "the device does not master the bus")
		dev.Map(page, iova)
		page.Fill(canary)
		dev.Write(iova, n)
		t.WantInt(page.Count(canary), lab.PageSize, "no byte changed")

		t.Step("enable: it moves")
		dev.EnableDMA()
		t.Check(dev.RoundTrip(page, iova, 0xa5), "the data comes through")

		t.Step("disable: it does not")
		dev.SetCommand(0, lab.CommandMaster)
		page.Fill(canary)
		dev.Write(iova, n)
		t.WantInt(page.Count(canary), lab.PageSize, "no byte changed")

		t.Step("enable: it moves")
		dev.SetCommand(lab.CommandMaster, 0)
		t.Check(dev.RoundTrip(page, iova, 0x96), "the data comes through")
		t.WantInt(t.Faults(), 0, "the IOMMU refused nothing")
		dev.Close()
		t.WantInt(dev.RealCommand()&lab.CommandMaster, 0, "the device does not master the bus")
		t.WantIdle("every reference is back")
	},
})
