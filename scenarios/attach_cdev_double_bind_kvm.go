package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A cdev that is bound cannot be bound a second time, through another open of it, and to have tried holds nothing:
// the first VM goes with the device, the second with its own descriptors.
//
// vfio_df_ioctl_bind_iommufd looks only at whether its own file is bound (df->access_granted), and takes the second
// VM into device->kvm, over the first, before vfio_df_open refuses an open_count that is not 0. What it then puts is
// the second VM: the first, and its reference of kvm.ko, are nobody's any more (6.6 to 7.3). A kernel that looks at
// device->open_count first answers EINVAL and has touched nothing.
var _ = lab.Register(lab.Scenario{
	Name:    "attach-cdev-double-bind-kvm",
	Summary: "a second BIND of a bound device, for another VM, is refused and leaks neither VM",
	Area:    lab.Attach,
	Needs: lab.Needs{
		Devices:   []lab.Device{lab.EDU},
		IOMMU:     lab.AnyIOMMU,
		Modules:   []string{"kvm", "vfio_pci", "iommufd"},
		MinKernel: "6.6",
		Options:   []string{"CONFIG_KVM", "CONFIG_VFIO_PCI", "CONFIG_IOMMUFD", "CONFIG_VFIO_DEVICE_CDEV"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const iova = 0x10_0000
		kvm := t.Module("kvm")
		held := map[lab.Regime]int{lab.RSYM: 1}[t.Regime()]
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		iommufd := t.OpenIOMMUFD()
		ioas := iommufd.NewIOAS()
		ioas.Map(page, iova)

		t.Step("bind the device for a VM")
		first := t.NewVM()
		one := dev.OpenCdev()
		first.AddCdev(one)
		one.Bind(iommufd)
		one.Attach(ioas)
		one.EnableDMA()
		t.WantInt(kvm.Held(), held, "from 6.6 to 7.3 BIND holds one reference of kvm")

		t.Step("bind it again, through another open, for another VM")
		second := t.NewVM()
		two := dev.OpenCdev()
		second.AddCdev(two)
		t.WantErr(two.TryBind(iommufd.FD()), unix.EINVAL, "BIND of a device that is bound")
		t.WantInt(kvm.Held(), held, "which holds nothing of kvm")
		_, err := two.TryInfo()
		t.WantErr(err, unix.EINVAL, "the second open is not to be used")
		t.Check(one.RoundTrip(page, iova, 0x5a), "through the first the device reaches memory")

		t.Step("close the second VM: nothing holds it")
		second.Close()
		t.Check(second.Destroyed(), "the second VM, whose BIND was refused, is destroyed with its own descriptors")

		t.Step("close the first VM, then the device")
		first.Close()
		t.Check(!first.Destroyed(), "the first VM lives on")
		one.Close()
		t.Check(first.Destroyed(), "the refused BIND leaks no VM: the first is destroyed with the device")
		t.WantInt(kvm.Held(), 0, "and its reference of kvm is back")

		t.Step("the device is free: bind it through the second open, for a third VM")
		third := t.NewVM()
		third.AddCdev(two)
		two.Bind(iommufd)
		two.Attach(ioas)
		two.EnableDMA()
		t.Check(two.RoundTrip(page, iova, 0xa5), "the device reaches memory")
		third.Close()
		t.Check(!third.Destroyed(), "the third VM lives on")
		two.Close()
		t.Check(third.Destroyed(), "the third VM is destroyed with the device")
		iommufd.Close()
		t.WantIdle("every reference is back")
	},
})
