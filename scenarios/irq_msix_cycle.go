package scenarios

import (
	"fmt"
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// MSI-X on, off and on again, with all vectors, with some, and with a hole among them: each vector that has
// an eventfd has a line in /proc/interrupts, holds irqbypass (until 6.17) and signals its own eventfd and no
// other, for the device as for a loopback; switched off, nothing of it is left.
//
// vfio_msi_set_vector_signal pairs request_irq with irq_bypass_register_producer, which keeps a reference of
// its module per producer; 6.17 dropped that. A message for a vector without an eventfd stays pending in the
// device's table: the vector is masked there.
var _ = lab.Register(lab.Scenario{
	Name:    "irq-msix-cycle",
	Summary: "MSI-X on, off and on: lines, references and signals of each vector come and go",
	Area:    lab.IRQ,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.NVMe},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const all, limit = 5, 2 * time.Second
		bypass := t.Module("irqbypass")
		dev := t.BindVFIO(lab.NVMe)
		dev.Open()
		dev.EnableDMA()
		info := dev.IRQInfo(lab.MSIX)
		t.Check(info.EventFD, "MSI-X can signal eventfds")
		t.Check(info.Count >= all, "the device has so many vectors")
		t.WantInt(bypass.Held(), 0, "an open device holds nothing of irqbypass")
		each := t.BypassRefs()

		var to [all]*lab.EventFD
		for i := range to {
			to[i] = t.NewEventFD()
		}
		// signals fires some vectors, one after the other, and says how often each one's eventfd was signalled.
		signals := func(fire func(vector int), which ...int) string {
			var got [all]int
			for _, n := range which {
				fire(n)
				got[n] += to[n].Wait(limit)
			}
			for n := range to {
				got[n] += to[n].Count()
			}
			return fmt.Sprint(got)
		}
		counts := func() string { return signals(nil) }
		loopback := func(n int) { dev.Loopback(lab.MSIX, n, 1) }

		t.Step("give the device its queues")
		dev.SetVectors(lab.MSIX, 0, to[:]...)
		dev.StartVectors(0x10_0000, all)
		t.Check(to[0].Wait(limit) > 0, "the first vector hears of it")
		dev.DisableIRQ(lab.MSIX)

		for _, round := range []int{all, 2, all} {
			t.Step(fmt.Sprintf("on, with %d vectors", round))
			dev.SetVectors(lab.MSIX, 0, to[:round]...)
			t.WantInt(len(dev.Interrupts()), round, "each vector has a line in /proc/interrupts")
			t.WantInt(bypass.Held(), each*round, fmt.Sprintf("each vector holds %d references of irqbypass", each))
			vectors := []int{0, 1, 2, 3, 4}[:round]
			one := fmt.Sprint(append([]int{1, 1, 1, 1, 1}[:round:round], make([]int, all-round)...))
			t.WantText(signals(dev.RaiseVector, vectors...), one, "a message of the device signals its vector's eventfd, once")
			if round == all {
				t.WantText(signals(loopback, vectors...), one, "and so does a loopback")
				dev.LoopbackIf(lab.MSIX, 0, false, true, false, true, false)
				t.WantText(counts(), "[0 1 0 1 0]", "a loopback of some signals those")

				t.Step("a hole among the vectors")
				dev.SetVectors(lab.MSIX, 2, nil)
				t.WantInt(len(dev.Interrupts()), all-1, "the vector's line is gone")
				t.WantInt(bypass.Held(), each*(all-1), "and its reference of irqbypass")
				dev.RaiseVector(2)
				t.WantText(signals(dev.RaiseVector, 0, 1, 3, 4), "[1 1 0 1 1]", "the others signal, it does not")
				dev.SetVectors(lab.MSIX, 2, to[2])
				t.WantInt(to[2].Wait(limit), 1, "with an eventfd again its message, which waited in the device, arrives")
				t.WantText(signals(dev.RaiseVector, vectors...), one, "and every vector signals")
			}

			t.Step("off")
			dev.DisableIRQ(lab.MSIX)
			t.WantInt(len(dev.Interrupts()), 0, "no line is left")
			t.WantInt(bypass.Held(), 0, "no reference of irqbypass is left")
			t.WantText(counts(), "[0 0 0 0 0]", "nothing is signalled")
		}

		t.Step("close with MSI-X on")
		dev.SetVectors(lab.MSIX, 0, to[:]...)
		t.WantInt(bypass.Held(), each*all, "every vector is on")
		dev.Close()
		t.WantIdle("every line and every reference is back")
	},
})
