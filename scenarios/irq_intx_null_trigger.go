package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// INTx may be left enabled without an eventfd. What would signal it then (the device, a loopback, an unmask
// with the interrupt still pending, by ioctl or by eventfd) signals nobody and harms nobody; the interrupt
// waits at the device for the next eventfd and unmask.
//
// Up to 6.8 these paths went to eventfd_signal with the NULL that SET_IRQS had left there (CVE-2024-26812,
// 18c198c96a81 "vfio/pci: Create persistent INTx handler", which every stable series has).
var _ = lab.Register(lab.Scenario{
	Name:    "irq-intx-null-trigger",
	Summary: "INTx without an eventfd: triggers, interrupts and unmasks harm nobody",
	Area:    lab.IRQ,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const limit = 2 * time.Second
		dev := t.BindVFIO(lab.EDU)
		dev.Open()
		dev.EnableDMA()
		trigger, unmask := t.NewEventFD(), t.NewEventFD()

		t.Step("INTx works: it masks itself, and what comes meanwhile arrives with the unmask")
		dev.SetVectors(lab.INTx, 0, trigger)
		dev.Raise()
		t.WantInt(trigger.Wait(limit), 1, "one interrupt, one signal")
		dev.Acknowledge()
		dev.Raise()
		t.Check(dev.Raised(), "the device has raised another")
		t.Check(trigger.Quiet(), "masked, it does not arrive")
		dev.UnmaskINTx()
		t.WantInt(trigger.Wait(limit), 1, "unmasked, it does")
		dev.Acknowledge()
		dev.UnmaskINTx()
		t.Check(trigger.Quiet(), "an unmask with nothing pending signals nothing")
		dev.Loopback(lab.INTx, 0, 1)
		t.WantInt(trigger.Wait(limit), 1, "a loopback is signalled")

		t.Step("without an eventfd")
		dev.SetVectors(lab.INTx, 0, nil)
		dev.Loopback(lab.INTx, 0, 1)
		dev.LoopbackIf(lab.INTx, 0, true)
		handled := dev.Handled()
		dev.Raise()
		t.Check(dev.Raised(), "the device has raised its interrupt")
		t.WantInt(dev.Handled()-handled, 1, "the kernel has handled it")
		dev.UnmaskINTx()
		dev.MaskINTx()
		dev.UnmaskINTx()
		dev.UnmaskINTxOn(unmask)
		unmask.Signal()
		t.WantInt(unmask.Left(), t.LeftInEventFD(), "VFIO takes the signal to unmask, from 5.11 on out of the eventfd too")
		t.Check(dev.Raised(), "the interrupt is still pending at the device")
		t.Check(trigger.Quiet(), "the eventfd of before is not signalled")

		t.Step("with an eventfd again")
		dev.UnmaskINTxOn(nil)
		next := t.NewEventFD()
		dev.SetVectors(lab.INTx, 0, next)
		dev.UnmaskINTx()
		t.WantInt(next.Wait(limit), 1, "the interrupt that waited arrives with the unmask")
		dev.Acknowledge()
		dev.UnmaskINTx()
		dev.Raise()
		t.WantInt(next.Wait(limit), 1, "and so does a new one")
		t.WantInt(trigger.Count(), 0, "none at the eventfd of before")
		dev.Acknowledge()
		dev.DisableIRQ(lab.INTx)
		t.WantInt(len(dev.Interrupts()), 0, "disabled, INTx has no line in /proc/interrupts")

		t.Step("enabled without an eventfd from the start")
		dev.SetVectors(lab.INTx, 0, nil)
		dev.Loopback(lab.INTx, 0, 1)
		dev.Raise()
		t.Check(dev.Raised(), "the device has raised its interrupt")
		dev.UnmaskINTx()
		dev.SetVectors(lab.INTx, 0, next)
		dev.UnmaskINTx()
		t.WantInt(next.Wait(limit), 1, "the interrupt arrives once there is an eventfd")
		dev.Acknowledge()

		t.Step("close the device with INTx enabled")
		dev.Close()
		t.WantIdle("every reference is back")
	},
})
