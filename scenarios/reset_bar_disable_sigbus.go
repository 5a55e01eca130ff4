package scenarios

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// Once COMMAND.MEM is clear, no access of its user reaches the device's memory: a mapped BAR gives SIGBUS and
// the region EIO, and neither becomes a bus error of the whole machine (CVE-2020-12888). VFIO zaps the mapping
// as the bit goes (abafbc551fdd "vfio-pci: Invalidate mmaps and block MMIO access on disabled memory", 5.8) and
// lets it fault in again once the bit is back; so it does around a reset, after which the mapping works.
var _ = lab.Register(lab.Scenario{
	Name:    "reset-bar-disable-sigbus",
	Summary: "a mapped BAR gives SIGBUS while COMMAND.MEM is clear, and works again after",
	Area:    lab.Reset,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const register = 0
		dev := t.BindVFIO(lab.EDU)
		dev.Open()
		dev.SetCommand(lab.CommandMemory, 0)
		bar := dev.MapBAR(0)
		works := func() {
			t.WantErr(bar.Alive(), nil, "the mapping answers")
			_, err := dev.Register(register)
			t.WantErr(err, nil, "the region answers")
		}
		works()

		for range 2 {
			t.Step("clear COMMAND.MEM")
			dev.SetCommand(0, lab.CommandMemory)
			t.WantInt(dev.RealCommand()&lab.CommandMemory, 0, "the device decodes no memory")
			_, err := bar.Read32(register)
			t.Check(errors.Is(err, lab.ErrSIGBUS), "a read of the mapping raises SIGBUS")
			t.Check(errors.Is(bar.Write32(4, 0), lab.ErrSIGBUS), "a write to it too")
			_, err = dev.Register(register)
			t.WantErr(err, unix.EIO, "a read of the region")
			t.WantErr(dev.SetRegister(4, 0), unix.EIO, "a write to it")

			t.Step("set it again")
			dev.SetCommand(lab.CommandMemory, 0)
			works()
		}

		t.Step("reset the device under its mapping")
		t.WantErr(dev.Reset(), nil, "VFIO_DEVICE_RESET")
		works()

		t.Step("close the device, then unmap")
		dev.Close()
		t.WantErr(bar.Alive(), nil, "the mapping answers, since it keeps the device open")
		bar.Unmap()
		t.WantIdle("every reference is back")
	},
})
