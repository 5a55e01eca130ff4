package scenarios

import (
	"fmt"
	"math/rand/v2"
	"strconv"
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
// One victim stands still at each point of the way in; eight more, from points drawn with a fixed seed, go
// on, attaching and detaching, and are hit wherever they are by then. A whole attach before and after shows
// that the device works.
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
		const moving, seed = 8, 20
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

		t.Step(fmt.Sprintf("%d kills at rest, %d on the move, seed %d", len(wayIn), moving, seed))
		random := rand.New(rand.NewPCG(seed, 0))
		for i := range len(wayIn) + moving {
			point, how := i, "stay"
			if i >= len(wayIn) {
				point, how = random.IntN(len(wayIn)), "go on"
			}
			victim := t.Child(attachAndWait, group, dev.Address(), strconv.Itoa(point), how)
			reached := victim.Line()
			victim.Kill()
			t.WantIdle(fmt.Sprintf("kill %d (%s after %q): everything is back", i+1, how, reached))
		}

		t.Step("the same attach and detach again")
		attachWhole()
	},
})

// wayIn is the attach of the group interface as the victim does it, one system call or so at a time.
var wayIn = []struct {
	name string
	step func(*victim) error
}{
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
	for round := 0; ; round++ {
		for i, s := range wayIn {
			if err := s.step(v); err != nil {
				return err
			}
			if round == 0 && i == point {
				if err := c.Say(s.name); err != nil {
					return err
				}
				if !goOn {
					return c.Sleep()
				}
			}
		}
		for _, end := range []func() error{
			v.device.Close, v.kvmVFIO.Close, v.group.Close, v.container.Close, v.vcpu.Close, v.vm.Close, v.system.Close,
		} {
			if err := end(); err != nil {
				return err
			}
		}
	}
})
