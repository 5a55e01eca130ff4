package lab

import (
	"context"
	"time"

	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/guestagent/uapi"
)

// NVMeController is the controller of an open nvme, with the memory that it works in.
type NVMeController struct {
	t    *T
	nvme pci.NVMe
	page *Page
	bus  uint32
}

// NVMeController maps memory for the controller at iova. Nothing is started.
func (d *VFIODevice) NVMeController(iova uint32) *NVMeController {
	bar, err := d.device.Region(uapi.VFIOPCIBAR0)
	d.t.must(err)
	page := d.t.NewPages(pci.NVMeMemory(1)/PageSize + 1) // and one that it writes to
	d.Map(page, iova)
	return &NVMeController{d.t, pci.NVMe{Registers: bar}, page, iova}
}

// Works starts the controller and has it say who it is, by DMA both ways.
func (c *NVMeController) Works() bool {
	ctx, cancel := c.t.patience(5 * time.Second)
	defer cancel()
	vendor, err := c.work(ctx)
	if err != nil {
		c.t.Log(err.Error())
	}
	return err == nil && vendor == NVMe.ID.Vendor
}

func (c *NVMeController) work(ctx context.Context) (uint16, error) {
	queues := pci.NVMeMemory(1)
	if err := c.nvme.Start(ctx, c.page.mem[:queues], uint64(c.bus), 1); err != nil {
		return 0, err
	}
	return c.nvme.Identify(ctx, c.page.mem[queues:], uint64(c.bus)+uint64(queues))
}

// ProveAlive is Works before anything rests on it.
func (c *NVMeController) ProveAlive() {
	if !c.Works() {
		c.t.Broken("nvme does not say who it is")
	}
}

// Enabled and Ready are its state.
func (c *NVMeController) Enabled() bool { enabled, _ := c.running(); return enabled }

// Ready is whether the controller takes commands.
func (c *NVMeController) Ready() bool { _, ready := c.running(); return ready }

func (c *NVMeController) running() (enabled, ready bool) {
	enabled, ready, err := c.nvme.Running()
	c.t.must(err)
	return enabled, ready
}
