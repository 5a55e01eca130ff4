package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
	"github.com/nestbed/nestbed/results/record"
)

// VFIODevice is a PCI device bound to vfio-pci, with the descriptors that reach it: container, group,
// device. Each of the Open and Set verbs is one step of the way in; Attach and Open take those that are
// still missing.
type VFIODevice struct {
	t         *T
	kind      Device
	slot      int            // the root port, 0 for a function that the host did not plug in
	deleted   int            // devices of the slot that QEMU had deleted when this one came
	refs      map[string]int // references that the device holds while it is bound
	pci       pci.Device
	token     string // vf_token of a PF with VFs and of its VFs
	number    int    // of the IOMMU group
	container *vfio.Container
	group     *vfio.Group
	attached  bool // the group is in the container, which has its IOMMU
	device    *vfio.Device
	edu       pci.EDU
	nvme      pci.NVMe
}

// vIOMMU is the machine's virtual IOMMU.
type vIOMMU string

// The IOMMUs that a guest may find.
const (
	IntelIOMMU  vIOMMU = "intel"
	AMDIOMMU    vIOMMU = "amd"
	VirtioIOMMU vIOMMU = "virtio"
)

// IOMMU is the machine's, "" without one.
func (t *T) IOMMU() vIOMMU {
	dir := filepath.Join(t.env.Root, "/sys/class/iommu")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		// Intel's and AMD's are named by their drivers, virtio's by its transport (0000:00:01.0): there
		// only the way to it tells.
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		switch {
		case err != nil:
		case strings.HasPrefix(e.Name(), "dmar"):
			return IntelIOMMU
		case strings.HasPrefix(e.Name(), "ivhd"):
			return AMDIOMMU
		case strings.Contains(target, "/virtio"):
			return VirtioIOMMU
		}
	}
	return ""
}

// BindVFIO has the host plug in a device, waits for it, sees that it is alive, and binds it to vfio-pci.
// At the end it has its old driver back, or none. A scenario binds before it opens anything: what is held
// right after is what WantIdle and Held measure from.
func (t *T) BindVFIO(kind Device) *VFIODevice {
	if t.IOMMU() == "" {
		// The plan has seen the machine's IOMMU and the kernel's driver for it.
		t.stream.check(record.Check{Claim: "the kernel drives the machine's IOMMU", Want: "an entry in /sys/class/iommu", Got: "none", Site: callerOutside()})
		runtime.Goexit()
	}
	d := &VFIODevice{t: t, kind: kind, pci: t.plug(kind)}
	d.slot = t.slots
	t.proveAlive(d.pci, kind)

	old, err := d.pci.Driver()
	t.mustHost("driver of the new device", err)
	t.baseline.drivers[d.pci.Address] = old
	t.allowInterrupts()
	if old != "" {
		t.must(d.pci.Unbind())
	}
	t.atEnd("give the device back", func() error {
		if now, err := d.pci.Driver(); err != nil || now == old || !d.pci.Present() {
			return err
		} else if now != "" {
			if err := d.pci.Unbind(); err != nil {
				return err
			}
		}
		if old == "" {
			return nil
		}
		return d.pci.Rebind(old)
	})
	t.must(d.pci.Bind("vfio-pci"))
	// Only now: with virtio-iommu the group comes with the driver.
	d.number, err = d.pci.Group()
	t.mustHost("IOMMU group of the device", err)
	t.around.groups[d.pci.Address] = strconv.Itoa(d.number)
	before := t.idle.refs
	t.rest()
	d.refs = map[string]int{}
	for name, n := range t.idle.refs {
		d.refs[name] = n - before[name]
	}
	return d
}

// allowInterrupts lets type1 and IOMMUFD have a device whose interrupts nothing remaps, which they refuse
// otherwise: virtio-iommu never remaps them, amd-iommu of QEMU 7.2 not for every kernel (7.3: "No southbridge
// IOAPIC found, Disabling interrupt remapping"). With intel-iommu a refusal stays the kernel's own mistake.
func (t *T) allowInterrupts() {
	if t.IOMMU() == IntelIOMMU || t.RemapsInterrupts() {
		return
	}
	for _, name := range []string{"vfio_iommu_type1", "iommufd"} {
		if t.mods.Present(name) { // a kernel may have either way without the other
			t.Log("no interrupt remapping: " + name + "." + unsafeInterrupts + "=Y")
			t.mustHost("allow unsafe interrupts", t.mods.SetParameter(name, unsafeInterrupts, "Y"))
		}
	}
}

// plug asks the host for a device behind the next root port and returns once the guest can use it.
func (t *T) plug(kind Device) pci.Device {
	t.slots++
	return t.plugInto(t.slots, kind)
}

func (t *T) plugInto(slot int, kind Device) pci.Device {
	ctx, cancel := t.patience(20 * time.Second)
	defer cancel()
	_, err := t.stream.call(ctx, record.Call{Verb: record.VerbPlug, Device: kind.Name, Slot: slot})
	t.mustHost("plug "+kind.Name, err)
	t.skipDeafMachine(kind)
	address, err := t.events.waitPCI(ctx, kind.ID)
	t.mustHost("plug "+kind.Name, err)
	dev := t.bus.Device(address)
	t.mustHost("plug "+kind.Name, dev.Settle())
	return dev
}

// skipDeafMachine ends the scenario on a machine that cannot tell its kernel of a new device: with the
// amd-iommu of QEMU 10, under TCG, no interrupt of the IO-APIC arrives, ACPI's among them. The boot has
// shown it already, because ACPI's interrupt is there and was never handled; a short wait makes it sure.
func (t *T) skipDeafMachine(kind Device) {
	if t.IOMMU() != AMDIOMMU || t.scenario.NeedsOf(t.env.Variant).NativeHotplug {
		return
	}
	ctx, cancel := t.patience(3 * time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		table, err := os.ReadFile(filepath.Join(t.env.Root, "/proc/interrupts"))
		t.mustHost("interrupts", err)
		if n, ok := acpiInterrupts(table); !ok || n > 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.SkipMachine(record.LimitDeafIOAPIC, "no interrupt of the IO-APIC reaches this kernel, so that ACPI cannot tell it of a new "+kind.Name,
				"QEMU 7.2 for machine amd (QEMU 10 does this under TCG), or -m intel")
		}
	}
}

// acpiInterrupts adds up how often ACPI's interrupt was handled, if it is there.
func acpiInterrupts(table []byte) (n int, ok bool) {
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[len(fields)-1] != "acpi" {
			continue
		}
		for _, f := range fields[1:] {
			count, err := strconv.Atoi(f)
			if err != nil {
				break
			}
			n += count
		}
		return n, true
	}
	return 0, false
}

// Address is the device's PCI address, Group its IOMMU group's number.
func (d *VFIODevice) Address() string { return d.pci.Address }

// Group is the number of the device's IOMMU group.
func (d *VFIODevice) Group() int { return d.number }

// OpenContainer opens a container for the device.
func (d *VFIODevice) OpenContainer() {
	var err error
	d.container, err = vfio.OpenContainer()
	d.t.must(err)
	d.t.atEnd("close the container", d.container.Close)
}

// OpenGroup opens the device's group.
func (d *VFIODevice) OpenGroup() {
	var err error
	d.group, err = vfio.OpenGroup(d.number)
	// A kernel can only be without groups if it has the other way to a device. One that has neither has lost a
	// node that it should have made, which is no reason to skip.
	if errors.Is(err, unix.ENOENT) && d.hasCdev() {
		d.t.SkipConfig("CONFIG_VFIO_GROUP", fmt.Sprintf("no /dev/vfio/%d: this kernel has no group interface", d.number))
	}
	d.t.must(err)
	d.t.atEnd("close the group", d.group.Close)
	viable, err := d.group.Viable()
	d.t.must(err)
	if !viable {
		d.t.Broken(fmt.Sprintf("IOMMU group %d holds a device that a host driver owns", d.number))
	}
}

// hasCdev reports whether the kernel gives VFIO devices nodes of their own (CONFIG_VFIO_DEVICE_CDEV, 6.6).
func (d *VFIODevice) hasCdev() bool {
	_, err := os.Stat(filepath.Join(d.t.env.Root, "/dev/vfio/devices"))
	return err == nil
}

// SetContainer puts the group into the container.
func (d *VFIODevice) SetContainer() { d.t.must(d.group.SetContainer(d.container)) }

// SetIOMMU gives the container a type1v2 IOMMU.
func (d *VFIODevice) SetIOMMU() {
	d.t.must(d.container.SetIOMMU(uapi.VFIOType1v2IOMMU))
	d.attached = true
}

// Attach goes as far as SetIOMMU: the group is usable, its device not open.
func (d *VFIODevice) Attach() {
	if d.container == nil && !d.attached { // it may be in another device's container
		d.OpenContainer()
	}
	if d.group == nil {
		d.OpenGroup()
	}
	if !d.attached {
		d.SetContainer()
		d.SetIOMMU()
	}
}

// Open attaches what is not attached and opens the device.
func (d *VFIODevice) Open() {
	d.Attach()
	var err error
	d.device, err = d.group.Device(d.name())
	d.t.must(err)
	d.t.atEnd("close the device", d.device.Close)
	bar, err := d.device.Region(uapi.VFIOPCIBAR0)
	d.t.must(err)
	d.edu = pci.EDU{Registers: bar}
}

// Info asks the open device what it is.
func (d *VFIODevice) Info() vfio.Info {
	info, err := d.device.Info()
	d.t.must(err)
	return info
}

// EnableMSI makes the device's MSI signal an eventfd, which on kernels up to 6.12 at least holds irqbypass.
func (d *VFIODevice) EnableMSI() {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	d.t.mustHost("eventfd", err)
	d.t.atEnd("close the eventfd", func() error { return unix.Close(fd) })
	d.t.must(d.device.EnableMSI(fd))
}

// Close closes the device, its group and its container, in this order. The next Open begins anew.
func (d *VFIODevice) Close() {
	var errs []error
	if d.device != nil {
		errs = append(errs, d.device.Close())
	}
	if d.group != nil {
		errs = append(errs, d.group.Close())
	}
	if d.container != nil {
		errs = append(errs, d.container.Close())
	}
	d.device, d.group, d.container, d.attached = nil, nil, nil, false
	d.t.must(errors.Join(errs...))
}

// EnableDMA lets the device master the bus.
func (d *VFIODevice) EnableDMA() { d.t.must(d.device.EnableDMA()) }

// Map lets the device reach the page at iova.
func (d *VFIODevice) Map(page *Page, iova uint32) { d.t.must(d.container.Map(page.mem, uint64(iova))) }

// Unmap takes back Map.
func (d *VFIODevice) Unmap(iova uint32) {
	n, err := d.container.Unmap(uint64(iova), PageSize)
	d.t.must(err)
	if n != PageSize {
		d.t.WantInt(int(n), PageSize, "UNMAP_DMA says how much it unmapped")
	}
}

// ToMemory has the device write its buffer to iova, a whole transfer. The device cannot tell whether an
// IOMMU let it through.
func (d *VFIODevice) ToMemory(iova uint32) {
	ctx, cancel := d.t.patience(5 * time.Second)
	defer cancel()
	d.t.mustDevice("DMA of edu", d.edu.ToMemory(ctx, iova, pci.EDUMaxDMA))
}

// RoundTrip has the device read the page at iova and, once it has been cleared, write it back. It reports
// whether the bytes made the way.
func (d *VFIODevice) RoundTrip(page *Page, iova uint32, pattern byte) bool {
	return d.t.roundTrip(d.edu, page, iova, pattern)
}

func (t *T) roundTrip(edu pci.EDU, page *Page, iova uint32, pattern byte) bool {
	ctx, cancel := t.patience(5 * time.Second)
	defer cancel()
	page.Fill(pattern)
	t.mustDevice("DMA of edu", edu.FromMemory(ctx, iova, pci.EDUMaxDMA))
	page.Fill(^pattern)
	t.mustDevice("DMA of edu", edu.ToMemory(ctx, iova, pci.EDUMaxDMA))
	return page.Count(pattern) == pci.EDUMaxDMA
}

// ProveDMA is RoundTrip before anything rests on it. The mapping has been accepted; a device that moves
// nothing through it is taken for dead.
func (d *VFIODevice) ProveDMA(page *Page, iova uint32, pattern byte) {
	if !d.RoundTrip(page, iova, pattern) {
		d.t.Broken(fmt.Sprintf("edu at %s moves no data through a page that is mapped", d.pci.Address))
	}
}
