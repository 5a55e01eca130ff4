package scenarios

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/kvm"
	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A process is killed while its guest runs and its device is in the middle of a transfer. The vCPU's thread
// leaves KVM_RUN, the device stops mastering the bus before its mappings and their pages go (do_exit closes the
// device, vfio_pci_core_disable clears the master bit, and only then is the group taken from its domain), and
// the kernel has everything back by the time that the parent reaps the process.
//
// Twice: a guest that spins, so that the CPU is in guest mode, and one that halts, so that the thread sleeps in
// kvm_vcpu_block. The transfer that was under way ends a tenth of a second after its start: the next owner, whose
// page lies at the same IOVA, sees nothing of it, and the IOMMU has nothing to refuse. That stands between the
// transfers of the killed process and those of the next, which both arrive.
var _ = lab.Register(lab.Scenario{
	Name:    "detach-sigkill-in-vcpu-run",
	Summary: "a process killed inside KVM_RUN with DMA under way leaves nothing behind, not even the transfer",
	Area:    lab.Detach,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		const canary = 0xc3
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		faults := t.Faults()

		for _, guest := range []string{"spins", "halts"} {
			t.Step("a guest that " + guest)
			victim := t.Child(runAndTransfer, strconv.Itoa(dev.Group()), dev.Address(), guest)
			t.WantText(victim.Line(), "the guest runs, the device moved a page", "the victim works")
			if guest == "halts" {
				t.Check(victim.BlockedIn("kvm_vcpu_block", 10*time.Second), "the vCPU's thread sleeps inside KVM_RUN")
			}
			t.WantInt(t.LiveVMs(), 1, "its VM lives")
			t.WantText(victim.Ask("transfer"), "a transfer has begun", "its device's engine is busy")
			victim.Kill()
			t.WantInt(dev.RealCommand()&lab.CommandMaster, 0, "the device may not master the bus any more")
			t.WantIdle("everything is back")

			t.Step("the next owner")
			dev.Open()
			page.Fill(canary)
			dev.Map(page, victimIOVA)
			dev.SettleDMA()
			t.WantInt(page.Count(canary), lab.PageSize, "nothing of the dead process's transfer arrives")
			dev.EnableDMA()
			t.Check(dev.RoundTrip(page, victimIOVA, 0x5a), "the device works for its next owner")
			dev.Unmap(victimIOVA)
			dev.Close()
			t.WantInt(t.Faults(), faults, "the IOMMU had nothing to refuse")
			t.WantIdle("everything is back")
		}
	},
})

const victimIOVA = 0x10_0000

// createIRQChip puts the interrupt controllers into the kernel, where HLT then waits (kvm_vcpu_block) instead of
// ending KVM_RUN.
var createIRQChip = uapi.Request{Name: "KVM_CREATE_IRQCHIP", Number: 0xae60}

var runAndTransfer = lab.RegisterChild("run-and-transfer", func(c *lab.C) error {
	const (
		code    = 0x1000
		counter = 0x0ff0 // within the page
	)
	program := []byte{
		0xff, 0x06, 0xf0, 0x1f, // inc word [0x1ff0]
		0xeb, 0xfa, // jmp to the start
	}
	spins := c.Args[2] == "spins"
	if !spins {
		program = []byte{
			0xff, 0x06, 0xf0, 0x1f, // inc word [0x1ff0]
			0xf4,       // hlt
			0xeb, 0xfd, // jmp to the hlt
		}
	}
	number, err := strconv.Atoi(c.Args[0])
	if err != nil {
		return err
	}
	v := &victim{number: number, address: c.Args[1]}
	memory, err := unix.Mmap(-1, 0, 2*lab.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	guest, page := memory[:lab.PageSize], memory[lab.PageSize:]
	copy(guest, program)
	var region *vfio.Region
	for _, step := range []func() error{
		func() (err error) { v.system, err = kvm.Open(); return },
		func() (err error) { v.vm, err = v.system.CreateVM(); return },
		func() error { return v.vm.PrepareRealMode(0xfffbd000, 0xfffbc000) },
		func() error {
			if spins {
				return nil
			}
			_, err := uapi.Ioctl(v.vm.FD(), v.vm.Name(), createIRQChip, 0)
			return err
		},
		func() error { return v.vm.SetMemory(0, code, guest) },
		func() (err error) { v.vcpu, err = v.vm.CreateVCPU(0); return },
		func() error { return v.vcpu.StartReal(code, 0, 0) },
		func() (err error) { v.kvmVFIO, err = v.vm.CreateVFIO(); return },
		func() (err error) { v.container, err = vfio.OpenContainer(); return },
		func() (err error) { v.group, err = vfio.OpenGroup(v.number); return },
		func() error { return v.group.SetContainer(v.container) },
		func() error { return v.container.SetIOMMU(uapi.VFIOType1v2IOMMU) },
		func() error { return v.kvmVFIO.Add(v.group.FD()) },
		func() (err error) { v.device, err = v.group.Device(v.address); return },
		func() error { return v.container.Map(page, victimIOVA) },
		func() error { return v.device.EnableDMA() },
		func() (err error) { region, err = v.device.Region(uapi.VFIOPCIBAR0); return },
	} {
		if err := step(); err != nil {
			return err
		}
	}

	ran := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		exit, err := v.vcpu.Run() // to the end of this process
		if err == nil {
			err = fmt.Errorf("KVM_RUN returned: %v", exit)
		}
		ran <- err
	}()
	// The guest's counter and the device's page move while nothing here writes them.
	edu := pci.EDU{Registers: region}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	word := (*uint32)(unsafe.Pointer(&guest[counter]))
	first := atomic.LoadUint32(word)
	for i := range page {
		page[i] = 0x77
	}
	if err := edu.FromMemory(ctx, victimIOVA, pci.EDUMaxDMA); err != nil {
		return err
	}
	clear(page)
	if err := edu.ToMemory(ctx, victimIOVA, pci.EDUMaxDMA); err != nil {
		return err
	}
	if got := binary.LittleEndian.Uint32(page); got != 0x77777777 {
		return fmt.Errorf("the device moved no data: %#x", got)
	}
	for now := atomic.LoadUint32(word); now == 0 || spins && now == first; now = atomic.LoadUint32(word) {
		select {
		case err := <-ran:
			return err
		case <-ctx.Done():
			return fmt.Errorf("the guest's counter stays %d: %w", now, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	if err := c.Say("the guest runs, the device moved a page"); err != nil {
		return err
	}
	if _, err := c.Hear(); err != nil {
		return err
	}
	if err := edu.StartToMemory(victimIOVA, pci.EDUMaxDMA); err != nil {
		return err
	}
	if err := c.Say("a transfer has begun"); err != nil {
		return err
	}
	return <-ran
})
