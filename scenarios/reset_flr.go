package scenarios

import (
	"strings"
	"time"

	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// VFIO_DEVICE_RESET of a device with a function level reset resets that function (pcie_flr): a controller that
// ran is stopped and disabled, while what the kernel restores afterwards, COMMAND and BARs
// (pci_dev_save_and_disable, pci_dev_restore), and the mappings of its IOMMU are as before, so that it works
// again once it has been started again.
//
// The device is an nvme: its controller is stopped by a reset alone. e1000e of QEMU 7.2 has no FLR; the kernel
// resets it through D3hot, which does nothing in that model.
var _ = lab.Register(lab.Scenario{
	Name:    "reset-flr",
	Summary: "VFIO_DEVICE_RESET by FLR stops the device and keeps its configuration",
	Area:    lab.Reset,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.NVMe},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		dev := t.BindVFIO(lab.NVMe)
		dev.Open()
		if !dev.HasFLR() {
			t.SkipMachine(record.LimitNVMeFLR, "nvme of this QEMU has no FLR", "QEMU 7.1 or newer")
		}
		t.Check(dev.Resets(), "VFIO says that the device can be reset")
		if methods := dev.ResetMethods(); methods != "" { // since 5.15
			t.Check(strings.Fields(methods)[0] == "flr", "the kernel's first way is FLR: "+methods)
		}
		dev.EnableDMA()
		nvme := dev.NVMeController(0x10_0000)
		t.Check(!nvme.Enabled() && !nvme.Ready(), "the controller comes stopped")
		nvme.ProveAlive()

		for range 2 {
			t.Step("reset the controller that runs")
			t.Check(nvme.Enabled() && nvme.Ready(), "the controller runs")
			command, real, bars := dev.Command(), dev.RealCommand(), dev.RealBARs()
			t.WantErr(dev.Reset(), nil, "VFIO_DEVICE_RESET")
			t.Check(!nvme.Enabled(), "it is disabled")
			t.Check(!nvme.Ready(), "it takes no commands")
			t.WantInt(dev.Command(), command, "COMMAND is as it was")
			t.WantInt(dev.RealCommand(), real, "the device's own too")
			t.Check(dev.RealBARs() == bars, "the BARs are as they were")

			t.Step("start it again")
			t.Check(nvme.Works(), "it works")
		}
		t.WantInt(t.Faults(), 0, "the IOMMU refused nothing")
		dev.Close()
		t.WantIdle("every reference is back")
	},
})
