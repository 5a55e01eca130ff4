package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device is reached through its group or through its own node, never through both: BIND_IOMMUFD is EBUSY while the
// group is open, the group's open is EBUSY while the device is bound (vfio_device_block_group counts the one and looks
// for the other, under group_lock). A node that is merely open excludes nothing.
//
// What BIND blocked it unblocks on every way out (vfio_device_unblock_group): after a BIND that was refused, whatever
// for, the group opens as before, unless the device is bound through another open. Each way works once the other has
// let go.
var _ = lab.Register(lab.Scenario{
	Name:    "attach-group-vs-cdev-exclusion",
	Summary: "group and cdev exclude each other, and a BIND that was refused excludes nothing",
	Area:    lab.Attach,
	Needs: lab.Needs{
		Devices:   []lab.Device{lab.EDU},
		IOMMU:     lab.AnyIOMMU,
		Modules:   []string{"vfio_pci", "vfio_iommu_type1", "iommufd"},
		MinKernel: "6.6",
		Options:   []string{"CONFIG_VFIO_PCI", "CONFIG_VFIO_GROUP", "CONFIG_IOMMUFD", "CONFIG_VFIO_DEVICE_CDEV"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const iova = 0x10_0000
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		iommufd := t.OpenIOMMUFD()
		ioas := iommufd.NewIOAS()
		ioas.Map(page, iova)
		cdev := dev.OpenCdev()
		throughCdev := func(pattern byte) {
			cdev.Bind(iommufd)
			cdev.Attach(ioas)
			cdev.EnableDMA()
			t.Check(cdev.RoundTrip(page, iova, pattern), "the device reaches memory through its IOAS")
		}

		t.Step("the group is open")
		dev.OpenGroup()
		t.WantErr(cdev.TryBind(iommufd.FD()), unix.EBUSY, "BIND while the group is open")
		_, err := cdev.TryInfo()
		t.WantErr(err, unix.EINVAL, "the node is not to be used")
		dev.Close()
		t.WantErr(dev.TryOpenGroup(), nil, "the group opens again")

		t.Step("refused for another reason")
		t.WantErr(cdev.TryBind(t.Foreign().FD()), unix.EBADFD, "BIND to an eventfd")
		t.WantErr(dev.TryOpenGroup(), nil, "the group opens after it")

		t.Step("the device is bound")
		throughCdev(0x5a)
		t.WantErr(dev.TryOpenGroup(), unix.EBUSY, "the group while the device is bound")
		t.WantErr(cdev.TryBind(iommufd.FD()), unix.EINVAL, "BIND once more")
		other := dev.OpenCdev()
		t.WantErr(other.TryBind(iommufd.FD()), unix.EINVAL, "BIND through another open")
		t.WantErr(dev.TryOpenGroup(), unix.EBUSY, "the group is blocked by the one that succeeded")
		t.Check(cdev.RoundTrip(page, iova, 0xa5), "the device reaches memory as before")
		cdev.Close()
		t.WantErr(dev.TryOpenGroup(), nil, "the group opens when the bound node is closed")
		other.Close()

		t.Step("through the group")
		cdev = dev.OpenCdev()
		dev.Open()
		dev.EnableDMA()
		dev.Map(page, iova)
		t.Check(dev.RoundTrip(page, iova, 0x3c), "the device reaches memory through its container")
		t.WantErr(cdev.TryBind(iommufd.FD()), unix.EBUSY, "BIND while the device is open through its group")
		t.Check(dev.RoundTrip(page, iova, 0xc3), "the device reaches memory as before")
		dev.Close()

		t.Step("through the node again")
		throughCdev(0x69)
		cdev.Close()
		iommufd.Close()
		t.WantIdle("every reference is back")
	},
})
