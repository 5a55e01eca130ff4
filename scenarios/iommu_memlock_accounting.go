package scenarios

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// type1 charges each mapping to the process that asked for it: VmLck grows by its pages (vfio_lock_acct), twice
// if a page is mapped twice, and UNMAP_DMA or the container's last close takes the same off again. What is
// charged is also what is pinned, by the kernel's own count of pins.
//
// An exiting process loses its mm before its files, so nobody is left to be uncharged when the container
// closes; the pages must be unpinned all the same.
var _ = lab.Register(lab.Scenario{
	Name:    "iommu-memlock-accounting",
	Summary: "locked memory is exactly what is mapped, and comes back by unmap, close and exit",
	Area:    lab.IOMMU,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const iova, again, large = 0x10_0000, 0x20_0000, 0x30_0000
		dev := t.BindVFIO(lab.EDU)
		page, many := t.NewPage(), t.NewPages(100)
		pinned := t.Pinned()
		want := func(pages int, when string) {
			t.WantInt(t.Locked(), pages, "pages locked: "+when)
			t.WantInt(t.Pinned()-pinned, pages, "pages pinned: "+when)
		}
		dev.Open()
		dev.EnableDMA()
		want(0, "before anything is mapped")

		t.Step("map")
		dev.Map(page, iova)
		dev.ProveDMA(page, iova, 0x5a)
		want(1, "one page")
		dev.Map(page, again)
		want(2, "the same page at another address")
		dev.MapReadOnly(many, large)
		want(102, "and a hundred in one mapping, to be read")

		t.Step("unmap")
		dev.Unmap(again)
		want(101, "the second mapping of the page is gone")
		n, err := dev.TryUnmap(large, many.Size())
		t.WantErr(err, nil, "unmap the hundred")
		t.WantInt(n, int(many.Size()), "all of them")
		want(1, "the hundred are gone")
		t.Check(dev.RoundTrip(page, iova, 0xa5), "the device still reaches the first mapping")

		t.Step("close with something mapped")
		dev.Map(many, large)
		want(101, "mapped once more")
		dev.Close()
		want(0, "the container is closed")

		t.Step("exit with something mapped")
		child := t.Child(mapAndWait, strconv.Itoa(dev.Group()), "100")
		child.Line()
		t.WantInt(child.Locked(), 100, "pages locked in the child")
		t.WantInt(t.Pinned()-pinned, 100, "pages pinned for the child")
		child.Kill()
		want(0, "the child is gone")
		t.WantIdle("every reference is back")

		t.Step("map again")
		dev.Open()
		dev.EnableDMA()
		dev.Map(page, iova)
		t.Check(dev.RoundTrip(page, iova, 0x96), "the device reaches the page")
		want(1, "one page")
		dev.Close()
		want(0, "closed")
	},
})

// mapAndWait attaches a group, maps so many pages, and waits to be killed.
var mapAndWait = lab.RegisterChild("map-and-wait", func(c *lab.C) error {
	number, err := strconv.Atoi(c.Args[0])
	if err != nil {
		return err
	}
	pages, err := strconv.Atoi(c.Args[1])
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(-1, 0, pages*lab.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	container, err := vfio.OpenContainer()
	if err != nil {
		return err
	}
	group, err := vfio.OpenGroup(number)
	if err != nil {
		return err
	}
	if err := group.SetContainer(container); err != nil {
		return err
	}
	if err := container.SetIOMMU(uapi.VFIOType1v2IOMMU); err != nil {
		return err
	}
	if err := container.Map(mem, 0x10_0000); err != nil {
		return err
	}
	if err := c.Say("mapped"); err != nil {
		return err
	}
	return c.Sleep()
})
