package scenarios

import (
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// What VFIO_IOMMU_MAP_DMA and UNMAP_DMA must refuse (vfio_dma_do_map, vfio_dma_do_unmap, vfio_pin_pages_remote),
// with the errno that says why, and without harm: after each refusal a page is mapped and unmapped again, what
// is locked is what it was, and after each group of refusals the device reaches its page.
//
// An address range that wraps is EINVAL up to 6.12 and EOVERFLOW in 7.3, for UNMAP as for MAP. The x86 interrupt
// window is reserved with each of QEMU's IOMMUs. RLIMIT_MEMLOCK binds only who lacks CAP_IPC_LOCK.
var _ = lab.Register(lab.Scenario{
	Name:    "iommu-map-negative",
	Summary: "bad mappings are refused, each with its errno, and change nothing",
	Area:    lab.IOMMU,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_VFIO_PCI"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		const (
			kept, free  = 0x10_0000, 0x20_0000 // a mapping that stays, an address for others
			two         = 0x30_0000            // two pages in one mapping
			interrupts  = 0xfee0_0000          // x86's interrupt window, 1 MB
			pageSize    = lab.PageSize
			last        = 1<<64 - pageSize // the last page of all addresses
			write       = uapi.VFIODMARead | uapi.VFIODMAWrite
			entries     = 4
			limit       = 8
			keptLocked  = 1
			everyLocked = 3
		)
		t.SetEntryLimit(entries)
		dev := t.BindVFIO(lab.EDU)
		page, pages, gone := t.NewPage(), t.NewPages(2), t.NewPages(1)
		t.Munmap(gone)
		dev.Open()
		dev.EnableDMA()
		dev.Map(page, kept)
		dev.ProveDMA(page, kept, 0x5a)

		good := vfio.Memory{Flags: write, VAddr: pages.Address(), IOVA: free, Size: pageSize}
		locked := keptLocked
		harmless := func(claim string) {
			if t.Locked() != locked {
				t.WantInt(t.Locked(), locked, "pages locked after: "+claim)
			}
			t.WantErr(dev.TryMap(good), nil, "a good mapping after: "+claim)
			dev.Unmap(free)
		}
		refused := func(claim string, err, want error) {
			t.WantErr(err, want, claim)
			harmless(claim)
		}
		refusedWrap := func(claim string, err error) {
			want := unix.EINVAL
			if errors.Is(err, unix.EOVERFLOW) {
				want = unix.EOVERFLOW
			}
			refused(claim, err, want)
		}
		// mapped asks for the good mapping with something changed.
		mapped := func(change func(*vfio.Memory)) error {
			m := good
			change(&m)
			return dev.TryMap(m)
		}
		unmapped := func(iova, size uint64) error {
			_, err := dev.TryUnmap(iova, size)
			return err
		}
		alive := func(pattern byte) { t.Check(dev.RoundTrip(page, kept, pattern), "the device reaches its page") }

		t.Step("MAP: what is no mapping")
		for _, c := range []struct {
			claim  string
			change func(*vfio.Memory)
			want   error
		}{
			{"no size", func(m *vfio.Memory) { m.Size = 0 }, unix.EINVAL},
			{"half a page", func(m *vfio.Memory) { m.Size = pageSize / 2 }, unix.EINVAL},
			{"an address within a page of the device", func(m *vfio.Memory) { m.IOVA += 0x800 }, unix.EINVAL},
			{"an address within a page of the process", func(m *vfio.Memory) { m.VAddr += 0x800 }, unix.EINVAL},
			{"neither read nor write", func(m *vfio.Memory) { m.Flags = 0 }, unix.EINVAL},
			{"an unknown flag", func(m *vfio.Memory) { m.Flags |= 1 << 31 }, unix.EINVAL},
			{"a struct that is too short", func(m *vfio.Memory) { m.Argsz = 24 }, unix.EINVAL},
			{"memory that is not there", func(m *vfio.Memory) { m.VAddr = gone.Address() }, unix.EFAULT},
			{"the page mapped already", func(m *vfio.Memory) { m.IOVA = kept }, unix.EEXIST},
			{"two pages, the second mapped already",
				func(m *vfio.Memory) { m.IOVA, m.Size = kept-pageSize, 2*pageSize }, unix.EEXIST},
		} {
			refused(c.claim, mapped(c.change), c.want)
		}
		alive(0x6b)

		t.Step("MAP: addresses that no device or process has")
		refusedWrap("the device's addresses wrap", mapped(func(m *vfio.Memory) { m.IOVA, m.Size = last, 2*pageSize }))
		refusedWrap("the process's addresses wrap", mapped(func(m *vfio.Memory) { m.VAddr, m.Size = last, 2*pageSize }))
		for _, r := range dev.Reserved() {
			claim := fmt.Sprintf("a reserved page: %#x, %s", r.Start, r.Type)
			refused(claim, mapped(func(m *vfio.Memory) { m.IOVA = r.Start }), unix.EINVAL)
		}
		refused("the interrupt window", mapped(func(m *vfio.Memory) { m.IOVA = interrupts }), unix.EINVAL)
		refused("the last page of the interrupt window",
			mapped(func(m *vfio.Memory) { m.IOVA = interrupts + 0xf_f000 }), unix.EINVAL)
		refused("two pages that run into it",
			mapped(func(m *vfio.Memory) { m.IOVA, m.Size = interrupts-pageSize, 2*pageSize }), unix.EINVAL)
		t.WantErr(mapped(func(m *vfio.Memory) { m.IOVA = interrupts - pageSize }), nil, "the page before it")
		t.WantErr(unmapped(interrupts-pageSize, pageSize), nil, "unmap it")
		alive(0x7c)

		t.Step("UNMAP: what is no mapping")
		n, err := dev.TryUnmap(free, pageSize)
		t.WantErr(err, nil, "nothing mapped there")
		t.WantInt(n, 0, "nothing unmapped")
		refused("no size", unmapped(kept, 0), unix.EINVAL)
		refused("half a page", unmapped(kept, pageSize/2), unix.EINVAL)
		refused("an address within a page", unmapped(kept+0x800, pageSize), unix.EINVAL)
		refusedWrap("the addresses wrap", unmapped(last, 2*pageSize))
		t.WantErr(mapped(func(m *vfio.Memory) { m.IOVA, m.Size = two, 2*pageSize }), nil, "map two pages at once")
		locked = everyLocked
		good.VAddr = page.Address()
		refused("the first page of a mapping of two", unmapped(two, pageSize), unix.EINVAL)
		refused("the second", unmapped(two+pageSize, pageSize), unix.EINVAL)
		refused("the second and what follows", unmapped(two+pageSize, 2*pageSize), unix.EINVAL)
		refused("the first and what is before", unmapped(two-pageSize, 2*pageSize), unix.EINVAL)
		t.Check(dev.RoundTrip(pages.Nth(1), two+pageSize, 0x8d), "the device reaches the second page")
		n, err = dev.TryUnmap(two-pageSize, 4*pageSize)
		t.WantErr(err, nil, "both, and what is around them")
		t.WantInt(n, 2*pageSize, "unmapped")
		locked = keptLocked
		t.WantInt(t.Locked(), locked, "pages locked")
		alive(0x9e)

		t.Step(fmt.Sprintf("MAP: more than %d mappings", entries))
		for i := uint64(1); i < entries; i++ {
			t.WantErr(mapped(func(m *vfio.Memory) { m.IOVA = two + i*pageSize }), nil, "within the limit")
		}
		locked = entries
		t.WantErr(mapped(func(*vfio.Memory) {}), unix.ENOSPC, "one too many")
		dev.Unmap(two + pageSize)
		locked--
		harmless("one too many, and one less")
		n, err = dev.TryUnmap(two, entries*pageSize)
		t.WantErr(err, nil, "unmap the others")
		t.WantInt(n, (entries-2)*pageSize, "unmapped")
		locked = keptLocked
		alive(0xaf)

		t.Step("MAP: more than RLIMIT_MEMLOCK allows")
		t.LimitLocked(limit)
		large := t.NewPages(limit)
		many := vfio.Memory{Flags: write, VAddr: large.Address(), IOVA: two, Size: limit * pageSize}
		refused("one page too many", t.Limited("MAP", func() error { return dev.TryMap(many) }), unix.ENOMEM)
		many.Size -= pageSize
		t.WantErr(t.Limited("MAP", func() error { return dev.TryMap(many) }), nil, "as many as the limit allows")
		t.WantInt(t.Locked(), limit, "pages locked")
		t.WantErr(t.Limited("MAP", func() error { return dev.TryMap(good) }), unix.ENOMEM, "one more")
		t.WantErr(dev.TryMap(good), nil, "one more with CAP_IPC_LOCK")
		t.WantInt(t.Locked(), limit+1, "pages locked")
		n, err = dev.TryUnmap(free, math.MaxUint32-free+1)
		t.WantErr(err, nil, "unmap all but the first page")
		t.WantInt(n, limit*pageSize, "unmapped")
		alive(0xb1)

		t.WantInt(t.Faults(), 0, "the IOMMU refused nothing")
		t.MapAnew(gone)
		dev.Close()
		t.WantIdle("every reference is back")
	},
})
