package scenarios

import (
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// What VFIO's group, container, type1 IOMMU and PCI device refuse, by the errno that their source says
// (drivers/vfio/{group,container,vfio_main,vfio_iommu_type1}.c, drivers/vfio/pci), in every state of an attach:
// a group without container, a container without group, the two without an IOMMU, all of it, the device open. A
// refused call holds nothing afterwards, after each table the device is opened and answers, and at the end it moves
// data.
//
// Kernels differ: SET_CONTAINER of what is no container is EBADFD from 6.2 on (the file might have been an
// iommufd's), EINVAL before; of a negative number EINVAL in 5.10. A mapping or an unmap that wraps is EOVERFLOW where
// type1 uses check_add_overflow (7.2 and 7.3 do, 6.12 does not, the kernels between have not been here), EINVAL
// before. The error interrupt of a device that is not PCI Express is refused up to 7.2 and there in 7.3, which lets
// every device have one for s390's sake. EPERM without interrupt remapping is attach-unsafe-irq-eperm's to say.
var _ = lab.Register(lab.Scenario{
	Name:    "neg-vfio-errno",
	Summary: "group, container, type1 and device refuse bad input with the right errno and hold nothing of it",
	Area:    lab.Negative,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		const iova = 0x10_0000
		dev := t.BindVFIO(lab.EDU)
		page := t.NewPage()
		other := t.Foreign().FD()
		refs := t.RefCounter(t.Module("vfio"), t.Module("vfio_pci"), t.Module("vfio_iommu_type1"))
		before := func(major, minor int, old, now error) error {
			if t.Since(major, minor) {
				return now
			}
			return old
		}
		// Requests are words; their first says how many bytes they have.
		group := func(req uapi.Request, arg uintptr) func() error {
			return func() error { _, err := uapi.Ioctl(dev.GroupFD(), "group", req, arg); return err }
		}
		setContainer := func(fd int) func() error {
			return func() error {
				number := int32(fd)
				_, err := uapi.IoctlPtr(dev.GroupFD(), "group", uapi.VFIOGroupSetContainer, &number)
				return err
			}
		}
		open := func(name string) func() error {
			return func() error {
				text, err := unix.BytePtrFromString(name)
				if err != nil {
					return err
				}
				fd, err := uapi.IoctlPtr(dev.GroupFD(), "group", uapi.VFIOGroupGetDeviceFD, text)
				if err == nil {
					err = uapi.Close(fd, "device")
				}
				return err
			}
		}
		container := func(req uapi.Request, arg uintptr) func() error {
			return func() error { _, err := uapi.Ioctl(dev.ContainerFD(), "container", req, arg); return err }
		}
		device := func(req uapi.Request, arg uintptr) func() error {
			return func() error { _, err := uapi.Ioctl(dev.FD(), "device", req, arg); return err }
		}
		words := func(req uapi.Request, words ...uint32) func() error {
			return func() error { _, err := uapi.IoctlPtr(dev.FD(), "device", req, unsafe.SliceData(words)); return err }
		}
		works := func(what string) {
			t.Step("the device works after " + what)
			dev.Open()
			t.Check(dev.Info().PCI, "it answers")
			dev.Close()
			t.WantIdle("every reference is back")
		}

		t.Step("a group without a container")
		dev.OpenGroup()
		refusals(t, refs, nil, []refusal{
			{"open it again", unix.EBUSY, func() error {
				g, err := vfio.OpenGroup(dev.Group())
				if err == nil {
					err = g.Close()
				}
				return err
			}},
			{"GET_DEVICE_FD", unix.EINVAL, open(dev.Address())},
			{"UNSET_CONTAINER", unix.EINVAL, group(groupUnset, 0)},
			{"SET_CONTAINER with a bad address", unix.EFAULT, group(uapi.VFIOGroupSetContainer, nowhere)},
			{"SET_CONTAINER of -1", before(6, 1, unix.EINVAL, unix.EBADF), setContainer(-1)},
			{"SET_CONTAINER of a number that is not open", unix.EBADF, setContainer(closed)},
			{"SET_CONTAINER of an eventfd", before(6, 2, unix.EINVAL, unix.EBADFD), setContainer(other)},
			{"SET_CONTAINER of the group itself", before(6, 2, unix.EINVAL, unix.EBADFD), setContainer(dev.GroupFD())},
			{"GET_STATUS with a bad address", unix.EFAULT, group(uapi.VFIOGroupGetStatus, nowhere)},
			{"GET_STATUS of no bytes", unix.EINVAL, func() error {
				_, err := uapi.IoctlPtr(dev.GroupFD(), "group", uapi.VFIOGroupGetStatus, new(uapi.VFIOGroupStatus))
				return err
			}},
			{"an ioctl of the device's", unix.ENOTTY, group(uapi.VFIODeviceGetInfo, 0)},
			{"BIND_IOMMUFD, an ioctl of the cdev's", unix.ENOTTY, group(uapi.VFIODeviceBindIOMMUFD, 0)},
		})

		t.Step("a container without a group")
		dev.OpenContainer()
		refusals(t, refs, nil, []refusal{
			{"SET_IOMMU", unix.EINVAL, container(uapi.VFIOSetIOMMU, uapi.VFIOType1v2IOMMU)},
			{"MAP_DMA", unix.EINVAL, container(uapi.VFIOIOMMUMapDMA, nowhere)},
			{"UNMAP_DMA", unix.EINVAL, container(uapi.VFIOIOMMUUnmapDMA, nowhere)},
			{"IOMMU_GET_INFO", unix.EINVAL, container(iommuGetInfo, nowhere)},
			{"an ioctl of the group's", unix.EINVAL, container(uapi.VFIOGroupGetStatus, nowhere)},
		})

		t.Step("a container with a group and without an IOMMU")
		dev.SetContainer()
		refusals(t, refs, nil, []refusal{
			{"SET_IOMMU of a type that nobody has", unix.ENODEV, container(uapi.VFIOSetIOMMU, 99)},
			{"SET_IOMMU of type 0", unix.ENODEV, container(uapi.VFIOSetIOMMU, 0)},
			{"SET_CONTAINER again", unix.EINVAL, setContainer(dev.ContainerFD())},
			{"GET_DEVICE_FD", unix.EINVAL, open(dev.Address())},
			{"MAP_DMA", unix.EINVAL, container(uapi.VFIOIOMMUMapDMA, nowhere)},
		})
		dev.Close()
		works("a group and a container that never were one")

		t.Step("a container with its IOMMU")
		dev.Attach()
		token := " vf_token=00112233-4455-6677-8899-aabbccddeeff"
		refusals(t, refs, open(dev.Address()), []refusal{
			{"SET_IOMMU again", unix.EINVAL, container(uapi.VFIOSetIOMMU, uapi.VFIOType1v2IOMMU)},
			{"SET_CONTAINER again", unix.EINVAL, setContainer(dev.ContainerFD())},
			{"GET_DEVICE_FD of an address that is not there", unix.ENODEV, open("0000:ff:1f.7")},
			{"GET_DEVICE_FD of no name", unix.ENODEV, open("")},
			{"GET_DEVICE_FD of a longer name", unix.ENODEV, open(dev.Address() + "0")},
			{"GET_DEVICE_FD with a token that the device has no use for", unix.EINVAL, open(dev.Address() + token)},
			{"GET_DEVICE_FD with a token that is none", unix.EINVAL, open(dev.Address() + " vf_token=x")},
			{"GET_DEVICE_FD with an option that nobody has", unix.EINVAL, open(dev.Address() + " colour=blue")},
			{"GET_DEVICE_FD of a name as long as a page", unix.EINVAL, open(strings.Repeat("0", lab.PageSize))},
			{"GET_DEVICE_FD with a bad address", unix.EFAULT, group(uapi.VFIOGroupGetDeviceFD, nowhere)},
			{"an ioctl that type1 has not", unix.ENOTTY, container(uapi.VFIODeviceGetInfo, nowhere)},
		})
		works("refusals of an attached group")

		t.Step("mappings")
		dev.Attach()
		mem := t.NewPages(2)
		at := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem.Mem()))))
		const size, rw = lab.PageSize, uapi.VFIODMARead | uapi.VFIODMAWrite
		dmaMap := func(flags uint32, addr, iova, size uint64) func() error {
			return func() error {
				req := uapi.VFIODMAMap{Argsz: uint32(unsafe.Sizeof(uapi.VFIODMAMap{})), Flags: flags, VAddr: addr, IOVA: iova, Size: size}
				_, err := uapi.IoctlPtr(dev.ContainerFD(), "container", uapi.VFIOIOMMUMapDMA, &req)
				return err
			}
		}
		dmaUnmap := func(flags uint32, iova, size uint64) func() error {
			return func() error {
				req := uapi.VFIODMAUnmap{Argsz: uint32(unsafe.Sizeof(uapi.VFIODMAUnmap{})), Flags: flags, IOVA: iova, Size: size}
				_, err := uapi.IoctlPtr(dev.ContainerFD(), "container", uapi.VFIOIOMMUUnmapDMA, &req)
				return err
			}
		}
		t.WantErr(dmaMap(rw, at, iova, 2*size)(), nil, "two pages")
		const elsewhere = iova + 0x10_0000
		valid := func() error { // another mapping comes and goes
			if err := dmaMap(rw, at, elsewhere, size)(); err != nil {
				return err
			}
			return dmaUnmap(0, elsewhere, size)()
		}
		wrap := before(6, 18, unix.EINVAL, unix.EOVERFLOW)
		refusals(t, refs, valid, []refusal{
			{"the same again", unix.EEXIST, dmaMap(rw, at, iova, 2*size)},
			{"one that begins within", unix.EEXIST, dmaMap(rw, at, iova+size, size)},
			{"one that ends within", unix.EEXIST, dmaMap(rw, at, iova-size, 2*size)},
			{"neither to read nor to write", unix.EINVAL, dmaMap(0, at, elsewhere, size)},
			{"a flag that nobody has", unix.EINVAL, dmaMap(rw|1<<9, at, elsewhere, size)},
			{"no size", unix.EINVAL, dmaMap(rw, at, elsewhere, 0)},
			{"half a page", unix.EINVAL, dmaMap(rw, at, elsewhere, size/2)},
			{"an IOVA within a page", unix.EINVAL, dmaMap(rw, at, elsewhere+1, size)},
			{"memory within a page", unix.EINVAL, dmaMap(rw, at+1, elsewhere, size)},
			{"an IOVA that wraps", wrap, dmaMap(rw, at, 1<<64-size, 2*size)},
			{"memory that wraps", wrap, dmaMap(rw, 1<<64-size, elsewhere, 2*size)},
			{"the interrupts' window", unix.EINVAL, dmaMap(rw, at, 0xfee0_0000, size)},
			{"no memory there", unix.EFAULT, dmaMap(rw, size, elsewhere, size)},
			{"MAP of no bytes", unix.EINVAL, func() error {
				_, err := uapi.IoctlPtr(dev.ContainerFD(), "container", uapi.VFIOIOMMUMapDMA, new(uapi.VFIODMAMap))
				return err
			}},
			{"MAP with a bad address", unix.EFAULT, container(uapi.VFIOIOMMUMapDMA, nowhere)},
			{"UNMAP of half of it", unix.EINVAL, dmaUnmap(0, iova, size)},
			{"UNMAP of its other half", unix.EINVAL, dmaUnmap(0, iova+size, size)},
			{"UNMAP of no size", unix.EINVAL, dmaUnmap(0, iova, 0)},
			{"UNMAP within a page", unix.EINVAL, dmaUnmap(0, iova+1, size)},
			{"UNMAP of half a page", unix.EINVAL, dmaUnmap(0, iova, size/2)},
			{"UNMAP that wraps", wrap, dmaUnmap(0, 1<<64-size, 2*size)},
			{"UNMAP with a flag that nobody has", unix.EINVAL, dmaUnmap(1<<9, iova, 2*size)},
			{"UNMAP of what is not mapped", nil, dmaUnmap(0, elsewhere, size)},
			{"UNMAP with a bad address", unix.EFAULT, container(uapi.VFIOIOMMUUnmapDMA, nowhere)},
			{"GET_INFO of no bytes", unix.EINVAL, func() error {
				_, err := uapi.IoctlPtr(dev.ContainerFD(), "container", iommuGetInfo, new([4]uint32))
				return err
			}},
		})
		t.WantErr(dmaUnmap(0, iova, 2*size)(), nil, "UNMAP of all of it")
		works("refused mappings")

		t.Step("a container that may map once")
		t.SetModuleParameter("vfio_iommu_type1", "dma_entry_limit", "1")
		dev.Attach()
		t.WantErr(dmaMap(rw, at, iova, size)(), nil, "the first mapping")
		refusals(t, refs, nil, []refusal{{"the second", unix.ENOSPC, dmaMap(rw, at, elsewhere, size)}})
		t.WantErr(dmaUnmap(0, iova, size)(), nil, "UNMAP of the first")
		t.WantErr(dmaMap(rw, at, elsewhere, size)(), nil, "another first one")
		dev.Close()
		t.WantIdle("every reference is back")

		t.Step("the device: what it is")
		dev.Open()
		dev.EnableDMA() // or its registers do not answer
		refusals(t, refs, dev.Alive, []refusal{
			{"UNSET_CONTAINER with the device open", unix.EBUSY, group(groupUnset, 0)},
			{"SET_CONTAINER with the device open", unix.EINVAL, setContainer(dev.ContainerFD())},
			{"GET_INFO of no bytes", unix.EINVAL, words(uapi.VFIODeviceGetInfo, 0, 0, 0, 0, 0, 0)},
			{"GET_INFO with a bad address", unix.EFAULT, device(uapi.VFIODeviceGetInfo, nowhere)},
			{"GET_REGION_INFO of no bytes", unix.EINVAL, words(uapi.VFIODeviceGetRegionInfo, 0, 0, 0, 0, 0, 0, 0, 0)},
			{"GET_REGION_INFO of a region that is not there", unix.EINVAL, words(uapi.VFIODeviceGetRegionInfo, 32, 0, 99, 0, 0, 0, 0, 0)},
			{"GET_REGION_INFO of VGA", unix.EINVAL, words(uapi.VFIODeviceGetRegionInfo, 32, 0, 8, 0, 0, 0, 0, 0)},
			{"GET_IRQ_INFO of no bytes", unix.EINVAL, words(getIRQInfo, 0, 0, 0, 0)},
			{"GET_IRQ_INFO of an interrupt that is not there", unix.EINVAL, words(getIRQInfo, 16, 0, 5, 0)},
			{"GET_IRQ_INFO of errors of a device that is not PCI Express", before(7, 3, unix.EINVAL, nil), words(getIRQInfo, 16, 0, 3, 0)},
			{"DEVICE_FEATURE that nobody has", unix.ENOTTY, words(deviceFeature, 24, featureGet|0xffff, 0, 0, 0, 0)},
			{"DEVICE_FEATURE of no bytes", unix.EINVAL, words(deviceFeature, 0, featureGet, 0, 0, 0, 0)},
			{"DEVICE_FEATURE with a flag that nobody has", unix.EINVAL, words(deviceFeature, 24, 1<<20, 0, 0, 0, 0)},
			{"DEVICE_FEATURE to get and to set", unix.EINVAL, words(deviceFeature, 24, featureGet|featureSet, 0, 0, 0, 0)},
			{"PCI_HOT_RESET of no groups", unix.EINVAL, words(hotReset, 12, 0, 0, 0)},
			{"PCI_HOT_RESET with a flag", unix.EINVAL, words(hotReset, 16, 1, 1, uint32(dev.GroupFD()))},
			{"PCI_HOT_RESET with a number that is not open", unix.EBADF, words(hotReset, 16, 0, 1, closed)},
			{"PCI_HOT_RESET with what is no group", unix.EINVAL, words(hotReset, 16, 0, 1, uint32(other))},
			{"PCI_HOT_RESET with more groups than devices", unix.EINVAL, words(hotReset, 12+4*64, 0, 64, uint32(dev.GroupFD()))},
			{"an ioctl of the group's", unix.ENOTTY, device(uapi.VFIOGroupGetStatus, nowhere)},
		})

		t.Step("the device: interrupts")
		const (
			none, eventfd         = 1 << 0, 1 << 2 // VFIO_IRQ_SET_DATA_...
			mask, unmask, trigger = 1 << 3, 1 << 4, 1 << 5
			intx, msi, msix, req  = 0, 1, 2, 4
			head, one             = 20, 24 // bytes, without a descriptor and with one
		)
		irqs := func(argsz, flags, index, start, count, fd uint32) func() error {
			return words(uapi.VFIODeviceSetIRQs, argsz, flags, index, start, count, fd)
		}
		refusals(t, refs, dev.Alive, []refusal{
			{"SET_IRQS of no bytes", unix.EINVAL, irqs(0, none|trigger, intx, 0, 0, 0)},
			{"SET_IRQS with a bad address", unix.EFAULT, device(uapi.VFIODeviceSetIRQs, nowhere)},
			{"an interrupt that is not there", unix.EINVAL, irqs(one, eventfd|trigger, 5, 0, 1, uint32(other))},
			{"MSI-X of a device that has none", unix.EINVAL, irqs(one, eventfd|trigger, msix, 0, 1, uint32(other))},
			{"a vector beyond the last", unix.EINVAL, irqs(one, eventfd|trigger, msi, 1, 1, uint32(other))},
			{"more vectors than there are", unix.EINVAL, irqs(head+8, eventfd|trigger, msi, 0, 2, uint32(other))},
			{"a count that wraps", unix.EINVAL, irqs(one, none|trigger, msi, 1, 1<<32-1, 0)},
			{"a flag that nobody has", unix.EINVAL, irqs(one, eventfd|trigger|1<<6, msi, 0, 1, uint32(other))},
			{"two kinds of data", unix.EINVAL, irqs(one, none|eventfd|trigger, msi, 0, 1, uint32(other))},
			{"less data than there must be", unix.EINVAL, irqs(head, eventfd|trigger, msi, 0, 1, uint32(other))},
			{"two actions", unix.ENOTTY, irqs(one, eventfd|mask|trigger, intx, 0, 1, uint32(other))},
			{"no action", unix.ENOTTY, irqs(one, eventfd, intx, 0, 1, uint32(other))},
			{"MSI cannot be masked", unix.ENOTTY, irqs(head, none|mask, msi, 0, 1, 0)},
			{"nor requests", unix.ENOTTY, irqs(head, none|mask, req, 0, 1, 0)},
			{"trigger MSI that is off", unix.EINVAL, irqs(head, none|trigger, msi, 0, 1, 0)},
			{"unmask INTx that is off", unix.EINVAL, irqs(head, none|unmask, intx, 0, 1, 0)},
			{"trigger a request that nobody awaits", unix.EINVAL, irqs(head, none|trigger, req, 0, 1, 0)},
			{"MSI into a number that is not open", unix.EBADF, irqs(one, eventfd|trigger, msi, 0, 1, closed)},
			{"MSI into what is no eventfd", unix.EINVAL, irqs(one, eventfd|trigger, msi, 0, 1, uint32(dev.GroupFD()))},
			{"INTx into what is no eventfd", unix.EINVAL, irqs(one, eventfd|trigger, intx, 0, 1, uint32(dev.GroupFD()))},
		})
		t.WantErr(irqs(one, eventfd|trigger, msi, 0, 1, uint32(other))(), nil, "MSI")
		refusals(t, refs, irqs(head, none|trigger, msi, 0, 1, 0), []refusal{
			{"INTx beside MSI", unix.EINVAL, irqs(one, eventfd|trigger, intx, 0, 1, uint32(other))},
		})
		t.WantErr(irqs(head, none|trigger, msi, 0, 0, 0)(), nil, "no MSI")

		t.Step("the device: regions")
		pread := func(region, at int64) func() error {
			return func() error { _, err := unix.Pread(dev.FD(), make([]byte, 4), region<<regionShift|at); return err }
		}
		pwrite := func(region, at int64) func() error {
			return func() error { _, err := unix.Pwrite(dev.FD(), make([]byte, 4), region<<regionShift|at); return err }
		}
		mapped := func(region, at int64, flags int) func() error {
			return func() error {
				mem, err := unix.Mmap(dev.FD(), region<<regionShift|at, lab.PageSize, unix.PROT_READ, flags)
				if err == nil {
					err = unix.Munmap(mem)
				}
				return err
			}
		}
		const bar0, bar1, rom, config, vga = 0, 1, 6, 7, 8
		refusals(t, refs, dev.Alive, []refusal{
			{"read a region that is not there", unix.EINVAL, pread(99, 0)},
			{"read a BAR that is not there", unix.EINVAL, pread(bar1, 0)},
			{"read VGA", unix.EINVAL, pread(vga, 0)},
			{"write the ROM", unix.EINVAL, pwrite(rom, 0)},
			{"map a region that is not there", unix.EINVAL, mapped(99, 0, unix.MAP_SHARED)},
			{"map a BAR that is not there", unix.EINVAL, mapped(bar1, 0, unix.MAP_SHARED)},
			{"map beyond a BAR", unix.EINVAL, mapped(bar0, 1<<20, unix.MAP_SHARED)},
			{"map config space", unix.EINVAL, mapped(config, 0, unix.MAP_SHARED)},
			{"map a BAR privately", unix.EINVAL, mapped(bar0, 0, unix.MAP_PRIVATE)},
		})
		dev.Close()
		works("refusals of the device")

		t.Step("a valid attach")
		dev.Open()
		dev.EnableDMA()
		dev.Map(page, iova)
		t.Check(dev.RoundTrip(page, iova, 0x5a), "the device moves data")
		dev.Unmap(iova)
		dev.Close()
	},
})

// The requests that only this scenario makes, by the header's own count from VFIO_BASE.
var (
	groupUnset    = uapi.VFIOBase("VFIO_GROUP_UNSET_CONTAINER", 5)
	getIRQInfo    = uapi.VFIOBase("VFIO_DEVICE_GET_IRQ_INFO", 9)
	iommuGetInfo  = uapi.VFIOBase("VFIO_IOMMU_GET_INFO", 12)
	hotReset      = uapi.VFIOBase("VFIO_DEVICE_PCI_HOT_RESET", 13)
	deviceFeature = uapi.VFIOBase("VFIO_DEVICE_FEATURE", 17)
)

const (
	featureGet = 1 << 16
	featureSet = 1 << 17

	regionShift = 40 // VFIO_PCI_OFFSET_SHIFT
)
