package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A cdev that is bound for a VM cannot be bound a second time, through another open that no VM knows of, and to have
// tried takes nothing from the first: the device holds its VM until its own close.
//
// vfio_df_ioctl_bind_iommufd has no VM to take for the second open, but when vfio_df_open refuses it puts what
// device->kvm points at, which is the first open's (6.6 to 7.3): the VM goes with its descriptors while the device
// is bound, under a driver that may still use it. A kernel that looks at device->open_count before answers EINVAL
// and has touched nothing.
var _ = lab.Register(lab.Scenario{
	Name:    "attach-cdev-double-bind-nokvm",
	Summary: "a second BIND of a bound device, for no VM, is refused and leaves the first VM held",
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
		vm := t.NewVM()
		one := dev.OpenCdev()
		vm.AddCdev(one)
		one.Bind(iommufd)
		one.Attach(ioas)
		one.EnableDMA()
		t.WantInt(kvm.Held(), held, "from 6.6 to 7.3 BIND holds one reference of kvm")

		t.Step("bind it again, through another open, for no VM")
		two := dev.OpenCdev()
		t.WantErr(two.TryBind(iommufd.FD()), unix.EINVAL, "BIND of a device that is bound")
		t.WantInt(kvm.Held(), held, "the refused BIND puts no VM: the reference of kvm is still held")
		two.Close()
		t.WantInt(kvm.Held(), held, "and so it is after the close of the second open")

		t.Step("close the VM: the device holds it")
		vm.Close()
		t.Check(!vm.Destroyed(), "the VM lives on")
		t.Check(one.RoundTrip(page, iova, 0x5a), "the device reaches memory")

		t.Step("close the device")
		one.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the device")
		iommufd.Close()
		t.WantIdle("every reference is back")
	},
})
