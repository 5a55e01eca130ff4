package scenarios

import (
	"fmt"
	"time"

	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A level-triggered interrupt goes round in the kernel: INTx masks itself and signals an eventfd, the
// resampling irqfd raises the guest's PIC, the guest's EOI lowers it and signals another eventfd, on which
// VFIO unmasks. Not one is lost and none is made up, a thousand times.
//
// The guest has the device's registers mapped: it raises the interrupt, halts, and its handler takes it
// back and gives the EOI, so that user space has no hand in it. A handler that leaves the line up is called
// again at once (vfio_pci_intx_unmask_handler finds the interrupt pending and signals instead of
// unmasking). Before VFIO is told of the second eventfd, the second interrupt waits for an unmask by hand.
var _ = lab.Register(lab.Scenario{
	Name:    "irq-intx-resample",
	Summary: "INTx, irqfd, EOI and unmask go round in the kernel without losing an interrupt",
	Area:    lab.IRQ,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		const (
			gsi       = 5    // of the PIC, which is routed so from the start
			vector    = 0x25 // what the guest gives it
			registers = 0x10000
			runs      = 0x0ff0 // in the guest's page: how often the handler ran
			port      = 0x3f8
			limit     = 5 * time.Second
		)
		// bx interrupts, each of which the handler takes back when it runs the ax-th time.
		entry := []byte{
			0xbc, 0x00, 0x0f, // mov sp, 0xf00
			0x89, 0xc6, // mov si, ax
			0x31, 0xff, // xor di, di
			0xb8, 0x00, 0x10, // mov ax, 0x1000
			0x8e, 0xc0, // mov es, ax: the device's registers
			0xb0, 0x11, 0xe6, 0x20, // PIC: four words of initialization follow
			0xb0, 0x20, 0xe6, 0x21, // its vectors begin at 0x20
			0xb0, 0x04, 0xe6, 0x21, // the second PIC is at line 2
			0xb0, 0x01, 0xe6, 0x21, // 8086 mode, EOI by hand
			0xb0, 0xdf, 0xe6, 0x21, // all masked but line 5
			0xb0, 0x20, 0xba, 0xd0, 0x04, 0xee, // line 5 is a level
			// again:
			0xfa,                   // cli
			0x01, 0x36, 0xf2, 0x0f, // add [0xff2], si
			0x26, 0x66, 0xc7, 0x06, 0x60, 0x00, 0x01, 0x00, 0x00, 0x00, // mov dword es:[0x60], 1: raise
			// wait:
			0xa1, 0xf2, 0x0f, // mov ax, [0xff2]
			0x3b, 0x06, 0xf0, 0x0f, // cmp ax, [0xff0]
			0x74, 0x05, // je done
			0xfb, 0xf4, 0xfa, // sti, hlt, cli
			0xeb, 0xf2, // jmp wait
			// done:
			0x4b,       // dec bx
			0x75, 0xe0, // jnz again
			0xba, 0xf8, 0x03, // mov dx, 0x3f8
			0xef, // out dx, ax
			0xf4, // hlt
		}
		// QEMU before 9.1 loses what STI holds back until the next instruction is over when the guest is left in
		// between, so that the interrupt may come before HLT, which would then wait for another: skip it.
		handler := []byte{
			0x89, 0xe5, // mov bp, sp
			0x81, 0x7e, 0x00, 0x3f, 0x04, // cmp word [bp], 0x43f: back to hlt?
			0x75, 0x03, // jne
			0xff, 0x46, 0x00, // inc word [bp]
			0xff, 0x06, 0xf0, 0x0f, // inc word [0xff0]
			0x47,       // inc di
			0x39, 0xf7, // cmp di, si
			0x72, 0x0c, // jb eoi
			0x31, 0xff, // xor di, di
			0x26, 0x66, 0xc7, 0x06, 0x64, 0x00, 0x01, 0x00, 0x00, 0x00, // mov dword es:[0x64], 1: acknowledge
			0xb0, 0x20, 0xe6, 0x20, // eoi: out 0x20, 0x20
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
		mapped := vm.GiveRegisters(dev, registers)
		trigger, resample := t.NewEventFD(), t.NewEventFD()
		info := dev.IRQInfo(lab.INTx)
		t.Check(info.Count == 1 && info.EventFD && info.Maskable && info.Automasked, "INTx is one line that masks itself")
		vm.AssignResampler(gsi, trigger, resample)
		dev.SetVectors(lab.INTx, 0, trigger)

		want := 0
		ends := func(r *lab.Running, more int, claim string) {
			want += more
			// As long as the count grows the guest is only slow.
			in := r.Returned(limit)
			for had := -1; !in && had != int(page.Uint16(runs)); in = r.Returned(limit) {
				had = int(page.Uint16(runs))
			}
			if !in {
				t.Log(fmt.Sprintf("guest halted: %v; device raised: %v; %d interrupts of it handled; signals left: %d, %d",
					r.Halted(limit), dev.Raised(), dev.Handled(), trigger.Count(), resample.Count()))
				r.Stop()
			}
			t.Check(in, "the guest has all the interrupts that it waits for")
			t.WantInt(int(page.Uint16(runs)), want, claim)
			if exit := r.Exit(limit); exit.Reason != uapi.KVMExitIO || exit.Port != port {
				t.Log("exit: " + exit.String())
				t.Check(false, "the guest comes to its end")
			}
		}

		t.Step("two interrupts, and nobody unmasks")
		cpu.StartReal(lab.GuestEntry, 1, 2)
		r := cpu.Start()
		t.WantInt(resample.Wait(limit), 1, "the guest's EOI is signalled")
		t.Check(r.Halted(limit), "the guest waits for its second interrupt")
		t.Check(dev.Raised(), "the device has raised it")
		t.Check(resample.Quiet() && !r.Done(), "it does not arrive")
		t.WantInt(int(page.Uint16(runs)), 1, "the handler ran for the first")
		dev.UnmaskINTx()
		ends(r, 2, "unmasked by hand, the second arrives")
		t.WantInt(resample.Count(), 1, "its EOI is signalled too")

		t.Step("a thousand, unmasked by the guest's EOI")
		dev.UnmaskINTx()
		dev.UnmaskINTxOn(resample)
		handled := dev.Handled()
		cpu.StartReal(lab.GuestEntry, 1, 1000)
		begin := time.Now()
		ends(cpu.Start(), 1000, "the handler ran a thousand times")
		t.Log("took " + time.Since(begin).Round(time.Millisecond).String())
		t.WantInt(dev.Handled()-handled, 1000, "for a thousand interrupts of the device")

		t.Step("fifty, each of which the handler takes back the third time")
		handled = dev.Handled()
		cpu.StartReal(lab.GuestEntry, 3, 50)
		ends(cpu.Start(), 150, "the handler ran three times for each")
		t.WantInt(dev.Handled()-handled, 50, "for fifty interrupts of the device")

		t.Step("nothing is left over")
		t.Check(!dev.Raised(), "the device's line is down")
		if t.LeftInEventFD() == 0 { // up to 5.10 nobody took them out
			t.Check(trigger.Quiet() && resample.Quiet(), "no signal is left")
		}
		dev.DisableIRQ(lab.INTx)
		vm.Close()
		dev.Close()
		mapped.Unmap() // it holds the device's file as its descriptor did
		t.Check(vm.Destroyed(), "the VM is destroyed")
		t.WantIdle("every reference is back")
	},
})
