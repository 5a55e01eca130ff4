package scenarios

import (
	"fmt"
	"strings"
	"time"

	"github.com/nestbed/nestbed/guestagent/kvm"
	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A process that inherits every descriptor of an attach can ask nothing of the VM, its vCPU and its kvm-vfio
// device: their ioctls belong to the mm that made the VM (EIO from kvm_vm_ioctl, kvm_vcpu_ioctl and
// kvm_device_ioctl). It can use the VFIO device, which belongs to whoever has it. And it holds them all: with the
// owner's descriptors closed nothing is given back, and what the heir closes last, or dies with, destroys the VM
// from a foreign mm.
//
// A plain fork would share no mm either, but the runtime of this agent forks only to execute: the heir is a new
// program with the descriptors passed to it.
var _ = lab.Register(lab.Scenario{
	Name:    "detach-fork-child",
	Summary: "a child that inherited an attach is refused by KVM, holds it all, and destroys the VM with its last close",
	Area:    lab.Detach,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		dev := t.BindVFIO(lab.EDU)
		refs := t.RefCounter(t.Module(lab.KVMVendor), t.Module("kvm"), t.Module("vfio"), t.Module("vfio_pci"), t.Module("vfio_iommu_type1"))

		for _, end := range []string{"the heir closes", "the heir is killed"} {
			t.Step("attach, and pass everything to a child")
			vm := t.NewVM()
			cpu := vm.NewVCPU()
			vm.AddVFIO(dev)
			dev.Open()
			vm.CloseSystem()
			heir := t.ChildWith(inherit, []int{vm.FD(), cpu.FD(), vm.VFIOFD(), dev.FD(), dev.GroupFD(), dev.ContainerFD()})

			t.Step("the child is a stranger to the VM, and not to the device")
			t.WantText(heir.Ask("kvm-vfio"), "EIO", "the kvm-vfio device refuses another mm")
			t.WantText(heir.Ask("VM"), "EIO", "so does the VM")
			t.WantText(heir.Ask("vCPU"), "EIO", "and the vCPU")
			t.WantText(heir.Ask("device"), "success", "the VFIO device answers whoever has it")
			t.WantErr(vm.DelVFIO(dev), nil, "the owner is not refused: DEL")
			vm.AddVFIO(dev)

			t.Step("the owner closes what it has")
			before := refs.String()
			vm.Close()
			dev.Close()
			t.WantText(refs.String(), before, "nothing is given back while the child has it")
			t.Check(!vm.Destroyed(), "the VM lives")
			t.WantText(heir.Ask("device"), "success", "the device still answers")

			t.Step(end)
			if end == "the heir is killed" {
				heir.Kill()
			} else {
				t.WantText(heir.Ask("close VM, vCPU, kvm-vfio"), "success", "close what is KVM's")
				t.Check(vm.Destroyed() == (t.Regime() == lab.R61), "from 6.2 on, and only then, the device keeps the VM alive")
				t.WantText(heir.Ask("close group, container"), "success", "close the group and the container")
				t.Check(vm.Destroyed() == (t.Regime() == lab.R61), "which has nothing to do with the VM")
				t.WantText(heir.Ask("device"), "success", "the device still answers")
				t.WantText(heir.Ask("close device"), "success", "close the device")
				t.Check(vm.Destroyed(), "the VM is destroyed with the device's last close")
				t.WantIdle("everything is back while the child still runs")
				heir.Tell("end")
				heir.Wait()
			}
			t.Check(vm.Destroyed(), "the VM is destroyed")
			t.WantIdle("everything is back")
		}

		t.Step("the device still works")
		dev.Open()
		t.Check(dev.Info().PCI, "the device answers")
		dev.Close()
	},
})

// inherit tries what it is told with the descriptors of somebody else's attach, and says what the kernel
// answered.
var inherit = lab.RegisterChild("inherit", func(c *lab.C) error {
	vm := &kvm.VM{Desc: uapi.Own(c.FD(0), "VM")}
	cpu := &kvm.VCPU{Desc: uapi.Own(c.FD(1), "vCPU")}
	kvmVFIO := &kvm.VFIO{Desc: uapi.Own(c.FD(2), "kvm-vfio device")}
	device := &vfio.Device{Desc: uapi.Own(c.FD(3), "device")}
	group := &vfio.Group{Desc: uapi.Own(c.FD(4), "group")}
	container := &vfio.Container{Desc: uapi.Own(c.FD(5), "container")}
	closers := map[string]func() error{
		"VM": vm.Close, "vCPU": cpu.Close, "kvm-vfio": kvmVFIO.Close,
		"device": device.Close, "group": group.Close, "container": container.Close,
	}
	for {
		word, err := c.Hear()
		if err != nil {
			return err
		}
		names, closing := strings.CutPrefix(word, "close ")
		switch {
		case closing:
			for name := range strings.SplitSeq(names, ", ") {
				if err := closers[name](); err != nil {
					return err
				}
			}
		case word == "VM":
			_, err = vm.CreateVCPU(1)
		case word == "vCPU":
			_, err = uapi.Ioctl(cpu.FD(), cpu.Name(), uapi.KVMRun, 0)
		case word == "kvm-vfio":
			err = kvmVFIO.Del(group.FD())
		case word == "device":
			_, err = device.Info()
		case word == "end":
			return nil
		default:
			return fmt.Errorf("what is %q?", word)
		}
		if err := c.Say(uapi.ErrnoName(err)); err != nil {
			return err
		}
	}
})
