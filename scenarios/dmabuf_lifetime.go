package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A dma-buf that was exported from a VFIO device outlives every descriptor of VFIO, and holds no more than the
// code that its release needs: one reference of vfio_pci_core, which dma_buf_export() takes. The device is let
// go at its last close (vfio_pci_dma_buf_cleanup() gives its registration back), so that it can be unbound and
// vfio_pci can be unloaded under the open dma-buf; vfio_pci_core cannot until that is closed.
//
// An importer is not needed for any of this, and none of a stock kernel without such hardware would do: the
// exporter takes only those that reach other devices' memory and can be told of a revoke.
var _ = lab.Register(lab.Scenario{
	Name:    "dmabuf-lifetime",
	Summary: "an exported dma-buf keeps vfio_pci_core, and neither the device nor vfio_pci",
	Area:    lab.DMABuf,
	Needs:   dmabufNeeds,
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		driver, core := t.Module("vfio_pci"), t.Module("vfio_pci_core")
		dev := t.BindVFIO(lab.EDU)

		t.Step("export a page and the whole BAR, close one before the device")
		dev.Open()
		dev.EnableDMA()
		t.WantInt(core.Held(), 0, "an open device holds vfio_pci and not its core")
		page := dev.ExportBAR0(lab.PageSize)
		t.WantInt(core.Held(), 1, "a dma-buf holds one reference of the core")
		bar := dev.ExportBAR0(eduBAR)
		t.WantInt(core.Held(), 2, "each of them one")
		t.WantInt(driver.Held(), 1, "and of vfio_pci the open device alone")
		page.CloseBuf()
		t.WantInt(core.Held(), 1, "a closed dma-buf holds nothing")
		t.WantErr(dev.Alive(), nil, "the device answers")

		t.Step("close the device, keep the other dma-buf")
		dev.Close()
		t.WantInt(core.Held(), 1, "the dma-buf still holds the core")
		t.WantInt(driver.Held(), 0, "nothing holds vfio_pci")
		t.WantInt(bar.Bytes(), eduBAR, "the dma-buf is as large as before")

		t.Step("open and close the device again: the dma-buf is not its own any more")
		dev.Open()
		t.WantInt(core.Held(), 1, "a new open takes no reference of the core")
		dev.Close()
		t.WantInt(core.Held(), 1, "nor gives one back")

		t.Step("unbind the device and unload vfio_pci under the dma-buf")
		t.WantErr(dev.Unbind(), nil, "the device can be unbound")
		t.WantErr(driver.Unload(), nil, "vfio_pci may leave")
		t.WantErr(core.Unload(), unix.EWOULDBLOCK, "vfio_pci_core stays while the dma-buf is open")
		t.WantInt(bar.Bytes(), eduBAR, "the dma-buf still answers")
		bar.CloseBuf()
		t.WantErr(core.Unload(), nil, "vfio_pci_core may leave now")
	},
})

var dmabufNeeds = lab.Needs{
	Devices:   []lab.Device{lab.EDU},
	IOMMU:     lab.AnyIOMMU,
	Modules:   []string{"vfio_pci", "vfio_iommu_type1"},
	MinKernel: "6.19",
	Options:   []string{"CONFIG_VFIO_PCI", "CONFIG_VFIO_PCI_DMABUF", "CONFIG_MODULE_UNLOAD"},
}

const eduBAR = 1 << 20
