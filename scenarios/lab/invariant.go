package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/guestagent/kmod"
	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/results/record"
)

// The closing invariant: what a scenario took, the kernel has back. It is compared after every scenario and
// after its cleanups, whatever the scenario itself claims, and catches the bug that nobody thought of.
//
// Nothing here waits but for allocations (see allocs). close(2) runs the last __fput before it returns and an
// exiting process before its parent can reap it, so every other count is final.

// state is what the closing invariant compares.
type state struct {
	refs       map[string]int    // of the modules under test that are loaded, irqbypass among them
	users      map[string]int    // of these references, those of modules that need it
	drivers    map[string]string // of PCI devices by address, "" for none
	fds        map[string]int    // of this process, by what they link to
	memory     map[string]string // VmLck and VmPin of this process
	interrupts []string          // lines of /proc/interrupts that VFIO owns
	vms        int               // that live, by KVM's events
	strays     int               // VMs that were destroyed and did not live
	vmDirs     int               // that live, by debugfs
}

// observe takes the state.
func (t *T) observe() (state, error) {
	s := state{}
	if err := t.events.pump(); err != nil {
		return s, err
	}
	s.vms, s.strays = len(t.events.live), t.events.strays
	for _, part := range []func(root string, mods *kmod.Set, bus pci.Bus) error{
		s.readRefs, s.readDrivers, s.readMemory, s.readInterrupts, s.readVMDirs, s.readFDs,
	} {
		if err := part(t.env.Root, t.mods, t.bus); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *state) readRefs(_ string, mods *kmod.Set, _ pci.Bus) error {
	s.refs, s.users = map[string]int{}, map[string]int{}
	for _, name := range underTest {
		if !mods.Loaded(name) {
			continue
		}
		n, err := mods.Refs(name)
		if err != nil {
			return err
		}
		s.refs[name] = n
		if s.users[name], err = mods.Users(name); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) readDrivers(_ string, _ *kmod.Set, bus pci.Bus) error {
	s.drivers = map[string]string{}
	devs, err := bus.Devices()
	if err != nil {
		return err
	}
	for _, d := range devs {
		if s.drivers[d.Address], err = d.Driver(); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) readMemory(root string, _ *kmod.Set, _ pci.Bus) error {
	s.memory = map[string]string{}
	text, err := os.ReadFile(filepath.Join(root, "/proc/self/status"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && (key == "VmLck" || key == "VmPin") {
			s.memory[key] = strings.TrimSpace(value)
		}
	}
	return nil
}

func (s *state) readInterrupts(root string, _ *kmod.Set, _ pci.Bus) error {
	text, err := os.ReadFile(filepath.Join(root, "/proc/interrupts"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if i := strings.Index(line, "vfio"); i >= 0 {
			s.interrupts = append(s.interrupts, strings.TrimSpace(line[i:]))
		}
	}
	slices.Sort(s.interrupts)
	return nil
}

func (s *state) readVMDirs(root string, _ *kmod.Set, _ pci.Bus) error {
	entries, err := os.ReadDir(filepath.Join(root, "/sys/kernel/debug/kvm"))
	if errors.Is(err, fs.ErrNotExist) { // not mounted, or no KVM
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			s.vmDirs++
		}
	}
	return nil
}

// readFDs comes last: what it counts includes what the others need to be read.
func (s *state) readFDs(root string, _ *kmod.Set, _ pci.Bus) error {
	s.fds = map[string]int{}
	dir := filepath.Join(root, "/proc/self/fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// The folder's own descriptor is closed by now, and is no link any more.
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			s.fds[target]++
		}
	}
	return nil
}

// compare makes the claims of the closing invariant, always in the same order.
func (before state) compare(after state) []record.Check {
	var checks []record.Check
	claim := func(text, want, got string) {
		checks = append(checks, record.Check{OK: want == got, Claim: text, Want: want, Got: got, Invariant: true})
	}
	for _, name := range slices.Sorted(maps.Keys(before.refs)) {
		got := "not loaded"
		if n, ok := after.refs[name]; ok {
			got = fmt.Sprint(n)
		}
		claim("references of "+name+" are back", fmt.Sprint(before.refs[name]), got)
	}
	// A module that the scenario was the first to load has, with nothing open, the references of its users; it
	// may be unloaded again as well.
	for _, name := range slices.Sorted(maps.Keys(after.refs)) {
		if _, ok := before.refs[name]; !ok {
			claim("references of "+name+", which the scenario loaded, are back", fmt.Sprint(after.users[name]), fmt.Sprint(after.refs[name]))
		}
	}
	claim("every VM that KVM announced is destroyed", fmt.Sprint(before.vms), fmt.Sprint(after.vms))
	claim("and none of them twice", fmt.Sprint(before.strays), fmt.Sprint(after.strays))
	claim("no VM is left in KVM's debugfs", fmt.Sprint(before.vmDirs), fmt.Sprint(after.vmDirs))
	claim("locked memory is back", before.memory["VmLck"], after.memory["VmLck"])
	claim("pinned memory is back", before.memory["VmPin"], after.memory["VmPin"])
	claim("VFIO's interrupts are back", strings.Join(before.interrupts, ", "), strings.Join(after.interrupts, ", "))
	claim("drivers are back", changed(before.drivers, after.drivers), changed(after.drivers, before.drivers))
	claim("open files are back", changed(before.fds, after.fds), changed(after.fds, before.fds))
	return checks
}

// changed writes the entries of a that b has not, or not so: nothing when they are alike.
func changed[V comparable](a, b map[string]V) string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if v, ok := b[key]; !ok || v != a[key] {
			list = append(list, fmt.Sprintf("%s: %v", key, a[key]))
		}
	}
	return strings.Join(list, ", ")
}

// settle checks the closing invariant.
func (t *T) settle() {
	now, err := t.observe()
	if err != nil {
		t.stream.broken("closing invariant: " + err.Error())
		return
	}
	for _, c := range t.baseline.compare(now) {
		t.stream.check(c)
	}
	t.explain(t.baseline.refsOff(now))
	around, err := t.survey()
	if err != nil {
		t.stream.broken("closing invariant: " + err.Error())
		return
	}
	for _, c := range t.around.compare(around) {
		t.stream.check(c)
	}
	t.settleAllocs()
}

// rest takes the state that WantIdle compares with: the device that has just been bound is part of it.
func (t *T) rest() {
	var err error
	t.idle, err = t.observe()
	t.mustHost("observe", err)
	t.stream.log("at rest: " + changed(t.idle.refs, nil))
}

// WantIdle claims, in the middle of a scenario, that modules' references, VMs and interrupts are as they
// were when nothing was open yet.
func (t *T) WantIdle(claim string) {
	now, err := t.observe()
	t.mustHost("observe", err)
	// Memory and files of the agent are the scenario's own until its end.
	now.memory, now.fds = t.idle.memory, t.idle.fds
	var off []string
	for _, c := range t.idle.compare(now) {
		if !c.OK {
			off = append(off, fmt.Sprintf("%s: want %s, got %s", c.Claim, c.Want, c.Got))
		}
	}
	t.stream.check(record.Check{OK: len(off) == 0, Claim: claim, Got: strings.Join(off, "; "), Site: site(1)})
	t.explain(t.idle.refsOff(now))
}
