package scenarios

import (
	"fmt"
	"strings"
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// VM, kvm-vfio device and VFIO device may be closed in any order while the device's interrupts are pending
// and irqfds are armed, be it an MSI that no vCPU ever took or an INTx that waits for an EOI that never
// comes. Nothing is injected into a VM that is gone: what the device raises then stays in the eventfd.
//
// That a signal is not in the eventfd says that the irqfd took it only if there was one: INTx is seen in the
// eventfd before the irqfd is there, and in the VM's PIC afterwards, as the MSI is in the vCPU's APIC.
//
// kvm_vm_release takes the irqfds down (kvm_irqfd_release) with the last close of the VM's file. That is
// its own descriptor's up to 7.3; with file-based references an open device holds the file, and the irqfds
// stay armed until the device is closed. A vCPU holds the VM, not its file.
var _ = lab.Register(lab.Scenario{
	Name:    "irq-close-vm-inflight",
	Summary: "closes in every order with interrupts pending and irqfds armed",
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
			limit = 2 * time.Second
			line  = 5 // of the PIC, which is routed so from the start
		)
		left := t.LeftInEventFD()
		dev := t.BindVFIO(lab.EDU)
		for i, order := range []string{"VDF", "VFD", "DVF", "DFV", "FVD", "FDV"} {
			for _, kind := range []lab.Interrupt{lab.MSI, lab.INTx} {
				name := map[lab.Interrupt]string{lab.MSI: "MSI", lab.INTx: "INTx"}[kind]
				order := []string{"P" + order, order + "P"}[i%2] // the vCPU first, or last
				t.Step(fmt.Sprintf("%s, close in the order %s", name, order))
				vm := t.NewVM()
				vm.CreateIRQChip()
				cpu := vm.NewVCPU()
				cpu.EnableLAPIC()
				vm.AddVFIO(dev)
				dev.Open()
				dev.EnableDMA()
				trigger, resample := t.NewEventFD(), t.NewEventFD()
				if kind == lab.MSI {
					vm.RouteMSI(24, 0x41)
					vm.AssignIRQFD(24, trigger)
					dev.SetVectors(kind, 0, trigger)
				} else {
					dev.SetVectors(kind, 0, trigger)
					dev.Raise()
					t.WantInt(trigger.Wait(limit), 1, "without an irqfd the device's interrupt stays in the eventfd")
					dev.Acknowledge()
					dev.UnmaskINTx()
					vm.AssignResampler(line, trigger, resample)
					dev.UnmaskINTxOn(resample)
				}

				dev.Raise()
				t.Check(dev.Raised(), "the device has raised its interrupt")
				if kind == lab.MSI {
					t.WantText(cpu.WaitRequested(limit), "[65]", "it is pending in the vCPU's APIC")
				} else {
					t.WantText(vm.WaitPICRequested(limit), "[5]", "it is pending in the VM's PIC")
				}
				t.WantInt(trigger.Left(), left, "the irqfd took the signal, from 5.11 on out of the eventfd too")

				for at, part := range order {
					switch part {
					case 'P':
						vm.CloseVCPUs()
					case 'V':
						vm.CloseVM()
					case 'D':
						vm.CloseVFIO()
					case 'F':
						dev.CloseDevice()
					}
					open := order[at+1:]
					if !strings.ContainsRune(open, 'F') {
						break
					}
					// The next interrupt: another message, or the level that is still up and is looked at again.
					vcpu := kind == lab.MSI && strings.ContainsRune(open, 'P')
					if vcpu {
						cpu.ClearLAPIC()
					}
					if kind == lab.MSI {
						dev.Raise()
					} else {
						resample.Signal()
					}
					armed := strings.ContainsRune(open, 'V') || t.Regime() == lab.RFILE
					if armed {
						if vcpu {
							t.WantText(cpu.WaitRequested(limit), "[65]", "the next one is in the APIC too")
						}
						t.WantInt(trigger.Left(), left, "the irqfd took the next signal, with "+open+" open")
					} else {
						t.WantInt(trigger.Wait(limit), 1, "the next one stays in the eventfd, with "+open+" open")
						if vcpu {
							t.WantText(cpu.Requested(), "[]", "and is not in the APIC of a vCPU that is still there")
						}
					}
				}
				vm.Close()
				dev.Close()
				t.Check(vm.Destroyed(), "the VM is destroyed")
				t.WantIdle("every reference is back")
				trigger.Close()
				resample.Close()
			}
		}
	},
})
