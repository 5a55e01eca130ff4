package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// An open device pins vfio_pci, its driver: delete_module is refused at once instead of waiting for the last
// close inside the driver's remove. One open of several is enough, and so is a mapped BAR, which keeps the file.
//
// The reference is taken by try_module_get(driver->owner), since 6.2 at the first open
// (vfio_df_device_first_open), before that at each.
var _ = lab.Register(lab.Scenario{
	Name:    "unload-vfio-pci-open",
	Summary: "an open device or a mapped BAR pins vfio_pci until the last of them is gone",
	Area:    lab.Unload,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI", "CONFIG_MODULE_UNLOAD"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		pci, vfio, type1 := t.Module("vfio_pci"), t.Module("vfio"), t.Module("vfio_iommu_type1")
		dev := t.BindVFIO(lab.EDU)
		refused := func(when string) {
			t.WantErr(pci.Unload(), unix.EWOULDBLOCK, "vfio_pci stays "+when)
			t.Check(dev.Driver() == "vfio-pci", "and keeps the device "+when)
		}

		t.Step("open twice")
		other := dev.OpenFile()
		dev.Open()
		refused("with the device open twice")
		other.Close()
		refused("with the device open once")
		t.WantErr(vfio.Unload(), unix.EWOULDBLOCK, "and so does vfio")

		t.Step("only a mapped BAR")
		dev.EnableDMA()
		bar := dev.MapBAR(0)
		id := bar.Register(0)
		dev.Close()
		refused("with only a mapping left")
		t.WantErr(type1.Unload(), unix.EWOULDBLOCK, "and so does type1: the mapping keeps the group in its container")
		t.Check(bar.Register(0) == id, "the device answers through the mapping")
		bar.Unmap()

		t.Step("nothing left")
		t.WantIdle("every reference is back")
		t.WantErr(pci.Unload(), nil, "vfio_pci may leave now")
		t.Check(dev.Driver() == "", "the device has no driver")
	},
})
