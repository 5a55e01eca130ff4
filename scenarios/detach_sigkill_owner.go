package scenarios

import (
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/kvm"
	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// A process that is killed anywhere on its way into KVM and VFIO leaves nothing behind: exit closes what it
// had, in the order of its descriptor numbers and without its help, and the kernel has everything back by
// the time that the parent reaps it.
//
// One victim stands still at each point of the way in. Ten more go the way in and out, round and round, and
// are hit in the middle: a second thread counts the steps that the first one begins, and kills the process
// in every other one of a round. Where the first thread was by then is the last thing that it said. A whole
// attach before and after shows that the device works.
var _ = lab.Register(lab.Scenario{
	Name:    "detach-sigkill-owner",
	Summary: "a process killed anywhere while attaching leaves nothing behind",
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
		group := strconv.Itoa(dev.Group())
		attachWhole := func() {
			vm := t.NewVM()
			vm.AddVFIO(dev)
			dev.Open()
			dev.EnableMSI()
			t.Check(dev.Info().PCI, "the device answers")
			dev.Close()
			vm.Close()
		}

		t.Step("a whole attach and detach")
		attachWhole()
		t.WantIdle("every reference is back")

		t.Step("kills at rest")
		for i, s := range wayIn {
			victim := t.Child(attachAndWait, group, dev.Address(), strconv.Itoa(i), "stay")
			t.WantText(victim.Line(), s.name, "the victim is there")
			victim.Kill()
			t.WantIdle(fmt.Sprintf("kill after %q: everything is back", s.name))
		}

		t.Step("kills on the move")
		hit := map[string]bool{}
		round := slices.Concat(wayIn, wayOut)
		for i := 0; i < len(round); i += 2 {
			victim := t.Child(attachAndWait, group, dev.Address(), strconv.Itoa(i), "go on")
			began := victim.WaitKilled()
			last := began[len(began)-1]
			hit[last] = true
			t.WantIdle(fmt.Sprintf("kill aimed at %q, hit at %q: everything is back", round[i].name, last))
		}
		// A busy host may be late by some steps, for all of them alike.
		t.Check(len(hit) > len(round)/5, fmt.Sprintf("the kills came at different moments: %d of %d steps", len(hit), len(round)))

		t.Step("the same attach and detach again")
		attachWhole()
	},
})

// wayIn is the attach of the group interface as the victim does it, one system call or so at a time.
var wayIn = []step{
	{"open /dev/kvm", func(v *victim) (err error) { v.system, err = kvm.Open(); return }},
	{"create the VM", func(v *victim) (err error) { v.vm, err = v.system.CreateVM(); return }},
	{"create a vCPU", func(v *victim) (err error) { v.vcpu, err = v.vm.CreateVCPU(0); return }},
	{"create kvm-vfio", func(v *victim) (err error) { v.kvmVFIO, err = v.vm.CreateVFIO(); return }},
	{"open the container", func(v *victim) (err error) { v.container, err = vfio.OpenContainer(); return }},
	{"open the group", func(v *victim) (err error) { v.group, err = vfio.OpenGroup(v.number); return }},
	{"set the container", func(v *victim) error { return v.group.SetContainer(v.container) }},
	{"set the IOMMU", func(v *victim) error { return v.container.SetIOMMU(uapi.VFIOType1v2IOMMU) }},
	{"tell the VM", func(v *victim) error { return v.kvmVFIO.Add(v.group.FD()) }},
	{"open the device", func(v *victim) (err error) { v.device, err = v.group.Device(v.address); return }},
	{"map a page", func(v *victim) error { return v.container.Map(v.page, 0x10_0000) }},
	{"enable MSI", func(v *victim) error { return v.device.EnableMSI(v.eventfd) }},
}

// wayOut is the detach, the device first.
var wayOut = []step{
	{"close the device", func(v *victim) error { return v.device.Close() }},
	{"close kvm-vfio", func(v *victim) error { return v.kvmVFIO.Close() }},
	{"close the group", func(v *victim) error { return v.group.Close() }},
	{"close the container", func(v *victim) error { return v.container.Close() }},
	{"close the vCPU", func(v *victim) error { return v.vcpu.Close() }},
	{"close the VM", func(v *victim) error { return v.vm.Close() }},
	{"close /dev/kvm", func(v *victim) error { return v.system.Close() }},
}

type step struct {
	name string
	do   func(*victim) error
}

// victim is the process that is killed. It owns what it opened, and closes it only on the round after.
type victim struct {
	number    int
	address   string
	page      []byte
	eventfd   int
	system    *kvm.System
	vm        *kvm.VM
	vcpu      *kvm.VCPU
	kvmVFIO   *kvm.VFIO
	container *vfio.Container
	group     *vfio.Group
	device    *vfio.Device
}

var attachAndWait = lab.RegisterChild("attach-and-wait", func(c *lab.C) error {
	number, err := strconv.Atoi(c.Args[0])
	if err != nil {
		return err
	}
	point, err := strconv.Atoi(c.Args[2])
	if err != nil {
		return err
	}
	goOn := c.Args[3] == "go on"
	v := &victim{number: number, address: c.Args[1]}
	if v.page, err = unix.Mmap(-1, 0, lab.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON); err != nil {
		return err
	}
	if v.eventfd, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return err
	}
	if !goOn {
		for _, s := range wayIn[:point+1] {
			if err := s.do(v); err != nil {
				return err
			}
		}
		if err := c.Say(wayIn[point].name); err != nil {
			return err
		}
		return c.Sleep()
	}
	var began atomic.Int64 // how many steps
	go func() {
		for began.Load() <= int64(point) { // it spins: whatever waits is late by a step or two
		}
		_ = unix.Kill(unix.Getpid(), unix.SIGKILL) // what it returns nobody sees
	}()
	for {
		for _, s := range slices.Concat(wayIn, wayOut) {
			if err := c.Say(s.name); err != nil {
				return err
			}
			began.Add(1)
			if err := s.do(v); err != nil {
				return err
			}
		}
	}
})
