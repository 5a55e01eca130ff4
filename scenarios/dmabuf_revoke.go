package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A dma-buf of a VFIO device is revoked whenever the memory behind it goes away, and given back when it is
// there again: while COMMAND.MEM is clear, during a reset, and for good at the device's last close. One that is
// exported while the memory is disabled is born revoked.
//
// User space sees nothing of that by itself: the buffer cannot be mapped (no .mmap), and whoever imports it
// learns of a revoke inside the kernel. No importer that vfio-pci accepts is to be had without hardware or
// iommufd: it wants peer-to-peer and revocable attachments. What is claimed, then, is that the exporter tells
// its importers, once for each change and for each buffer (vfio_pci_dma_buf_move() calls
// dma_buf_invalidate_mappings()), counted by a kprobe. That an importer's mapping is then gone is not shown.
var _ = lab.Register(lab.Scenario{
	Name:    "dmabuf-revoke",
	Summary: "importers of a device's dma-buf are told when its memory goes and comes",
	Area:    lab.DMABuf,
	Needs:   dmabufNeeds,
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		dev := t.BindVFIO(lab.EDU)
		dev.Open()
		dev.EnableDMA()
		told := t.CountCalls("dma_buf_invalidate_mappings", "dma_buf_move_notify")
		buf := dev.ExportBAR0(eduBAR)
		t.WantErr(buf.MapForCPU(), unix.EINVAL, "the buffer cannot be mapped, so that nothing of it must be unmapped")
		t.WantInt(told.More(), 0, "the export tells nobody anything")

		t.Step("COMMAND.MEM")
		dev.SetCommand(0, lab.CommandMemory)
		t.WantInt(told.More(), 1, "the importers are told that the memory went")
		dev.SetCommand(0, lab.CommandMemory)
		t.WantInt(told.More(), 0, "and not told again what they know")
		dev.SetCommand(lab.CommandMemory, 0)
		t.WantInt(told.More(), 1, "and told that it came")
		t.WantErr(dev.Alive(), nil, "the device answers")

		t.Step("a second buffer, exported while the memory is disabled")
		dev.SetCommand(0, lab.CommandMemory)
		t.WantInt(told.More(), 1, "the importers of the first are told")
		born := dev.ExportBAR0(lab.PageSize)
		dev.SetCommand(lab.CommandMemory, 0)
		t.WantInt(told.More(), 2, "both are given back")
		born.CloseBuf()

		t.Step("reset")
		t.WantErr(dev.Reset(), nil, "VFIO_DEVICE_RESET")
		dev.EnableDMA()
		t.WantInt(told.More(), 2, "the importers are told before the reset and after it")
		t.WantErr(dev.Alive(), nil, "the device answers")

		t.Step("close the device, and unbind it under the open buffer")
		dev.Close()
		t.WantInt(told.More(), 1, "the importers are told")
		t.WantInt(buf.Bytes(), eduBAR, "the buffer lives on")
		t.WantErr(dev.Unbind(), nil, "the device can be unbound")
		t.WantInt(told.More(), 0, "there is nothing left to tell")

		t.Step("the device's next user has nothing to do with it")
		t.WantErr(dev.BindTo("vfio-pci"), nil, "the device can be bound again")
		dev.Open()
		dev.EnableDMA()
		dev.SetCommand(0, lab.CommandMemory)
		t.WantInt(told.More(), 0, "the old buffer stays revoked, and nobody is told")
		dev.SetCommand(lab.CommandMemory, 0)
		other := dev.ExportBAR0(lab.PageSize)
		dev.SetCommand(0, lab.CommandMemory)
		t.WantInt(told.More(), 1, "a new buffer is revoked")
		other.CloseBuf()
		buf.CloseBuf()
		dev.Close()
		t.WantIdle("every reference is back")
	},
})
