package scenarios

import (
	"fmt"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// What the kvm-vfio device refuses, by the errno that its source says (virt/kvm/vfio.c, kvm_ioctl_create_device and
// kvm_device_ioctl), and what it takes although it looks wrong. A refused call holds nothing afterwards, neither of
// a module nor of a VM, and a valid ADD and DEL after each still work; after all of them the device moves data for
// a VM.
//
// Kernels differ: 5.10 refuses a group that is in no container, later ones do not look. The descriptor of an open
// device is taken from 6.6 on (vfio_file_is_valid) and before that is no group's. 5.10's kvm-vfio device stays
// until its VM goes (ops->destroy), so that a second is refused even when the first is closed. That another mm is
// refused with EIO is detach-fork-child's to say.
var _ = lab.Register(lab.Scenario{
	Name:    "neg-kvm-vfio-errno",
	Summary: "the kvm-vfio device refuses bad input with the right errno and holds nothing of it",
	Area:    lab.Negative,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const (
			group, add, del = uapi.KVMDevVFIOFile, uapi.KVMDevVFIOFileAdd, uapi.KVMDevVFIOFileDel
			spapr           = 3 // KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE, of another architecture
			iova            = 0x10_0000
		)
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		other := t.Foreign().FD()
		refs := t.RefCounter(t.Module(lab.KVMVendor), t.Module("kvm"), t.Module("vfio"), t.Module("vfio_pci"), t.Module("vfio_iommu_type1"))
		vm := t.NewVM()

		create := func(kind, flags uint32) func() error {
			return func() error {
				made := uapi.KVMDevice{Type: kind, Flags: flags}
				_, err := uapi.IoctlPtr(vm.FD(), "VM", uapi.KVMCreateDevice, &made)
				if err == nil && flags&uapi.KVMCreateDeviceTest == 0 {
					err = uapi.Close(int(made.FD), "kvm-vfio device")
				}
				return err
			}
		}
		t.Step("KVM_CREATE_DEVICE, no kvm-vfio device yet")
		refusals(t, refs, nil, []refusal{
			{"type 0", unix.ENODEV, create(0, 0)},
			{"a type of another architecture", unix.ENODEV, create(5, 0)}, // KVM_DEV_TYPE_ARM_VGIC_V2
			{"a type that nobody has", unix.ENODEV, create(1<<32-1, 0)},
			{"a test of a type that nobody has", unix.ENODEV, create(1<<32-1, uapi.KVMCreateDeviceTest)},
			{"a bad address", unix.EFAULT, func() error { _, err := uapi.Ioctl(vm.FD(), "VM", uapi.KVMCreateDevice, nowhere); return err }},
			{"a test of kvm-vfio", nil, create(uapi.KVMDevTypeVFIO, uapi.KVMCreateDeviceTest)},
		})
		vm.NewVFIO()
		refusals(t, refs, nil, []refusal{
			{"a second kvm-vfio device", unix.EBUSY, create(uapi.KVMDevTypeVFIO, 0)},
			{"a test of a second one does not look", nil, create(uapi.KVMDevTypeVFIO, uapi.KVMCreateDeviceTest)},
		})
		vm.CloseVFIO()
		if t.Since(6, 1) {
			refusals(t, refs, nil, []refusal{{"another one when the first is closed", nil, create(uapi.KVMDevTypeVFIO, 0)}})
		} else {
			refusals(t, refs, nil, []refusal{{"another one when the first is closed", unix.EBUSY, create(uapi.KVMDevTypeVFIO, 0)}})
		}
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed")

		vm = t.NewVM()
		vm.NewVFIO()
		attr := func(req uapi.Request, group uint32, attr, addr uint64) error {
			_, err := uapi.IoctlPtr(vm.VFIOFD(), "kvm-vfio device", req, &uapi.KVMDeviceAttr{Group: group, Attr: attr, Addr: addr})
			return err
		}
		set := func(g uint32, a, addr uint64) func() error {
			return func() error { return attr(uapi.KVMSetDeviceAttr, g, a, addr) }
		}
		has := func(g uint32, a uint64) func() error {
			return func() error { return attr(uapi.KVMHasDeviceAttr, g, a, 0) }
		}
		file := func(a uint64, fd int) func() error {
			return func() error {
				number := new(int32)
				*number = int32(fd)
				// The struct carries the address as a number, which keeps nothing alive and nothing in place.
				var pin runtime.Pinner
				pin.Pin(number)
				defer pin.Unpin()
				return set(group, a, uint64(uintptr(unsafe.Pointer(number))))()
			}
		}

		t.Step("a group without a container")
		dev.OpenGroup()
		if t.Since(6, 1) {
			refusals(t, refs, file(del, dev.GroupFD()), []refusal{{"ADD", nil, file(add, dev.GroupFD())}})
		} else {
			refusals(t, refs, nil, []refusal{{"ADD", unix.EINVAL, file(add, dev.GroupFD())}})
		}
		dev.Attach()

		// A valid pair shows after each refusal that nothing stuck.
		valid := func() error {
			if err := file(add, dev.GroupFD())(); err != nil {
				return err
			}
			return file(del, dev.GroupFD())()
		}
		t.Step("the device's attributes")
		refusals(t, refs, valid, []refusal{
			{"SET of attribute group 0", unix.ENXIO, set(0, add, nowhere)},
			{"SET of attribute group 2", unix.ENXIO, set(2, add, nowhere)},
			{"SET of attribute 0", unix.ENXIO, set(group, 0, nowhere)},
			{"SET of SPAPR's attribute", unix.ENXIO, set(group, spapr, nowhere)},
			{"SET of an attribute that nobody has", unix.ENXIO, set(group, 1<<40, nowhere)},
			{"HAS of ADD", nil, has(group, add)},
			{"HAS of DEL", nil, has(group, del)},
			{"HAS of SPAPR's attribute", unix.ENXIO, has(group, spapr)},
			{"HAS of attribute group 2", unix.ENXIO, has(2, add)},
			{"GET", unix.EPERM, func() error { return attr(uapi.KVMGetDeviceAttr, group, add, nowhere) }},
			{"SET with a bad address", unix.EFAULT, func() error {
				_, err := uapi.Ioctl(vm.VFIOFD(), "kvm-vfio device", uapi.KVMSetDeviceAttr, nowhere)
				return err
			}},
			{"an ioctl of the VM's", unix.ENOTTY, func() error {
				_, err := uapi.Ioctl(vm.VFIOFD(), "kvm-vfio device", uapi.KVMCreateVCPU, 0)
				return err
			}},
		})

		t.Step("ADD and DEL of what is no group")
		refusals(t, refs, valid, []refusal{
			{"ADD of a bad address", unix.EFAULT, set(group, add, nowhere)},
			{"DEL of a bad address", unix.EFAULT, set(group, del, nowhere)},
			{"ADD of -1", unix.EBADF, file(add, -1)},
			{"DEL of -1", unix.EBADF, file(del, -1)},
			{"ADD of a number that is not open", unix.EBADF, file(add, closed)},
			{"DEL of a number that is not open", unix.EBADF, file(del, closed)},
			{"ADD of an eventfd", unix.EINVAL, file(add, other)},
			{"DEL of an eventfd", unix.ENOENT, file(del, other)},
			{"ADD of the VM", unix.EINVAL, file(add, vm.FD())},
			{"ADD of the kvm-vfio device itself", unix.EINVAL, file(add, vm.VFIOFD())},
			{"ADD of the container", unix.EINVAL, file(add, dev.ContainerFD())},
			{"DEL of the container", unix.ENOENT, file(del, dev.ContainerFD())},
			{"DEL of a group that was not added", unix.ENOENT, file(del, dev.GroupFD())},
		})

		t.Step("one file, two descriptors")
		dup := t.Dup(dev.GroupFD())
		refusals(t, refs, file(del, dup.FD()), []refusal{{"ADD", nil, file(add, dev.GroupFD())}})
		held := func() error { // a valid state to come back to: added once
			if err := file(del, dup.FD())(); err != nil {
				return err
			}
			return file(add, dev.GroupFD())()
		}
		t.WantErr(file(add, dev.GroupFD())(), nil, "ADD")
		refusals(t, refs, held, []refusal{
			{"ADD of the same descriptor again", unix.EEXIST, file(add, dev.GroupFD())},
			{"ADD of a duplicate of it", unix.EEXIST, file(add, dup.FD())},
			{"DEL of an eventfd", unix.ENOENT, file(del, other)},
		})
		t.WantErr(file(del, dup.FD())(), nil, "DEL by the duplicate")
		t.WantErr(file(del, dev.GroupFD())(), unix.ENOENT, "DEL once more")
		dup.Close()

		t.Step("an open device's descriptor")
		dev.Open()
		if t.Since(6, 6) {
			refusals(t, refs, file(del, dev.FD()), []refusal{{"ADD", nil, file(add, dev.FD())}})
		} else {
			refusals(t, refs, valid, []refusal{{"ADD", unix.EINVAL, file(add, dev.FD())}})
		}
		refusals(t, refs, valid, []refusal{{"DEL of one that was not added", unix.ENOENT, file(del, dev.FD())}})
		dev.Close()
		vm.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed")
		t.WantIdle("every reference is back")

		t.Step("a valid attach")
		vm = t.NewVM()
		vm.AddVFIO(dev)
		dev.Open()
		t.WantInt(t.Module("kvm").Held(), map[lab.Regime]int{lab.RSYM: 1}[t.Regime()], "from 6.2 to 7.3 the open holds one reference of kvm")
		dev.EnableDMA()
		dev.Map(page, iova)
		t.Check(dev.RoundTrip(page, iova, 0x5a), "the device moves data")
		dev.Unmap(iova)
		vm.Close()
		dev.Close()
	},
})

// refusal is a call and the kernel's answer to it: an errno, or nil where it takes what looks wrong.
type refusal struct {
	what string
	want error
	call func() error
}

const (
	nowhere = 8       // an address where no process has memory
	closed  = 1 << 19 // a descriptor that nobody has open
)

// refusals makes the calls. After each, what undoes or repeats the valid one must work, and nothing may be held
// that was not before.
func refusals(t *lab.T, refs *lab.RefCounter, valid func() error, table []refusal) {
	var off []string
	for _, r := range table {
		before := refs.String()
		t.WantErr(r.call(), r.want, r.what)
		if valid != nil {
			if err := valid(); err != nil {
				off = append(off, fmt.Sprintf("%s: a valid call after it: %s", r.what, uapi.ErrnoName(err)))
			}
		}
		if after := refs.String(); after != before {
			off = append(off, fmt.Sprintf("%s: before %s, after %s", r.what, before, after))
		}
	}
	t.WantText(strings.Join(off, "; "), "", "valid calls after these work, and nothing of these is held")
}
