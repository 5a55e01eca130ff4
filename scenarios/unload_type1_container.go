package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A container with an IOMMU pins vfio_iommu_type1 until the last of its groups has left, however the groups
// leave and whether or not the container's descriptor is still open. A container without an IOMMU pins nothing.
//
// vfio_ioctl_set_iommu takes the reference (try_module_get), __vfio_group_unset_container gives it back with
// the last group. A group with an open device does not leave (EBUSY).
var _ = lab.Register(lab.Scenario{
	Name:    "unload-type1-container",
	Summary: "a container pins vfio_iommu_type1 until its last group has left",
	Area:    lab.Unload,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU, lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI", "CONFIG_MODULE_UNLOAD"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		type1 := t.Module("vfio_iommu_type1")
		one, two := t.BindVFIO(lab.EDU), t.BindVFIO(lab.EDU)
		refused := func(when string) {
			t.WantErr(type1.Unload(), unix.EWOULDBLOCK, "type1 stays "+when)
		}

		t.Step("a container without an IOMMU")
		one.OpenContainer()
		one.OpenGroup()
		one.SetContainer()
		t.WantErr(type1.Unload(), nil, "type1 may leave under a container that has a group and no IOMMU")
		t.WantErr(one.TrySetIOMMU(), unix.ENODEV, "there is no such IOMMU now")
		type1.Load()

		t.Step("two groups, one with an open device")
		one.SetIOMMU()
		two.JoinContainer(one)
		two.Open()
		t.WantInt(type1.Held(), 1, "one container holds type1 once")
		refused("with two groups in the container")

		t.Step("the first group leaves")
		t.WantErr(one.UnsetContainer(), nil, "a group without an open device leaves")
		refused("with one group left")
		one.CloseContainer()
		refused("with the container's descriptor closed")
		t.WantErr(two.UnsetContainer(), unix.EBUSY, "a group with an open device does not leave")
		refused("after the refusal")

		t.Step("the last group leaves")
		two.CloseDevice()
		refused("with the device closed")
		t.WantErr(two.UnsetContainer(), nil, "the group leaves")
		t.WantInt(type1.Held(), 0, "type1's reference is back")
		t.WantErr(type1.Unload(), nil, "type1 may leave now")
		type1.Load()
		one.Close()
		two.Close()

		t.Step("the last group leaves by being closed")
		one.Attach()
		refused("with a group in the container")
		one.Close()
		t.WantErr(type1.Unload(), nil, "type1 may leave now")
	},
})
