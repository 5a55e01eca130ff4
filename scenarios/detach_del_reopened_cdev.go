package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A VM knows of files, not of devices: kvm_vfio_file_del compares struct file. DEL finds what ADD was given by any
// descriptor of that open, a duplicate too, and does not find another open of the same node; two opens are two
// entries, and to take one back leaves the other's VM (df->kvm is the file's own) where it is.
//
// BIND takes the VM of the file that is bound. DEL after it leaves the device's hold alone.
var _ = lab.Register(lab.Scenario{
	Name:    "detach-del-reopened-cdev",
	Summary: "DEL takes back the open of a cdev that ADD was given, and no other open of it",
	Area:    lab.Detach,
	Needs: lab.Needs{
		Devices:   []lab.Device{lab.EDU},
		IOMMU:     lab.AnyIOMMU,
		Modules:   []string{"kvm", "vfio_pci", "iommufd"},
		MinKernel: "6.6",
		Options:   []string{"CONFIG_KVM", "CONFIG_VFIO_PCI", "CONFIG_IOMMUFD", "CONFIG_VFIO_DEVICE_CDEV"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		kvm := t.Module("kvm")
		held := map[lab.Regime]int{lab.RSYM: 1}[t.Regime()]
		dev := t.BindVFIO(lab.EDU)
		iommufd := t.OpenIOMMUFD()

		t.Step("two opens, one of which the VM knows of")
		vm := t.NewVM()
		one, two := dev.OpenCdev(), dev.OpenCdev()
		vm.AddCdev(one)
		t.WantErr(vm.DelFile(two.FD()), unix.ENOENT, "DEL by the other open")
		one.Bind(iommufd)
		t.WantInt(kvm.Held(), held, "from 6.6 to 7.3 BIND holds one reference of kvm: the VM was not taken back")

		t.Step("taken back by a duplicate, while bound")
		dup := t.Dup(one.FD())
		t.WantErr(vm.DelFile(dup.FD()), nil, "DEL by a duplicate")
		t.WantErr(vm.DelFile(one.FD()), unix.ENOENT, "DEL of what is no longer there")
		dup.Close()
		t.WantInt(kvm.Held(), held, "the device's reference of kvm outlives DEL")
		vm.Close()
		t.Check(!vm.Destroyed(), "the VM lives on")
		one.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the device")

		t.Step("the VM knows of both; one is taken back")
		vm = t.NewVM()
		one = dev.OpenCdev()
		vm.AddCdev(one)
		vm.AddCdev(two)
		t.WantErr(vm.DelFile(one.FD()), nil, "DEL of the first")
		two.Bind(iommufd)
		t.WantInt(kvm.Held(), held, "from 6.6 to 7.3 BIND of the second holds one reference of kvm")
		two.Close()
		t.WantInt(kvm.Held(), held, "which the VM, that holds the second open, keeps bound")
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with its own descriptors")

		t.Step("what was taken back is bound for no VM")
		one.Bind(iommufd)
		t.WantInt(kvm.Held(), 0, "BIND of the first holds nothing of kvm")
		one.Close()
		iommufd.Close()
		t.WantIdle("every reference is back")
	},
})
