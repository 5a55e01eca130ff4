package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device's MSI reaches a vCPU's local APIC without user space in between: VFIO's handler signals an
// eventfd, KVM's irqfd hangs on it and looks up the message that its GSI stands for. The vector is then in
// the APIC's request register, though the vCPU has never run.
//
// irqfd_wakeup injects an MSI in the interrupt itself (kvm_arch_set_irq_inatomic) and takes the eventfd's
// count. Without the irqfd the same interrupt stays in the eventfd, and a new irqfd finds it there
// (kvm_irqfd_assign polls the eventfd once). The APIC takes nothing before it is enabled by software.
var _ = lab.Register(lab.Scenario{
	Name:    "irq-msi-irqfd-lapic",
	Summary: "a device's MSI sets its vector in a vCPU's APIC, by irqfd and route",
	Area:    lab.IRQ,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const gsi, limit = 24, 2 * time.Second // the first GSI that is no pin of the IOAPIC
		dev := t.BindVFIO(lab.EDU)
		vm := t.NewVM()
		vm.CreateIRQChip()
		cpu := vm.NewVCPU()
		vm.AddVFIO(dev)
		dev.Open()
		dev.EnableDMA() // a message is a write of the device's
		trigger := t.NewEventFD()
		dev.SetVectors(lab.MSI, 0, trigger)
		left := t.LeftInEventFD()
		fire := func() {
			dev.Raise()
			t.Check(dev.Raised(), "the device says that it raised its interrupt")
			dev.Acknowledge()
		}

		t.Step("the device's message is counted by an eventfd that nobody else reads")
		fire()
		t.WantInt(trigger.Wait(limit), 1, "one interrupt, one signal")

		t.Step("an APIC that is not enabled takes nothing")
		vm.RouteMSI(gsi, 0x41)
		vm.AssignIRQFD(gsi, trigger)
		fire()
		t.WantInt(trigger.Left(), left, "the irqfd takes the signal, from 5.11 on out of the eventfd too")
		t.WantText(cpu.Requested(), "[]", "the APIC is asked for nothing")

		t.Step("enabled, it takes the vector that the route says")
		cpu.EnableLAPIC()
		fire()
		t.WantText(cpu.WaitRequested(limit), "[65]", "the APIC is asked for the vector, and for no other")
		t.WantInt(trigger.Left(), left, "the irqfd takes the signal, from 5.11 on out of the eventfd too")

		t.Step("another route, another vector")
		cpu.ClearLAPIC()
		vm.RouteMSI(gsi, 0xc7)
		fire()
		t.WantText(cpu.WaitRequested(limit), "[199]", "the APIC is asked for the new vector, and for no other")
		t.WantInt(trigger.Left(), left, "the irqfd takes the signal here too")

		t.Step("without the irqfd the interrupt waits in the eventfd")
		cpu.ClearLAPIC()
		vm.DeassignIRQFD(gsi, trigger)
		fire()
		t.Check(trigger.Ready(limit), "the interrupt arrives in the eventfd")
		t.WantText(cpu.Requested(), "[]", "and not in the APIC")

		t.Step("a new irqfd finds it there")
		vm.AssignIRQFD(gsi, trigger)
		t.WantText(cpu.WaitRequested(limit), "[199]", "the APIC is asked for the vector of the interrupt that waited")

		t.Step("close the device's side with the irqfd in place, then the VM")
		dev.Close()
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed")
		t.WantIdle("every reference is back")
	},
})
