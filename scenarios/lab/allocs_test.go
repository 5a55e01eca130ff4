package lab

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"

	"github.com/nestbed/nestbed/guestagent/tracefs"
)

// The events of the ledger under test, laid out as in every kernel so far.
const (
	allocEvent = 10 + iota
	freeEvent
	loadEvent
	startEvent
	finishEvent
)

func testLedger() *ledger {
	l := newLedger()
	l.kinds = map[int]kind{
		allocEvent:  {"alloc", []int{8, 16}},
		freeEvent:   {"free", []int{16}},
		loadEvent:   {"load", []int{12}},
		startEvent:  {"start", nil},
		finishEvent: {"finish", nil},
	}
	return l
}

func traced(when uint64, event, pid int, fields ...uint64) tracefs.Entry {
	le := binary.LittleEndian
	data := le.AppendUint32(le.AppendUint16(nil, uint16(event)), 0)[:4]
	data = le.AppendUint32(data, uint32(pid))
	for _, f := range fields {
		data = le.AppendUint64(data, f)
	}
	return tracefs.Entry{Time: when, Data: data}
}

func loadOf(when uint64, pid int, name string) tracefs.Entry {
	e := traced(when, loadEvent, pid)
	le := binary.LittleEndian
	e.Data = le.AppendUint32(e.Data, 0) // taints
	e.Data = le.AppendUint32(e.Data, uint32(len(name)+1)<<16|16)
	e.Data = append(append(e.Data, name...), 0)
	return e
}

func TestLedger(t *testing.T) {
	const site, other = 0xffffffffc0000100, 0xffffffffc0000200
	l := testLedger()
	l.take([]tracefs.Entry{
		loadOf(1, 7, "kvm"),
		traced(2, allocEvent, 7, other, 0x1000), // by the loader, not by the module's init
		traced(3, startEvent, 7),
		traced(4, allocEvent, 7, site, 0x2000),
		traced(5, allocEvent, 8, site, 0x3000), // by another thread
		traced(6, finishEvent, 7),
		traced(7, 99, 7, site, 0x9000), // nobody's
	})
	assert.Assert(t, l.moved)
	assert.DeepEqual(t, l.loads(), map[string]int{"kvm": 1})
	from := l.latest()
	assert.Equal(t, from, uint64(5))

	// A pair across two batches, the same address twice, a free of what is older than the ledger.
	l.take([]tracefs.Entry{
		traced(10, allocEvent, 7, site, 0x4000),
		traced(11, freeEvent, 7, 0, 0x4000),
		traced(12, allocEvent, 7, other, 0x4000),
		traced(13, freeEvent, 7, 0, 0x5000),
		traced(14, allocEvent, 7, site, 0), // refused
		traced(15, allocEvent, 7, site, 0x6000),
	})
	assert.DeepEqual(t, l.since(from), map[uint64]int{site: 1, other: 1})
	l.take([]tracefs.Entry{traced(20, freeEvent, 7, 0, 0x6000), traced(21, freeEvent, 7, 0, 0x2000)})
	assert.DeepEqual(t, l.since(from), map[uint64]int{other: 1})
	assert.DeepEqual(t, l.loads(), map[string]int{})
	l.take(nil)

	// The free was on a CPU whose buffer was read before the one that allocated.
	l.take([]tracefs.Entry{traced(31, freeEvent, 7, 0, 0x7000), traced(32, freeEvent, 7, 0, 0x8000)})
	l.take([]tracefs.Entry{traced(30, allocEvent, 8, site, 0x7000), traced(33, allocEvent, 8, site, 0x8000)})
	assert.DeepEqual(t, l.since(from), map[uint64]int{other: 1, site: 1})
}

// A module that was loaded again has what it had; what the scenario allocated beside is named.
func TestExcess(t *testing.T) {
	root := guestRoot(t)
	fs.Apply(t, root,
		fs.WithDir("proc", fs.WithFile("modules", "kvm 65536 1 kvm_amd, Live 0xffffffffc0010000\n"+
			"vfio 65536 2 vfio_pci_core,vfio_iommu_type1, Live 0xffffffffc0020000\ne1000e 348160 0 - Live 0xffffffffc0030000 (E)\n"),
			fs.WithFile("kallsyms", "ffffffff81000000 T _text\nffffffffc0010000 t kvm_vm_ioctl\t[kvm]\n"+
				"ffffffffc0010400 d data\t[kvm]\nffffffffc0020000 t vfio_df_open\t[vfio]\nffffffffc0030000 t net\t[e1000e]\n")))
	a := &allocs{root: root.Path()}
	assert.NilError(t, a.start())
	l := testLedger()
	a.ledger, a.from, a.loads = l, 100, map[string]int{"kvm": 1}
	found := func(loaded bool) string {
		t.Helper()
		x := excess{named: map[string]int{}}
		assert.NilError(t, a.traced(&x, func(string) bool { return loaded }))
		got, err := x.list(root.Path())
		assert.NilError(t, err)
		assert.Equal(t, x.none(), got == "")
		return got
	}
	l.live[1] = block{site: 0xffffffffc0010100, when: 50}                 // before the baseline
	l.live[2] = block{site: 0xffffffffc0020100, when: 150, load: "kvm"}   // while it was loaded again
	l.live[3] = block{site: 0xffffffffc0020100, when: 150, load: "vfio"}  // loaded by the scenario
	l.live[4] = block{site: 0xffffffffc0030100, when: 150}                // not under test
	l.live[5] = block{site: 0xffffffffc0000100, when: 150}                // nobody's
	l.live[6] = block{site: 0xffffffffc0030100, when: 150, load: "other"} // not under test either
	assert.Equal(t, found(true), "")
	assert.Equal(t, found(false), "the loading of vfio: 1 more")
	l.live[7] = block{site: 0xffffffffc0020100, when: 160}
	l.live[8] = block{site: 0xffffffffc0020200, when: 170}
	l.live[9] = block{site: 0xffffffffc0020200, when: 170, load: "kvm"}
	assert.Equal(t, found(true), "the loading of kvm: 1 more, vfio_df_open [vfio]: 2 more")

	// The module that leaked it is gone, another was at a new place meanwhile and leaked there.
	modules := func(text string) {
		t.Helper()
		assert.NilError(t, os.WriteFile(root.Join("proc/modules"), []byte(text), 0o644))
		assert.NilError(t, a.follow())
	}
	modules("kvm 65536 0 - Live 0xffffffffc0050000\n")
	modules("kvm 65536 0 - Live 0xffffffffc0060000\n")
	assert.NilError(t, os.WriteFile(root.Join("proc/kallsyms"), nil, 0o644))
	delete(l.live, 8)
	delete(l.live, 9)
	l.live[10] = block{site: 0xffffffffc0050100, when: 180}
	l.live[11] = block{site: 0xffffffffc0070100, when: 190} // beyond the end of it
	assert.Equal(t, found(true), "0xffffffffc0020100 [vfio]: 1 more, 0xffffffffc0050100 [kvm]: 1 more")
}

func TestVmalloc(t *testing.T) {
	root := guestRoot(t)
	text, err := os.ReadFile("testdata/vmallocinfo-6.12.txt")
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(root.Join("proc/vmallocinfo"), text, 0o644))
	got, err := readVmalloc(root.Path())
	assert.NilError(t, err)
	assert.DeepEqual(t, got, map[string]int{"kvm_dev_ioctl [kvm]": 1})

	// A kernel without tracepoints: everything else is still watched, and why not the rest is known.
	a := watchAllocs(root.Path(), version{6, 12})
	assert.Assert(t, a.ledger == nil && a.why != "")
	assert.NilError(t, a.start())
	assert.NilError(t, a.close())
	assert.NilError(t, os.WriteFile(filepath.Join(root.Path(), "proc/vmstat"), []byte("nr_mlock x\n"), 0o644))
	_, err = readVMStat(root.Path())
	assert.ErrorContains(t, err, `/proc/vmstat: "nr_mlock x\n"`)
}
