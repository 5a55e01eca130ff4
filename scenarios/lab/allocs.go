package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nestbed/nestbed/results/record"
)

// allocs watches what the modules under test have allocated: by the ledger, by /proc/vmallocinfo (struct
// kvm is there), by KVM's count of page table pages, and by /proc/allocinfo where the kernel has it, which
// knows of pages and per-CPU memory too.
//
// Unlike reference counts, these are not final when close(2) returns: memory goes by call_rcu and by work
// queues (put_super, KVM's zapping of page tables). So a difference is looked at again until it is gone or
// patience is over.
type allocs struct {
	root string

	mu      sync.Mutex    // of all that the ledger has taken in
	err     error         // the first of keepUp
	end     chan struct{} // ends keepUp
	ended   chan struct{} // it has
	ledger  *ledger       // nil when there is none
	why     string        // the ledger says nothing; "" when it does
	code    places
	from    uint64         // the baseline's place in the ledger
	loads   map[string]int // at the baseline
	profile map[string]int // the same
	mapped  map[string]int // the same
	tables  int            // the same
}

// watchAllocs begins, before the modules under test are loaded.
func watchAllocs(root string, kernel version) *allocs {
	a := &allocs{root: root}
	var err error
	if a.ledger, err = openLedger(root, kernel); err != nil {
		a.ledger, a.why = nil, err.Error()
	}
	return a
}

// start takes the baseline.
func (a *allocs) start() error {
	if err := a.update(); err != nil {
		return err
	}
	if a.ledger != nil { // keepUp has not begun
		a.from, a.loads = a.ledger.latest(), a.ledger.loads()
	}
	if len(a.code) == 0 {
		if err := a.follow(); err != nil {
			return err
		}
	}
	return a.counts(&a.profile, &a.mapped, &a.tables)
}

// keepUp takes in what happens, so that the ledger's buffer does not run over while a scenario is busy,
// until close.
func (a *allocs) keepUp() {
	const often = 200 * time.Millisecond
	a.end, a.ended = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(a.ended)
		tick := time.NewTicker(often)
		defer tick.Stop()
		for {
			select {
			case <-a.end:
				return
			case <-tick.C:
			}
			if err := a.update(); err != nil {
				a.mu.Lock()
				a.err = cmp.Or(a.err, err)
				a.mu.Unlock()
				return
			}
		}
	}()
}

// update takes in what has happened by now.
func (a *allocs) update() error {
	if a.ledger == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	if err := a.ledger.update(); err != nil {
		return err
	}
	if a.ledger.lost {
		a.why = "the trace buffer ran over"
	}
	if a.ledger.moved {
		a.ledger.moved = false
		return a.follow()
	}
	return nil
}

// follow notes where the modules are now. One that is loaded and gone again within one round of keepUp stays
// unknown, and so what it left.
func (a *allocs) follow() error {
	now, err := readCode(a.root)
	if err == nil {
		a.code = append(places{now}, a.code...)
	}
	return err
}

// rest ends keepUp.
func (a *allocs) rest() {
	if a.end != nil {
		close(a.end)
		<-a.ended
		a.end = nil
	}
}

// close ends the watch.
func (a *allocs) close() error {
	a.rest()
	if a.ledger == nil {
		return nil
	}
	return a.ledger.trace.Close()
}

func (a *allocs) counts(profile, mapped *map[string]int, tables *int) (err error) {
	if *profile, err = readProfile(a.root); err != nil {
		return err
	}
	if *mapped, err = readVmalloc(a.root); err != nil {
		return err
	}
	vm, err := readVMStat(a.root)
	if err != nil {
		return err
	}
	// From 6.11 on the IOMMU's tables are counted with KVM's. A device that stays has some.
	*tables = vm["nr_sec_page_table_pages"] - vm["nr_iommu_pages"]
	return nil
}

// excess is what is live and was not at the baseline.
type excess struct {
	named map[string]int // by name
	sites map[uint64]int // by call site
	code  places         // whose these sites are
}

func (x excess) add(before, after map[string]int, form string) {
	for key, n := range after {
		if n > before[key] {
			x.named[fmt.Sprintf(form, key)] = n - before[key]
		}
	}
}

// more looks for an excess. loaded tells whether a module is.
func (a *allocs) more(loaded func(string) bool) (excess, error) {
	x := excess{named: map[string]int{}}
	var profile, mapped map[string]int
	var tables int
	if err := a.counts(&profile, &mapped, &tables); err != nil {
		return x, err
	}
	x.add(a.profile, profile, "%s (allocinfo)")
	x.add(a.mapped, mapped, "%s (vmalloc)")
	if tables > a.tables {
		x.named["pages of KVM's page tables"] = tables - a.tables
	}
	if err := a.update(); err != nil {
		return x, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.why != "" {
		return x, nil
	}
	return x, a.traced(&x, loaded)
}

// traced adds what the ledger has.
func (a *allocs) traced(x *excess, loaded func(string) bool) error {
	loads := a.ledger.loads()
	for name := range loads {
		// One that the scenario has loaded and kept has a right to what it has.
		if _, known := a.loads[name]; !slices.Contains(underTest, name) || !known && loaded(name) {
			delete(loads, name)
		}
	}
	x.add(a.loads, loads, "the loading of %s")
	if x.sites = a.ledger.since(a.from); len(x.sites) == 0 {
		return nil
	}
	x.code = a.code
	maps.DeleteFunc(x.sites, func(site uint64, _ int) bool { return !slices.Contains(underTest, x.code.owner(site)) })
	return nil
}

// none reports whether there is no excess.
func (x excess) none() bool { return len(x.named) == 0 && len(x.sites) == 0 }

// list names all of it.
func (x excess) list(root string) (string, error) {
	if len(x.sites) > 0 {
		names, err := x.code.symbols(root, slices.Collect(maps.Keys(x.sites)))
		if err != nil {
			return "", err
		}
		for site, n := range x.sites {
			x.named[names[site]] += n
		}
	}
	var list []string
	for _, key := range slices.Sorted(maps.Keys(x.named)) {
		list = append(list, fmt.Sprintf("%s: %d more", key, x.named[key]))
	}
	return strings.Join(list, ", "), nil
}

// settleAllocs claims that nothing is left of what the modules under test allocated.
func (t *T) settleAllocs() {
	t.allocs.rest()
	const look = 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(float64(5*time.Second)*t.env.Scale))
	defer cancel()
	for {
		more, err := t.allocs.more(t.mods.Loaded)
		if err == nil && !more.none() && ctx.Err() == nil {
			// Nothing announces a free.
			select {
			case <-time.After(look):
			case <-ctx.Done():
			}
			continue
		}
		var got string
		if err == nil {
			got, err = more.list(t.env.Root)
		}
		if err != nil {
			t.stream.broken("closing invariant: " + err.Error())
			return
		}
		claim := "allocations of the modules under test are back"
		if t.allocs.why != "" { // keepUp has ended
			claim = "vmalloc areas and page tables of the modules under test are back (other allocations were not watched: " + t.allocs.why + ")"
		}
		t.stream.check(record.Check{OK: got == "", Claim: claim, Got: got, Invariant: true})
		return
	}
}

// readProfile counts live allocations by call site (CONFIG_MEM_ALLOC_PROFILING, 6.10): "64 1
// drivers/vfio/vfio_main.c:449 [vfio] func:vfio_df_alloc". No file, no counts.
func readProfile(root string) (map[string]int, error) {
	text, err := os.ReadFile(filepath.Join(root, "/proc/allocinfo"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := map[string]int{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 5 || !ofModuleUnderTest(f[3]) {
			continue
		}
		calls, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, fmt.Errorf("/proc/allocinfo: %q: %w", line, err)
		}
		n[strings.TrimPrefix(f[4], "func:")+" "+f[3]] += calls
	}
	return n, nil
}

// readVmalloc counts the areas that modules under test have: "0x...-0x...   12288 kvm_dev_ioctl+0xa2/0xa50
// [kvm] pages=2 vmalloc N0=2".
func readVmalloc(root string) (map[string]int, error) {
	text, err := os.ReadFile(filepath.Join(root, "/proc/vmallocinfo"))
	if err != nil {
		return nil, err
	}
	n := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 3 && ofModuleUnderTest(f[3]) {
			function, _, _ := strings.Cut(f[2], "+")
			n[function+" "+f[3]]++
		}
	}
	return n, nil
}

// ofModuleUnderTest takes a module's name in brackets, as the kernel writes it after a symbol.
func ofModuleUnderTest(bracketed string) bool {
	name, ok := strings.CutPrefix(bracketed, "[")
	return ok && slices.Contains(underTest, strings.TrimSuffix(name, "]"))
}

// readVMStat reads /proc/vmstat after the CPUs have handed in what they hold back: a page more or less is
// otherwise seen a second late.
func readVMStat(root string) (map[string]int, error) {
	// What reading it says is of no interest, its effect is; a kernel without it only counts later.
	_, _ = os.ReadFile(filepath.Join(root, "/proc/sys/vm/stat_refresh"))
	text, err := os.ReadFile(filepath.Join(root, "/proc/vmstat"))
	if err != nil {
		return nil, err
	}
	n := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			if n[name], err = strconv.Atoi(value); err != nil {
				return nil, fmt.Errorf("/proc/vmstat: %q: %w", line, err)
			}
		}
	}
	return n, nil
}
