package scenarios

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A device outlives the process that opened it for its VM: its descriptor went to another process over
// SCM_RIGHTS before the owner was killed. The device works for its new owner, holds from 6.2 on the VM of a dead
// process, whose mm is no longer anybody's (kvm_arch_destroy_vm then runs with current->mm != kvm->mm), and
// destroys it with its last close.
//
// Three ways: received before the kill and closed; in flight when the owner dies, held by nothing but a socket's
// queue, and received after; received, and its holder killed too.
var _ = lab.Register(lab.Scenario{
	Name:    "detach-scm-rights-survivor",
	Summary: "a device passed to another process outlives its killed owner, and its last close destroys the VM",
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
		kvm, pci, type1 := t.Module("kvm"), t.Module("vfio_pci"), t.Module("vfio_iommu_type1")
		kept := 1 // VMs that a device keeps
		if t.Regime() == lab.R61 {
			kept = 0
		}
		for _, way := range []string{"received, then closed", "received from a dead owner, then closed", "received, then killed"} {
			t.Step(way)
			from, to := t.SocketPair()
			owner := t.ChildWith(handOver, []int{from.FD()}, strconv.Itoa(dev.Group()), dev.Address())
			heir := t.ChildWith(takeOver, []int{to.FD()})
			from.Close()
			to.Close()
			t.WantText(owner.Ask("send"), "sent", "the owner attaches and passes the device on")
			t.WantInt(t.LiveVMs(), 1, "its VM lives")
			dead := way == "received from a dead owner, then closed"
			if !dead {
				t.WantText(heir.Ask("receive"), "received", "the heir has the device")
			}
			owner.Kill()
			t.WantInt(t.LiveVMs(), kept, "from 6.2 on, and only then, the device keeps the VM of the dead owner")
			t.WantInt(pci.Held(), 1, "the device is still open")
			t.WantInt(type1.Held(), 1, "and its group still has its IOMMU")
			t.WantInt(kvm.Held(), map[lab.Regime]int{lab.RSYM: 1}[t.Regime()], "from 6.2 to 7.3 it holds kvm")
			if dead {
				t.WantText(heir.Ask("receive"), "received", "the heir has the device")
			}
			t.WantText(heir.Ask("info"), "a PCI device", "the device answers its heir")
			if way == "received, then killed" {
				heir.Kill()
			} else {
				t.WantText(heir.Ask("close"), "closed", "the heir closes the device")
				t.WantInt(t.LiveVMs(), 0, "the VM is destroyed with the device's last close")
				t.WantInt(pci.Held(), 0, "and vfio_pci is given back")
				heir.Tell("end")
				heir.Wait()
			}
			t.WantIdle("everything is back")
		}

		t.Step("the device still works")
		dev.Open()
		t.Check(dev.Info().PCI, "the device answers")
		dev.Close()
	},
})

// handOver attaches the device on behalf of a VM, passes its descriptor on when it is told to, and waits to be
// killed.
var handOver = lab.RegisterChild("hand-over", func(c *lab.C) error {
	number, err := strconv.Atoi(c.Args[0])
	if err != nil {
		return err
	}
	v := &victim{number: number, address: c.Args[1]}
	for _, name := range []string{
		"open /dev/kvm", "create the VM", "create a vCPU", "create kvm-vfio", "open the container", "open the group",
		"set the container", "set the IOMMU", "tell the VM", "open the device",
	} {
		if err := v.take(name); err != nil {
			return err
		}
	}
	if _, err := c.Hear(); err != nil {
		return err
	}
	if err := unix.Sendmsg(c.FD(0), []byte{0}, unix.UnixRights(v.device.FD()), nil, 0); err != nil {
		return fmt.Errorf("send the device: %w", err)
	}
	if err := c.Say("sent"); err != nil {
		return err
	}
	return c.Sleep()
})

// take does the step of wayIn that has this name.
func (v *victim) take(name string) error {
	for _, s := range wayIn {
		if s.name == name {
			return s.do(v)
		}
	}
	return errors.New("no step " + name)
}

// takeOver does what it is told with a device that somebody sends it.
var takeOver = lab.RegisterChild("take-over", func(c *lab.C) error {
	var device *vfio.Device
	for {
		word, err := c.Hear()
		if err != nil {
			return err
		}
		answer := ""
		switch word {
		case "receive":
			fd, err := receive(c.FD(0))
			if err != nil {
				return err
			}
			device, answer = &vfio.Device{Desc: uapi.Own(fd, "device")}, "received"
		case "info":
			info, err := device.Info()
			if err != nil {
				return err
			}
			answer = map[bool]string{true: "a PCI device", false: "something else"}[info.PCI]
		case "close":
			if err := device.Close(); err != nil {
				return err
			}
			answer = "closed"
		default:
			return nil
		}
		if err := c.Say(answer); err != nil {
			return err
		}
	}
})

// receive takes one descriptor off a socket.
func receive(socket int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("receive a descriptor: %w", err)
	}
	list, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(list) != 1 {
		return -1, fmt.Errorf("receive a descriptor: %d control messages, %w", len(list), err)
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("receive a descriptor: %d of them, %w", len(fds), err)
	}
	return fds[0], nil
}
