package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device that is bound and not open does not pin vfio_pci: the module leaves, its remove takes the device's
// group away, and the driver link in sysfs is gone. When the module returns, driver_override gives it the
// device back, which works as before: module, group and device leave nothing behind for their successors.
var _ = lab.Register(lab.Scenario{
	Name:    "unload-vfio-pci-idle-bound",
	Summary: "vfio_pci leaves a bound idle device behind without a driver, and takes it back when it returns",
	Area:    lab.Unload,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI", "CONFIG_MODULE_UNLOAD"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		pci := t.Module("vfio_pci")
		dev := t.BindVFIO(lab.EDU)
		const iova = 0x10_0000
		page := t.NewPage()
		works := func(pattern byte) {
			dev.Open()
			dev.EnableDMA()
			dev.Map(page, iova)
			t.Check(dev.RoundTrip(page, iova, pattern), "the device reaches a page that is mapped")
			dev.Close()
			t.WantIdle("every reference is back")
		}
		leaves := func() {
			t.Check(dev.Driver() == "vfio-pci" && dev.HasGroupNode(), "the device is bound and has its group")
			t.WantErr(pci.Unload(), nil, "vfio_pci may leave")
			t.Check(dev.Driver() == "", "the device has no driver")
			t.Check(!dev.HasGroupNode(), "nor is there a group to open")
		}

		t.Step("never opened")
		leaves()

		t.Step("the module returns")
		pci.Load()
		t.Check(dev.Driver() == "vfio-pci", "it takes the device back")
		works(0x5a)

		t.Step("opened and closed before")
		leaves()
		pci.Load()
		works(0xa5)
	},
})
