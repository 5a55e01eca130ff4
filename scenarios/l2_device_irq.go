package scenarios

import (
	"time"

	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device's interrupts run a nested guest's handler, each exactly once: edu's MSI, VFIO's eventfd, KVM's
// irqfd, the in-kernel APIC, the vCPU. User space only fires the device.
//
// An interrupt that finds the vCPU halted in KVM_RUN must wake it (kvm_vcpu_wake_up); one that comes
// before KVM_RUN must still be there. One that is fired without an irqfd goes to the eventfd and leaves the
// halted guest alone, between others that arrive.
var _ = lab.Register(lab.Scenario{
	Name:    "l2-device-irq",
	Summary: "a nested guest's handler runs once for each interrupt of a device",
	Area:    lab.Nested,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		const (
			vector = 0x41
			runs   = 0x0ff0 // in the guest's page: how often the handler ran
			port   = 0x3f8
			gsi    = 24
			limit  = 5 * time.Second
		)
		entry := []byte{
			0xbc, 0x00, 0x0f, // mov sp, 0xf00
			0x64, 0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00, 0x00, // mov dword fs:[0xf0], 0x1ff: enable the APIC
			0xba, 0xf8, 0x03, // mov dx, 0x3f8
			0xef,       // out dx, ax: ready
			0xfb,       // sti
			0xf4,       // hlt
			0xeb, 0xfc, // jmp to sti
		}
		handler := []byte{
			0xff, 0x06, 0xf0, 0x0f, // inc word [0xff0]
			0x64, 0x66, 0xc7, 0x06, 0xb0, 0x00, 0x00, 0x00, 0x00, 0x00, // mov dword fs:[0xb0], 0: EOI
			0xa1, 0xf0, 0x0f, // mov ax, [0xff0]
			0xef, // out dx, ax
			0xcf, // iret
		}
		dev := t.BindVFIO(lab.EDU)
		vm := t.NewVM()
		vm.CreateIRQChip()
		page := vm.SetCode(0, lab.GuestPage(vector, entry, handler))
		cpu := vm.NewVCPU()
		vm.AddVFIO(dev)
		dev.Open()
		dev.EnableDMA()
		trigger := t.NewEventFD()
		dev.SetVectors(lab.MSI, 0, trigger)
		vm.RouteMSI(gsi, vector)
		vm.AssignIRQFD(gsi, trigger)

		t.Step("start the guest")
		cpu.ReachLAPIC()
		cpu.StartReal(lab.GuestEntry, 0, 0)
		exit := cpu.Start().Exit(limit)
		t.Log("first exit: " + exit.String())
		t.Check(exit.Reason == uapi.KVMExitIO && exit.Out && exit.Port == port, "the guest says that it is ready")

		// told is the number that the handler's exit tells, -1 if it is another exit.
		told := func(r *lab.Running) int {
			exit := r.Exit(limit)
			if exit.Reason != uapi.KVMExitIO || !exit.Out || exit.Port != port || len(exit.Data) != 2 {
				t.Log("exit: " + exit.String())
				return -1
			}
			return int(exit.Data[0]) | int(exit.Data[1])<<8
		}
		fired, wrong := 0, 0
		fire := func() {
			fired++
			dev.Raise()
			dev.Acknowledge()
		}
		count := func(got int) {
			if got != fired {
				wrong++
			}
		}

		t.Step("interrupts that find the guest halted")
		asleep := 0
		for range 10 {
			r := cpu.Start()
			if r.Halted(limit) {
				asleep++
			}
			fire()
			count(told(r))
		}
		t.WantInt(asleep, 10, "each time the guest had halted before")
		t.WantInt(wrong, 0, "each interrupt woke it and ran the handler once")

		t.Step("interrupts that come before the guest runs")
		for range 90 {
			fire()
			count(told(cpu.Start()))
		}
		t.WantInt(wrong, 0, "each interrupt ran the handler once")
		t.WantInt(int(page.Uint16(runs)), fired, "the guest's memory has the same count")

		t.Step("an interrupt past the guest: the irqfd is gone")
		r := cpu.Start()
		t.Check(r.Halted(limit), "the guest has halted")
		vm.DeassignIRQFD(gsi, trigger)
		trigger.Count() // up to 5.10 the irqfd only watched it
		dev.Raise()
		t.Check(dev.Raised(), "the device says that it raised its interrupt")
		dev.Acknowledge()
		t.WantInt(trigger.Wait(limit), 1, "the interrupt arrives in the eventfd")
		t.Check(r.Halted(limit), "the guest is still halted")
		t.WantInt(int(page.Uint16(runs)), fired, "its handler has not run")

		t.Step("with an irqfd again the next one arrives")
		vm.AssignIRQFD(gsi, trigger)
		fire()
		t.WantInt(told(r), fired, "the handler ran once more")

		t.Step("nothing is left over")
		r = cpu.Start()
		t.Check(r.Halted(limit), "the guest halts")
		t.Check(r.Stop(), "it ends by being stopped, not by another interrupt")
		t.WantInt(int(page.Uint16(runs)), fired, "the handler ran as often as the device fired for it")
		t.WantInt(trigger.Count(), t.LeftInEventFD(), "no signal is left in the eventfd, from 5.11 on")
		vm.Close()
		dev.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed")
		t.WantIdle("every reference is back")
	},
})
