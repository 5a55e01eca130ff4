package lab

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nestbed/nestbed/guestagent/kprobe"
	"github.com/nestbed/nestbed/guestagent/tracefs"
)

// ledger keeps the kernel memory that modules have: every kmalloc and kmem_cache_alloc whose call site is a
// module's code, until the memory is freed by whomever. It is fed by the kmem tracepoints, so that it needs
// no kernel option or word, is exact by address, and costs some tens of microseconds an event under TCG.
//
// The alternative, slub_debug=U and alloc_traces, takes a second and more to read (1.5 MB of symbols) before
// and after, and on 5.10 cuts each cache's list after a page, where modules come last.
//
// What a module has others allocate for it (kasprintf, iommu_domain_alloc, and kvmalloc and kvzalloc, whose
// call site is in mm/util.c: struct vfio_device of vfio_alloc_device) is theirs here. What
// kvfree_rcu takes goes past the kfree tracepoint (in batches, and from 6.18 on in sheaves of the slab's own), so
// that its call counts as the free.
type ledger struct {
	trace *tracefs.Instance
	kinds map[int]kind

	live    map[uint64]block  // by address
	freed   map[uint64]uint64 // by address: when, in the last batch; see take
	loading map[int]string    // the module that a thread runs the init function of, by pid
	next    map[int]string    // the module that a thread is about to
	moved   bool              // a module has been loaded: see allocs.follow
	lost    bool
}

// block is one live allocation.
type block struct {
	site uint64 // the address after the call
	when uint64
	load string // the module that was being loaded, "" when none was
}

// kind is an event that the ledger takes, and where its fields are.
type kind struct {
	what string // a key of takers
	at   []int
}

// takers are what the ledger does with its events.
var takers = map[string]func(*ledger, tracefs.Entry, []int){
	"load":   (*ledger).takeLoad,
	"start":  (*ledger).takeStart,
	"finish": (*ledger).takeFinish,
	"alloc":  (*ledger).takeAlloc,
	"free":   (*ledger).takeFree,
}

// ledgerTrace is the name of the ledger's trace instance.
const ledgerTrace = "nestbed-memory"

// moduleSpace is where x86 puts modules without KASLR at the earliest: above the kernel's own text.
const moduleSpace = 0xffffffffa0000000

// openLedger starts it. It is opened before the modules under test are loaded: what they have for as long as
// they are loaded is told from what a scenario left by counting both times.
func openLedger(root string, kernel version) (*ledger, error) {
	trace, err := tracefs.New(root, ledgerTrace, 4096)
	if err != nil {
		return nil, err
	}
	events, err := ledgerEvents(root, kernel)
	if err != nil {
		return nil, errors.Join(err, trace.Remove())
	}
	l := newLedger()
	l.trace = trace
	for _, e := range events {
		format, err := trace.Format(e.name)
		if e.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		k := kind{what: e.what}
		for _, field := range e.fields {
			at, missing := format.Offset(field)
			err = cmp.Or(err, missing)
			k.at = append(k.at, at)
		}
		if err = cmp.Or(err, trace.Enable(e.name, e.filter)); err != nil {
			return nil, errors.Join(err, trace.Remove())
		}
		l.kinds[format.ID] = k
	}
	if err := trace.Open(); err != nil {
		return nil, errors.Join(err, trace.Remove())
	}
	return l, nil
}

// ledgerEvent is a tracepoint that a ledger reads.
type ledgerEvent struct {
	name, filter string
	optional     bool
	fields       []string
	what         string // a key of takers
}

func ledgerEvents(root string, kernel version) ([]ledgerEvent, error) {
	byModule := fmt.Sprintf("call_site >= %#x", uint64(moduleSpace))
	events := []ledgerEvent{
		{"module/module_load", "", false, []string{"name"}, "load"},
		{"initcall/initcall_start", "", false, nil, "start"},
		{"initcall/initcall_finish", "", false, nil, "finish"},
		{"kmem/kmalloc", byModule, false, []string{"call_site", "ptr"}, "alloc"},
		{"kmem/kmem_cache_alloc", byModule, false, []string{"call_site", "ptr"}, "alloc"},
		// Up to 6.0 these have events of their own.
		{"kmem/kmalloc_node", byModule, true, []string{"call_site", "ptr"}, "alloc"},
		{"kmem/kmem_cache_alloc_node", byModule, true, []string{"call_site", "ptr"}, "alloc"},
		// The core frees on a module's behalf: kvfree, devres.
		{"kmem/kfree", "ptr != 0", false, []string{"ptr"}, "free"},
		// Not by call site either: a module's last call may be a jump, and then the core is what is returned to.
		{"kmem/kmem_cache_free", "", false, []string{"ptr"}, "free"},
	}
	// kvm_recalculate_apic_map is the first under test that uses it, seen in 7.2; the pointer is its second
	// argument since 6.2. Older kernels are spared the probe, which costs a patch of the kernel's text.
	if !kernel.before(version{6, 13}) {
		event, err := kprobe.Event(root, "kvfree_call_rcu", "ptr=%si:x64")
		if err != nil {
			return nil, err
		}
		events = append(events, ledgerEvent{event, "", false, []string{"ptr"}, "free"})
	}
	return events, nil
}

func newLedger() *ledger {
	return &ledger{
		kinds: map[int]kind{}, live: map[uint64]block{}, freed: map[uint64]uint64{},
		loading: map[int]string{}, next: map[int]string{},
	}
}

// update takes in what happened.
func (l *ledger) update() error {
	entries, lost, err := l.trace.Drain()
	l.take(entries)
	l.lost = l.lost || lost
	return err
}

// take enters one batch. The CPUs' buffers are read one after the other: a free may be in the batch before
// that of its allocation, which is why the frees of one batch are kept for the next.
func (l *ledger) take(entries []tracefs.Entry) {
	before := l.freed
	l.freed = map[uint64]uint64{}
	for _, e := range entries {
		if k, ok := l.kinds[e.Event()]; ok {
			takers[k.what](l, e, k.at)
		}
	}
	for address, when := range before {
		if b, ok := l.live[address]; ok && b.when < when {
			delete(l.live, address)
		}
	}
}

func (l *ledger) takeLoad(e tracefs.Entry, at []int) {
	l.next[e.PID()] = e.String(at[0])
	l.moved = true
}

// takeStart and takeFinish are what do_one_initcall says. Init code is gone afterwards and its addresses are
// another module's, so that only the module's name can tell what it allocated.
func (l *ledger) takeStart(e tracefs.Entry, _ []int) {
	l.loading[e.PID()] = l.next[e.PID()]
	delete(l.next, e.PID())
}

func (l *ledger) takeFinish(e tracefs.Entry, _ []int) { delete(l.loading, e.PID()) }

func (l *ledger) takeAlloc(e tracefs.Entry, at []int) {
	if address := e.Uint64(at[1]); address != 0 {
		l.live[address] = block{site: e.Uint64(at[0]), when: e.Time, load: l.loading[e.PID()]}
	}
}

func (l *ledger) takeFree(e tracefs.Entry, at []int) {
	address := e.Uint64(at[0])
	delete(l.live, address)
	l.freed[address] = e.Time
}

// loads is how many live allocations the loading of each module made.
func (l *ledger) loads() map[string]int {
	n := map[string]int{}
	for _, b := range l.live {
		if b.load != "" {
			n[b.load]++
		}
	}
	return n
}

// since is how many live allocations each site made after a time, outside of the loading of modules.
func (l *ledger) since(when uint64) map[uint64]int {
	n := map[uint64]int{}
	for _, b := range l.live {
		if b.load == "" && b.when > when {
			n[b.site]++
		}
	}
	return n
}

// latest is the time of the latest live allocation.
func (l *ledger) latest() uint64 {
	var when uint64
	for _, b := range l.live {
		when = max(when, b.when)
	}
	return when
}

// codeMap says which module an address of code belongs to.
type codeMap []codeRange

type codeRange struct {
	from, to uint64 // to is no less than the end: the size is that of all the module's memory
	module   string
}

// readCode reads where the code of the modules that are loaded begins.
func readCode(root string) (codeMap, error) {
	// One file: those of /sys/module/*/sections are a hundred, and a search through them 0.1 s under TCG.
	text, err := os.ReadFile(filepath.Join(root, "/proc/modules"))
	if err != nil {
		return nil, err
	}
	var m codeMap
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line) // kvm_amd 204800 0 - Live 0xffffffffc0a3b000
		if len(f) < 6 {
			return nil, fmt.Errorf("/proc/modules: %q has no address", line)
		}
		address, err := strconv.ParseUint(f[5], 0, 64)
		if err != nil {
			return nil, fmt.Errorf("/proc/modules: %q: %w", line, err)
		}
		size, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("/proc/modules: %q: %w", line, err)
		}
		m = append(m, codeRange{address, address + size, f[0]})
	}
	return m, nil
}

// owner is the module whose code begins last before the address and may reach to it, "" for none. Two modules'
// code never overlaps, and nothing but modules allocates from there.
func (m codeMap) owner(address uint64) string {
	var best codeRange
	for _, c := range m {
		if c.from <= address && address < c.to && c.from > best.from {
			best = c
		}
	}
	return best.module
}

// places are where the modules have been, the latest first.
type places []codeMap

// owner is the last module that was at an address.
func (p places) owner(address uint64) string {
	for _, m := range p {
		if name := m.owner(address); name != "" {
			return name
		}
	}
	return ""
}

// symbols names addresses of the modules' code ("vfio_df_open [vfio]"), by the kernel's list of all symbols.
// That is long: it is read only when there is something to say.
func (p places) symbols(root string, addresses []uint64) (map[uint64]string, error) {
	text, err := os.ReadFile(filepath.Join(root, "/proc/kallsyms"))
	if err != nil {
		return nil, err
	}
	type symbol struct {
		address uint64
		name    string
	}
	var list []symbol
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line) // ffffffffc0123450 t kvm_vm_ioctl	[kvm]
		if len(f) != 4 || !strings.ContainsAny(f[1], "tTwW") {
			continue
		}
		if address, err := strconv.ParseUint(f[0], 16, 64); err == nil {
			list = append(list, symbol{address, f[2] + " " + f[3]})
		}
	}
	slices.SortFunc(list, func(a, b symbol) int { return cmp.Compare(a.address, b.address) })
	names := map[uint64]string{}
	for _, address := range addresses {
		// What is returned to is after the call: one less is inside of the function that called.
		i, _ := slices.BinarySearchFunc(list, address, func(s symbol, a uint64) int { return cmp.Compare(s.address, a) })
		owner := "[" + p.owner(address) + "]"
		if i == 0 || !strings.HasSuffix(list[i-1].name, " "+owner) { // its module is gone
			names[address] = fmt.Sprintf("%#x %s", address, owner)
			continue
		}
		names[address] = list[i-1].name
	}
	return names, nil
}
