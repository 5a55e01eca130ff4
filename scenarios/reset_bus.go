package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device without a reset of its own is reset with its bus, by the bridge above it, if nothing else is on that
// bus (pci_parent_bus_reset): edu behind a root port of its own. VFIO_DEVICE_RESET and VFIO_DEVICE_PCI_HOT_RESET
// both do it. The device loses what the kernel does not put back, and has its COMMAND and BARs afterwards.
//
// QEMU's edu keeps its registers over a reset; what goes is in its configuration space. The address of MSI,
// which nothing uses while MSI is off, is written past VFIO and gone after a reset.
var _ = lab.Register(lab.Scenario{
	Name:    "reset-bus",
	Summary: "a device without a reset of its own is reset with its bus",
	Area:    lab.Reset,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const iova, mark = 0x10_0000, 0xfee0_1000
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		dev.Open()
		t.Check(!dev.HasFLR(), "the device has no FLR")
		if methods := dev.ResetMethods(); methods != "" { // since 5.15
			t.Check(methods == "bus", "the only way to reset it is its bus: "+methods)
		}
		t.Check(dev.Resets(), "VFIO says that the device can be reset")
		t.Check(dev.HotResetDevices() == dev.Address(), "the reset of its bus reaches this device alone")
		dev.EnableDMA()
		dev.Map(page, iova)
		dev.ProveDMA(page, iova, 0x5a)

		for _, way := range []struct {
			name    string
			reset   func() error
			pattern byte
		}{
			{"VFIO_DEVICE_RESET", dev.Reset, 0x6b},
			{"VFIO_DEVICE_PCI_HOT_RESET", dev.HotReset, 0x7c},
		} {
			t.Step(way.name)
			dev.SetRealMSIAddress(mark)
			t.WantInt(int(dev.RealMSIAddress()), mark, "the device has the mark")
			command, real, bars := dev.Command(), dev.RealCommand(), dev.RealBARs()
			t.WantErr(way.reset(), nil, way.name)
			t.WantInt(int(dev.RealMSIAddress()), 0, "the mark is gone")
			t.WantInt(dev.Command(), command, "COMMAND is as it was")
			t.WantInt(dev.RealCommand(), real, "the device's own too")
			t.Check(dev.RealBARs() == bars, "the BARs are as they were")
			t.Check(dev.RoundTrip(page, iova, way.pattern), "the device reaches its page")
		}
		t.WantInt(t.Faults(), 0, "the IOMMU refused nothing")
		dev.Close()
		t.WantIdle("every reference is back")
	},
})
