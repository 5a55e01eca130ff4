package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/vfio"
)

// NewPages maps n pages in a row, as one Page that is so much longer, and touches them. To both sides lies
// a page that nothing may touch, so that a hole between them stays one: nobody else's memory fits in.
func (t *T) NewPages(n int) *Page {
	whole, err := unix.Mmap(-1, 0, (n+2)*PageSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	t.mustHost("map pages", err)
	t.atEnd("unmap pages", func() error { return unix.Munmap(whole) })
	p := &Page{whole[PageSize : (n+1)*PageSize]}
	t.mustHost("map pages", unix.Mprotect(p.mem, unix.PROT_READ|unix.PROT_WRITE))
	p.Fill(0)
	return p
}

// Munmap takes memory of NewPages out of this process. The Page must not be touched until MapAnew.
func (t *T) Munmap(p *Page) {
	t.mustHost("unmap pages", unix.MunmapPtr(p.pointer(), uintptr(len(p.mem))))
}

// MapAnew puts new memory where Munmap took it out.
func (t *T) MapAnew(p *Page) {
	const anew = unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_FIXED_NOREPLACE
	_, err := unix.MmapPtr(-1, 0, p.pointer(), uintptr(len(p.mem)), unix.PROT_READ|unix.PROT_WRITE, anew)
	t.mustHost("map pages anew", err)
}

func (p *Page) pointer() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(p.mem)) }

// Address is where the page is in this process.
func (p *Page) Address() uintptr { return vfio.AddressOf(p.mem) }

// Size is its length in bytes, PageSize unless it is of NewPages.
func (p *Page) Size() uint64 { return uint64(len(p.mem)) }

// Nth is one page of several.
func (p *Page) Nth(i int) *Page { return &Page{p.mem[i*PageSize:][:PageSize]} }

// Locked is how many pages count as locked in this process, by VmLck: those that type1 has pinned for it
// are among them.
func (t *T) Locked() int { return t.lockedBy("self") }

// Locked is how many pages count as locked in the child.
func (p *Process) Locked() int { return p.t.lockedBy(strconv.Itoa(p.cmd.Process.Pid)) }

func (t *T) lockedBy(pid string) int {
	text, err := os.ReadFile(filepath.Join(t.env.Root, "/proc", pid, "status"))
	t.mustHost("locked memory", err)
	for line := range strings.Lines(string(text)) {
		if amount, ok := strings.CutPrefix(line, "VmLck:"); ok {
			kB, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(amount), "kB")))
			t.mustHost("locked memory", err)
			return kB * 1024 / PageSize
		}
	}
	t.Broken("locked memory: no VmLck of process " + pid)
	panic("unreachable")
}

// Pinned is how many pages the whole guest has pinned for DMA. It does not depend on whose they are, and so
// outlives their process.
func (t *T) Pinned() int {
	// Each CPU keeps what it has counted for a while.
	t.mustHost("pinned pages", os.WriteFile(filepath.Join(t.env.Root, "/proc/sys/vm/stat_refresh"), []byte("1"), 0))
	text, err := os.ReadFile(filepath.Join(t.env.Root, "/proc/vmstat"))
	t.mustHost("pinned pages", err)
	pinned, found := 0, 0
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		sign := map[string]int{"nr_foll_pin_acquired": 1, "nr_foll_pin_released": -1}[name]
		if sign == 0 {
			continue
		}
		n, err := strconv.Atoi(value)
		t.mustHost("pinned pages", err)
		pinned += sign * n
		found++
	}
	if found != 2 {
		t.SkipBefore("5.7", "this kernel does not count the pages that are pinned")
	}
	return pinned
}

// LimitLocked sets RLIMIT_MEMLOCK of this process to so many pages, until the end.
func (t *T) LimitLocked(pages int) {
	var old unix.Rlimit
	t.mustHost("limit locked memory", unix.Prlimit(0, unix.RLIMIT_MEMLOCK, nil, &old))
	limit := unix.Rlimit{Cur: uint64(pages) * PageSize, Max: old.Max}
	if limit.Cur > limit.Max {
		t.Broken(fmt.Sprintf("RLIMIT_MEMLOCK of %d pages: at most %d bytes", pages, old.Max))
	}
	t.mustHost("limit locked memory", unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &limit, nil))
	t.atEnd("give locked memory its limit back", func() error { return unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &old, nil) })
}

// Limited runs an operation without CAP_IPC_LOCK, so that RLIMIT_MEMLOCK counts. Capabilities are a thread's,
// and this one ends with the operation.
func (t *T) Limited(what string, op func() error) error {
	return t.Start(what, func() error {
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		if err := unix.Capget(&head, &caps[0]); err != nil {
			return fmt.Errorf("capget: %w", err)
		}
		caps[0].Effective &^= 1 << unix.CAP_IPC_LOCK
		if err := unix.Capset(&head, &caps[0]); err != nil {
			return fmt.Errorf("capset: %w", err)
		}
		return op()
	}).Wait(10 * time.Second)
}

// Physical is the page's address in the guest's memory, where a device would find it that no IOMMU keeps
// away from it.
func (t *T) Physical(p *Page) uint64 {
	var entry [8]byte
	pages, err := os.Open(filepath.Join(t.env.Root, "/proc/self/pagemap"))
	t.mustHost("physical address", err)
	_, err = pages.ReadAt(entry[:], int64(p.Address()/PageSize*8))
	t.mustHost("physical address", errors.Join(err, pages.Close()))
	const frame = 1<<55 - 1 // 0 without CAP_SYS_ADMIN
	return binary.LittleEndian.Uint64(entry[:]) & frame * PageSize
}
