package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// Without interrupt remapping a device can raise any interrupt of the machine by a write to 0xfee00000, so
// type1 refuses it (EPERM) unless the administrator allows it: vfio_iommu_type1.allow_unsafe_interrupts, asked
// once, when the group joins (vfio_iommu_type1_attach_group). A refusal leaves nothing behind, and the very
// container may try again.
//
// The kernels ask differently, with one answer: irq_domain_check_msi_remap and IOMMU_CAP_INTR_REMAP up to
// 6.1, iommu_group_has_isolated_msi since 6.3.
var _ = lab.Register(lab.Scenario{
	Name:    "attach-unsafe-irq-eperm",
	Summary: "without interrupt remapping type1 refuses a device until it is told to allow it",
	Area:    lab.Attach,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Variants: []lab.Variant{{Name: "intremap-off", Needs: lab.Needs{NoInterruptRemapping: true}}},
	Timeout:  30 * time.Second,
	Run: func(t *lab.T) {
		if t.RemapsInterrupts() {
			t.Broken("this machine remaps interrupts")
		}
		type1 := t.Module("vfio_iommu_type1")
		dev := t.BindVFIO(lab.EDU)
		const iova = 0x10_0000
		page := t.NewPage()

		t.Step("not allowed")
		t.AllowUnsafeInterrupts(false)
		dev.OpenContainer()
		dev.OpenGroup()
		dev.SetContainer()
		t.WantErr(dev.TrySetIOMMU(), unix.EPERM, "SET_IOMMU is refused")
		t.WantInt(type1.Held(), 0, "the refusal holds nothing of type1")
		t.WantErr(dev.TryOpen(), unix.EINVAL, "a group without an IOMMU gives no device")

		t.Step("allowed")
		t.AllowUnsafeInterrupts(true)
		t.WantErr(dev.TrySetIOMMU(), nil, "SET_IOMMU of the same container succeeds")
		t.WantInt(type1.Held(), 1, "and holds one reference of type1")
		dev.Open()
		dev.EnableDMA()
		dev.Map(page, iova)
		t.Check(dev.RoundTrip(page, iova, 0x5a), "the device reaches a page that is mapped")

		t.Step("no longer allowed")
		t.AllowUnsafeInterrupts(false)
		t.Check(dev.RoundTrip(page, iova, 0xa5), "the device that is attached works on")
		dev.Close()
		t.WantIdle("every reference is back")
		dev.OpenContainer()
		dev.OpenGroup()
		dev.SetContainer()
		t.WantErr(dev.TrySetIOMMU(), unix.EPERM, "SET_IOMMU is refused anew")
		dev.Close()
		t.WantIdle("a refused container leaves nothing behind")

		t.Step("allowed again")
		t.AllowUnsafeInterrupts(true)
		dev.Open()
		dev.EnableDMA()
		dev.Map(page, iova)
		t.Check(dev.RoundTrip(page, iova, 0x3c), "the device reaches the page as before")
		dev.Close()
	},
})
