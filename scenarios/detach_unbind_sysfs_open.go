package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// To unbind an open device through sysfs waits for its user: vfio_unregister_group_dev (vfio_del_group_dev in
// 5.10) asks for the device by the eventfd of VFIO_PCI_REQ_IRQ_INDEX, at once and every 10 seconds again, and
// waits for the last close. Until then the device works, and from 6.2 on it keeps its VM.
//
// While it waits GET_DEVICE_FD finds no such device from 6.6 on (vfio_device_group_unregister comes first); 6.1
// and 5.10 still open it once more. Once the device is closed the unbind is through, although group, container
// and VM still have the group: vfio_device_remove_group takes its container and its IOMMU group from under
// them, and the group answers ENODEV. 5.10 waits for the group to leave its container too.
var _ = lab.Register(lab.Scenario{
	Name:    "detach-unbind-sysfs-open",
	Summary: "unbind of an open device asks for it, waits for its last close, and is through then",
	Area:    lab.Detach,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		const (
			iova    = 0x10_0000
			patient = 20 * time.Second
		)
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		waits := t.KernelSymbol("vfio_unregister_group_dev", "vfio_del_group_dev")

		t.Step("open the device for a VM")
		vm := t.NewVM()
		vm.AddVFIO(dev)
		dev.Open()
		dev.EnableDMA()
		dev.Map(page, iova)
		dev.ProveDMA(page, iova, 0x5a)
		wanted := dev.OnRequest()
		t.WantInt(wanted.Count(), 0, "nobody wants the device back so far")
		t.WantErr(dev.TryOpen(), nil, "it can be opened once more")

		t.Step("unbind it: the kernel asks for it and waits")
		unbind := t.Start("unbind the device", dev.Unbind)
		t.Check(wanted.Ready(patient), "the kernel asks for the device")
		t.Check(unbind.BlockedIn(waits, patient), "and waits in "+waits)
		t.Check(dev.RoundTrip(page, iova, 0xa5), "the device still reaches memory")
		if t.Since(6, 6) {
			t.WantErr(dev.TryOpen(), unix.ENODEV, "it cannot be opened any more")
		} else {
			t.WantErr(dev.TryOpen(), nil, "it can still be opened once more")
		}
		t.Check(unbind.BlockedIn(waits, patient), "which does not end the wait")

		t.Step("close the VM: the device still holds the unbind")
		dev.Unmap(iova)
		vm.CloseVM()
		vm.CloseSystem()
		t.Check(!vm.Destroyed(), "the kvm-vfio device keeps the VM alive")
		t.Check(unbind.BlockedIn(waits, patient), "the unbind waits")

		t.Step("close the device: the unbind is through")
		dev.CloseDevice()
		if t.Since(6, 1) {
			t.WantErr(unbind.Wait(patient), nil, "unbind")
			t.WantText(dev.Driver(), "", "the device has no driver")
			_, err := dev.GroupViable()
			t.WantErr(err, unix.ENODEV, "the group that is still open is no group any more")
			vm.Close()
			dev.Close()
		} else {
			t.Check(unbind.BlockedIn(waits, patient), "the unbind still waits for the group to leave its container")
			dev.Close()
			t.Check(unbind.BlockedIn(waits, patient), "and the VM still keeps it there")
			vm.Close()
			t.WantErr(unbind.Wait(patient), nil, "unbind")
			t.WantText(dev.Driver(), "", "the device has no driver")
		}
		t.Check(vm.Destroyed(), "the VM is destroyed")

		t.Step("bind it again: it works as before")
		t.WantErr(dev.BindTo("vfio-pci"), nil, "bind to vfio-pci")
		t.WantIdle("every reference is back")
		dev.Open()
		dev.EnableDMA()
		dev.Map(page, iova)
		t.Check(dev.RoundTrip(page, iova, 0x3c), "the device reaches memory")
		dev.Unmap(iova)
		dev.Close()
	},
})
