package scenarios

import (
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// The open node of a device that is not bound holds no vfio_pci, only the device's registration: the module may be
// unloaded, and its exit waits in vfio_unregister_group_dev for the node's close. Before it waits it takes the node
// away (vfio_device_del), so that nobody opens it anew, and the open one cannot be bound any more: try_module_get of a
// module that leaves fails, ENODEV.
//
// A signal does not end the wait; the kernel says who waits ("Device is currently in use, task ... blocked until
// device is released") and waits on, uninterruptibly. With the close the module is gone, and returns as good as new.
var _ = lab.Register(lab.Scenario{
	Name:    "unload-vfio-pci-cdev-unbound",
	Summary: "vfio_pci's exit waits for the close of a cdev that is open and not bound",
	Area:    lab.Unload,
	Needs: lab.Needs{
		Devices:   []lab.Device{lab.EDU},
		IOMMU:     lab.AnyIOMMU,
		Modules:   []string{"vfio_pci", "iommufd"},
		MinKernel: "6.6",
		Options:   []string{"CONFIG_VFIO_PCI", "CONFIG_MODULE_UNLOAD", "CONFIG_IOMMUFD", "CONFIG_VFIO_DEVICE_CDEV"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		const (
			iova    = 0x10_0000
			patient = 20 * time.Second
		)
		pci := t.Module("vfio_pci")
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		waits := t.KernelSymbol("vfio_unregister_group_dev")
		log := t.KernelLog()
		iommufd := t.OpenIOMMUFD()

		t.Step("open the node and do not bind it")
		cdev := dev.OpenCdev()
		t.WantInt(pci.Held(), 0, "the open node holds nothing of vfio_pci")

		t.Step("unload: the module's exit waits")
		unload := pci.StartUnload()
		t.Check(unload.BlockedIn(waits, patient), "it waits in "+waits)
		t.Check(!dev.HasCdevNode(), "the node is gone")
		t.WantErr(cdev.TryBind(iommufd.FD()), unix.ENODEV, "BIND of the node that is still open")
		t.Check(unload.BlockedIn(waits, patient), "the exit waits on")

		t.Step("a signal does not end the wait")
		unload.Interrupt()
		t.Check(log.Prints(regexp.MustCompile(`Device is currently in use, task ".*" \(\d+\) blocked until device is released`), patient),
			"the kernel says who waits")
		t.Check(unload.BlockedIn(waits, patient), "the exit waits on")

		t.Step("close the node: the module is gone")
		cdev.Close()
		t.WantErr(unload.Wait(patient), nil, "unload")
		t.Check(!pci.Loaded(), "vfio_pci is gone")
		t.WantText(dev.Driver(), "", "the device has no driver")

		t.Step("the module returns")
		pci.Load()
		t.WantText(dev.Driver(), "vfio-pci", "it takes the device back")
		cdev = dev.OpenCdev()
		cdev.Bind(iommufd)
		ioas := iommufd.NewIOAS()
		cdev.Attach(ioas)
		cdev.EnableDMA()
		ioas.Map(page, iova)
		t.Check(cdev.RoundTrip(page, iova, 0x5a), "the device reaches a page that is mapped")
		cdev.Close()
		iommufd.Close()
		t.WantIdle("every reference is back")
	},
})
