package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/results/record"
)

// hostEvents counts what QEMU has reported. The stream's reader adds, the scenario waits.
type hostEvents struct {
	mu      sync.Mutex
	deleted map[int]int   // DEVICE_DELETED, by slot
	more    chan struct{} // closed by the next event, when somebody waits for it
}

func (e *hostEvents) add(ev record.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.deleted == nil {
		e.deleted = map[int]int{}
	}
	if ev.Name == "DEVICE_DELETED" && ev.Slot > 0 {
		e.deleted[ev.Slot]++
	}
	if e.more != nil {
		close(e.more)
		e.more = nil
	}
}

// deletions is how often QEMU has deleted a device of the slot, and what the next event closes.
func (e *hostEvents) deletions(slot int) (int, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.more == nil {
		e.more = make(chan struct{})
	}
	return e.deleted[slot], e.more
}

// Unplug has the host ask the guest for the device, as a user of QEMU would with device_del. It returns at
// once: what the kernel does about it takes its time, and Deleted and WaitDeleted say whether it has.
func (d *VFIODevice) Unplug() {
	ctx, cancel := d.t.patience(20 * time.Second)
	defer cancel()
	_, err := d.t.stream.call(ctx, record.Call{Verb: record.VerbUnplug, Device: d.kind.Name, Slot: d.slot})
	d.t.mustHost("unplug "+d.kind.Name, err)
}

// Deleted reports whether QEMU has deleted the device, which it does when the guest's kernel has let it go
// and switched the slot off.
func (d *VFIODevice) Deleted() bool {
	n, _ := d.t.stream.events.deletions(d.slot)
	return n > d.deleted
}

// WaitDeleted waits until QEMU has deleted the device. It is no claim any more then that the device is where
// it was at the beginning. A kernel that keeps it is a false one, and the end of the scenario.
func (d *VFIODevice) WaitDeleted(limit time.Duration) {
	ctx, cancel := d.t.patience(limit)
	defer cancel()
	for {
		n, more := d.t.stream.events.deletions(d.slot)
		if n > d.deleted {
			d.forget()
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			d.t.Log(tasksIn(d.t.env.Root, "pci"))
			d.t.must(fmt.Errorf("unplug %s: QEMU has not deleted it within %v", d.pci.Address, limit))
		}
	}
}

// WaitRemoved waits until the kernel says that the device has no driver any more and is going.
func (d *VFIODevice) WaitRemoved(limit time.Duration) {
	ctx, cancel := d.t.patience(limit)
	defer cancel()
	if err := d.t.events.waitRemoved(ctx, d.pci.Address); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			d.t.Log(tasksIn(d.t.env.Root, "pci"))
			d.t.must(err)
		}
		d.t.mustHost("uevents", err)
	}
}

// forget takes the device out of what the closing invariant and WantIdle look for. From 6.9 on the first
// bound device holds a reference of vfio.ko: that of the file system that its inode is in (simple_pin_fs).
func (d *VFIODevice) forget() {
	delete(d.t.baseline.drivers, d.pci.Address)
	delete(d.t.idle.drivers, d.pci.Address)
	delete(d.t.around.groups, d.pci.Address)
	for name, n := range d.refs {
		d.t.idle.refs[name] -= n
	}
}

// WantGone claims that the kernel keeps nothing of the device: not its entry on the bus, nor the group, nor
// the group's node.
func (d *VFIODevice) WantGone() {
	var left []string
	for _, path := range []string{
		"/sys/bus/pci/devices/" + d.pci.Address,
		fmt.Sprintf("/sys/kernel/iommu_groups/%d", d.number),
		fmt.Sprintf("/dev/vfio/%d", d.number),
	} {
		if _, err := os.Lstat(filepath.Join(d.t.env.Root, path)); err == nil {
			left = append(left, path)
		}
	}
	d.t.stream.check(record.Check{
		OK: len(left) == 0, Claim: "nothing is left of " + d.pci.Address, Got: strings.Join(left, ", "), Site: callerOutside(),
	})
}

// Replug plugs another device of the same kind into the slot of one that was deleted, and binds it to
// vfio-pci.
func (d *VFIODevice) Replug() {
	t := d.t
	d.deleted, _ = t.stream.events.deletions(d.slot)
	d.pci = t.plugInto(d.slot, d.kind)
	t.proveAlive(d.pci, d.kind)
	old, err := d.pci.Driver()
	t.mustHost("driver of the new device", err)
	t.baseline.drivers[d.pci.Address] = old
	if old != "" {
		t.must(d.pci.Unbind())
	}
	t.must(d.pci.Bind("vfio-pci"))
	d.number, err = d.pci.Group()
	t.mustHost("IOMMU group of the device", err)
	t.around.groups[d.pci.Address] = strconv.Itoa(d.number)
	t.idle.drivers[d.pci.Address] = "vfio-pci"
	for name, n := range d.refs {
		t.idle.refs[name] += n
	}
}

// RescanBus looks for devices on the bus that the device is or was on, as root would through sysfs.
func (d *VFIODevice) RescanBus() {
	number := d.pci.Address[:strings.LastIndexByte(d.pci.Address, ':')]
	d.t.must(d.t.bus.Rescan(number))
}

// OnRequest gives an eventfd that the kernel signals when it wants the open device back
// (VFIO_PCI_REQ_IRQ_INDEX), and again every 10 seconds.
func (d *VFIODevice) OnRequest() *EventFD {
	e := d.t.NewEventFD()
	d.t.must(d.device.SetTriggers(uapi.VFIOPCIRequest, 0, e.FD()))
	return e
}

// Slot is the hot-plug slot of a device.
type Slot struct {
	t   *T
	pci pci.Slot
}

// Slot finds the device's slot, which the port's hot-plug driver made.
func (d *VFIODevice) Slot() *Slot {
	s, err := d.pci.Slot()
	if errors.Is(err, pci.ErrNoSlot) {
		option := "CONFIG_HOTPLUG_PCI_ACPI"
		if d.t.scenario.NeedsOf(d.t.env.Variant).NativeHotplug {
			option = "CONFIG_HOTPLUG_PCI_PCIE"
		}
		d.t.SkipConfig(option, "no hot-plug driver gave "+d.pci.Address+" a slot")
	}
	d.t.mustHost("slot of the device", err)
	return &Slot{d.t, s}
}

// SetPower switches the slot.
func (s *Slot) SetPower(on bool) error { return s.pci.SetPower(on) }

// On reports whether the slot has power.
func (s *Slot) On() bool {
	on, err := s.pci.Power()
	s.t.mustHost("power of the slot", err)
	return on
}

// name is what VFIO_GROUP_GET_DEVICE_FD wants to hear.
func (d *VFIODevice) name() string {
	if d.token == "" {
		return d.pci.Address
	}
	return d.pci.Address + " vf_token=" + d.token
}

// tasksIn shows the tasks whose way through the kernel has the word in it: what holds up a removal is not
// one of our own threads.
func tasksIn(root, word string) string {
	var b strings.Builder
	stacks, err := filepath.Glob(filepath.Join(root, "/proc/[0-9]*/stack"))
	if err != nil { // only a bad pattern
		panic(err)
	}
	for _, path := range stacks {
		stack, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(stack), word) {
			continue // many have ended by now
		}
		name, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "comm"))
		fmt.Fprintf(&b, "task %s %s%s", filepath.Base(filepath.Dir(path)), name, stack)
	}
	if b.Len() == 0 {
		return "no task is in a function of the kernel with " + word + " in its name"
	}
	return b.String()
}
