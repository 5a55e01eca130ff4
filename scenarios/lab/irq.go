package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/kvm"
	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
)

// Interrupt is one of a PCI device's kinds of interrupt.
type Interrupt int

// The kinds, of which VFIO has one enabled at a time.
const (
	INTx Interrupt = uapi.VFIOPCIINTx
	MSI  Interrupt = uapi.VFIOPCIMSI
	MSIX Interrupt = uapi.VFIOPCIMSIX
)

// settle is how long a check that nothing arrives looks. An emulated device raises an interrupt before the
// access that makes it do so ends; what follows in the kernel is one work item.
const settle = 20 * time.Millisecond

// EventFD is an eventfd: a count of signals, which a reader takes.
type EventFD struct {
	uapi.Desc
	t *T
}

// NewEventFD makes an eventfd. It is closed at the end at the latest.
func (t *T) NewEventFD() *EventFD {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	t.mustHost("eventfd", err)
	e := &EventFD{uapi.Own(fd, "eventfd"), t}
	t.atEnd("close the eventfd", e.Desc.Close)
	return e
}

// Close closes the eventfd.
func (e *EventFD) Close() { e.t.must(e.Desc.Close()) }

// Count takes what has been signalled by now, 0 for nothing.
func (e *EventFD) Count() int {
	var b [8]byte
	for {
		_, err := unix.Read(e.FD(), b[:])
		switch {
		case err == nil:
			return int(binary.NativeEndian.Uint64(b[:]))
		case errors.Is(err, unix.EAGAIN):
			return 0
		case !errors.Is(err, unix.EINTR):
			e.t.mustHost("read an eventfd", err)
		}
	}
}

// Wait takes what is signalled, and waits for it if need be; 0 means that nothing came.
func (e *EventFD) Wait(limit time.Duration) int {
	e.Ready(limit)
	return e.Count()
}

// Ready waits until something is signalled, and leaves it where it is.
func (e *EventFD) Ready(limit time.Duration) bool {
	ctx, cancel := e.t.patience(limit)
	defer cancel()
	ready, err := poll(ctx, e.FD())
	e.t.mustHost("wait for an eventfd", err)
	return ready
}

// Left takes what is signalled within a moment.
func (e *EventFD) Left() int { return e.Wait(settle) }

// Quiet reports whether nothing is signalled within a moment. It proves something only between two signals
// that arrive, of a device that says that it did raise its interrupt.
func (e *EventFD) Quiet() bool { return e.Left() == 0 }

// Signal adds one.
func (e *EventFD) Signal() {
	_, err := unix.Write(e.FD(), binary.NativeEndian.AppendUint64(nil, 1))
	e.t.mustHost("write an eventfd", err)
}

// poll waits until fd can be read. That the time is up is no error.
func poll(ctx context.Context, fd int) (bool, error) {
	for {
		left := time.Second
		if deadline, ok := ctx.Deadline(); ok {
			left = max(0, time.Until(deadline))
		}
		list := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(list, int((left+time.Millisecond-1)/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || n > 0 || ctx.Err() != nil || left == 0:
			return n > 0, err
		}
	}
}

// IRQInfo asks the open device about one kind of interrupt.
func (d *VFIODevice) IRQInfo(kind Interrupt) vfio.IRQInfo {
	info, err := d.device.IRQInfo(int(kind))
	d.t.must(err)
	return info
}

// SetVectors has the vectors from first on signal these eventfds, nil being none. The first such call
// enables the kind of interrupt, with so many vectors.
func (d *VFIODevice) SetVectors(kind Interrupt, first int, to ...*EventFD) {
	fds := make([]int, len(to))
	for i, e := range to {
		fds[i] = -1
		if e != nil {
			fds[i] = e.FD()
		}
	}
	d.t.must(d.device.SetTriggers(int(kind), first, fds...))
}

// DisableIRQ turns every vector of the kind off.
func (d *VFIODevice) DisableIRQ(kind Interrupt) { d.t.must(d.device.DisableIRQ(int(kind))) }

// Loopback has VFIO signal count vectors from first on, without the device (DATA_NONE).
func (d *VFIODevice) Loopback(kind Interrupt, first, count int) {
	d.t.must(d.device.Trigger(int(kind), first, count))
}

// LoopbackIf is Loopback of those vectors whose word is true (DATA_BOOL).
func (d *VFIODevice) LoopbackIf(kind Interrupt, first int, which ...bool) {
	d.t.must(d.device.TriggerIf(int(kind), first, which...))
}

// MaskINTx keeps INTx from being signalled.
func (d *VFIODevice) MaskINTx() { d.t.must(d.device.Mask()) }

// UnmaskINTx undoes MaskINTx, and the mask that comes with every INTx.
func (d *VFIODevice) UnmaskINTx() { d.t.must(d.device.Unmask()) }

// UnmaskINTxOn has each signal of an eventfd do UnmaskINTx; nil ends it.
func (d *VFIODevice) UnmaskINTxOn(e *EventFD) {
	fd := -1
	if e != nil {
		fd = e.FD()
	}
	d.t.must(d.device.UnmaskOn(fd))
}

// Raise has edu raise its interrupt: one message with MSI, else a level until Acknowledge.
func (d *VFIODevice) Raise() { d.t.must(d.edu.Raise(1)) }

// Acknowledge has edu take its interrupt back.
func (d *VFIODevice) Acknowledge() { d.t.must(d.edu.Acknowledge(1)) }

// Raised reports whether edu's interrupt status says that it raised one which nobody has acknowledged.
func (d *VFIODevice) Raised() bool {
	status, err := d.edu.Raised()
	d.t.must(err)
	return status == 1
}

// StartVectors gives nvme its queues, one for each of so many vectors, in memory that it reaches at iova.
// MSI-X must be on with these vectors, and the first one's eventfd hears of the set-up.
func (d *VFIODevice) StartVectors(iova uint32, vectors int) {
	mem, err := unix.Mmap(-1, 0, pci.NVMeMemory(vectors), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	d.t.mustHost("memory for nvme", err)
	d.t.atEnd("unmap nvme's memory", func() error { return unix.Munmap(mem) })
	d.Map(&Page{mem}, iova)
	ctx, cancel := d.t.patience(5 * time.Second)
	defer cancel()
	d.nvme = pci.NVMe{Registers: d.edu.Registers}
	d.t.mustDevice("start nvme", d.nvme.Start(ctx, mem, uint64(iova), vectors))
}

// RaiseVector has nvme send the message of a vector, and sees that it did.
func (d *VFIODevice) RaiseVector(n int) {
	ctx, cancel := d.t.patience(5 * time.Second)
	defer cancel()
	d.t.mustDevice("interrupt of nvme", d.nvme.Raise(n))
	_, err := d.nvme.Complete(ctx, n)
	d.t.mustDevice("interrupt of nvme", err)
}

// Handled is how many interrupts of the device the kernel has handled since they were last enabled, by
// /proc/interrupts.
func (d *VFIODevice) Handled() int {
	table, err := os.ReadFile(d.t.env.Root + "/proc/interrupts")
	d.t.mustHost("interrupts", err)
	sum := 0
	for line := range strings.Lines(string(table)) {
		words := strings.Fields(line)
		if len(words) == 0 || !strings.HasPrefix(words[len(words)-1], "vfio-") || !strings.HasSuffix(words[len(words)-1], "("+d.pci.Address+")") {
			continue
		}
		for _, word := range words[1:] { // one count for each CPU, then the chip's name
			n, err := strconv.Atoi(word)
			if err != nil {
				break
			}
			sum += n
		}
	}
	return sum
}

// Interrupts lists the names that the device's interrupts have in /proc/interrupts, as far as VFIO owns them.
func (d *VFIODevice) Interrupts() []string {
	var s state
	d.t.mustHost("interrupts", s.readInterrupts(d.t.env.Root, d.t.mods, d.t.bus))
	var list []string
	for _, line := range s.interrupts {
		if name, ours := strings.CutSuffix(line, "("+d.pci.Address+")"); ours {
			list = append(list, name)
		}
	}
	return list
}

// BypassRefs is how many references of irqbypass a vector holds. Its registration kept one until 6.17,
// when irqbypass stopped counting itself, and the code tells which it is.
func (t *T) BypassRefs() int {
	if !t.mods.Has("irqbypass") {
		t.SkipBuiltIn("irqbypass")
	}
	text, err := os.ReadFile(t.mods.File("irqbypass"))
	t.mustHost("read irqbypass", err)
	if bytes.Contains(text, []byte("\x00module_put\x00")) {
		return 1
	}
	return 0
}

// LeftInEventFD is what remains of a signal in its eventfd when KVM's irqfd or VFIO's unmask has acted on
// it. Both take it out since 5.11 (b59e00dd8cda "KVM: eventfd: consume events on eventfd when injecting",
// b1b397aeef8c for VFIO), and the code tells: before, they only watched.
func (t *T) LeftInEventFD() int {
	watches := 0
	for _, name := range []string{"vfio_virqfd", "vfio"} { // built in, it is taken for a later kernel's
		if !t.mods.Has(name) {
			continue
		}
		text, err := os.ReadFile(t.mods.File(name))
		t.mustHost("read "+name, err)
		if bytes.Contains(text, []byte("\x00eventfd_ctx_do_read\x00")) {
			return 0
		}
		watches = 1
	}
	return watches
}

// CreateIRQChip gives the VM interrupt controllers in the kernel. It comes before the first vCPU.
func (v *VM) CreateIRQChip() { v.t.must(v.vm.CreateIRQChip()) }

// RouteMSI has a GSI stand for a message to vCPU 0 with this vector, and every other GSI for nothing.
func (v *VM) RouteMSI(gsi uint32, vector uint8) {
	v.t.must(v.vm.RouteMSI(kvm.MSIRoute{GSI: gsi, Address: uapi.LAPICBase, Data: uint32(vector)}))
}

// AssignIRQFD has the VM take an eventfd's signals as interrupts of a GSI.
func (v *VM) AssignIRQFD(gsi uint32, e *EventFD) { v.t.must(v.vm.AssignIRQFD(gsi, e.FD())) }

// AssignResampler is AssignIRQFD for a level, which the guest's EOI ends with a signal of resample.
func (v *VM) AssignResampler(gsi uint32, e, resample *EventFD) {
	v.t.must(v.vm.AssignResampler(gsi, e.FD(), resample.FD()))
}

// DeassignIRQFD undoes either.
func (v *VM) DeassignIRQFD(gsi uint32, e *EventFD) { v.t.must(v.vm.DeassignIRQFD(gsi, e.FD())) }

// Registers is the first page of a device's BAR 0 as a VM's memory. It holds the device's file.
type Registers struct {
	t   *T
	mem []byte
}

// GiveRegisters puts the registers into the VM's memory, at a guest physical address.
func (v *VM) GiveRegisters(dev *VFIODevice, guest uint64) *Registers {
	bar, err := dev.device.Region(uapi.VFIOPCIBAR0)
	v.t.must(err)
	r := &Registers{t: v.t}
	r.mem, err = bar.Memory(PageSize)
	v.t.must(err)
	v.t.atEnd("unmap the registers", r.unmap)
	v.t.must(v.vm.SetMemory(1, guest, r.mem))
	return r
}

// Unmap ends the mapping and with it the hold of the device's file. The VM must be closed.
func (r *Registers) Unmap() { r.t.must(r.unmap()) }

func (r *Registers) unmap() error {
	mem := r.mem
	r.mem = nil
	if mem == nil {
		return nil
	}
	return unix.Munmap(mem)
}

// EnableLAPIC lets the vCPU's APIC take interrupts, which it does not after a reset.
func (p *VCPU) EnableLAPIC() { p.changeLAPIC((*kvm.LAPIC).Enable) }

// ClearLAPIC forgets what the APIC has been asked for.
func (p *VCPU) ClearLAPIC() { p.changeLAPIC((*kvm.LAPIC).Clear) }

func (p *VCPU) changeLAPIC(change func(*kvm.LAPIC)) {
	l, err := p.LAPIC()
	p.t.must(err)
	change(l)
	p.t.must(p.SetLAPIC(l))
}

// Requested are the vectors that the vCPU's APIC has been asked for and the vCPU has not taken.
func (p *VCPU) Requested() string {
	l, err := p.LAPIC()
	p.t.must(err)
	return fmt.Sprint(l.Requested())
}

// WaitRequested waits until the APIC has been asked for anything and gives Requested; it polls, because an
// interrupt to a vCPU that does not run is no event for anybody.
func (p *VCPU) WaitRequested(limit time.Duration) string {
	return p.t.waitRequested(limit, p.Requested)
}

// WaitPICRequested waits until a line of the VM's first PIC has been raised that no vCPU has taken, and gives
// these lines.
func (v *VM) WaitPICRequested(limit time.Duration) string {
	return v.t.waitRequested(limit, func() string {
		lines, err := v.vm.PICRequested()
		v.t.must(err)
		return fmt.Sprint(lines)
	})
}

func (t *T) waitRequested(limit time.Duration, requested func() string) string {
	ctx, cancel := t.patience(limit)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		got := requested()
		if got != "[]" || ctx.Err() != nil {
			return got
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// Where a guest's page has its code: the entry, and the handler of its one interrupt.
const (
	GuestEntry   = 0x400
	GuestHandler = 0x500
)

// GuestPage lays out a guest's first page: a real-mode interrupt table with one vector, the code that the
// guest begins with, and the vector's handler.
func GuestPage(vector uint8, entry, handler []byte) []byte {
	page := make([]byte, PageSize)
	binary.LittleEndian.PutUint16(page[4*int(vector):], GuestHandler) // segment 0
	copy(page[GuestEntry:GuestHandler], entry)
	copy(page[GuestHandler:], handler)
	return page
}

// ReachLAPIC lets a guest in real mode reach its APIC through FS.
func (p *VCPU) ReachLAPIC() { p.t.must(p.VCPU.ReachLAPIC()) }

// Running is a vCPU that runs on a thread of its own. It is stopped at the end at the latest.
type Running struct {
	*Pending
	cpu  *VCPU
	exit kvm.Exit
}

// Start lets the guest run while the scenario goes on.
func (p *VCPU) Start() *Running {
	r := &Running{cpu: p}
	p.Resume()
	r.Pending = p.t.Start("the guest's next exit", func() (err error) {
		r.exit, err = p.RunOrStop()
		return err
	})
	p.t.atEnd("stop the vCPU", r.stop) // before the wait for it, which was registered first
	return r
}

func (r *Running) stop() error {
	if r.Done() {
		return nil
	}
	return r.cpu.Stop(r.tid)
}

// Stop ends the run. It reports whether the guest had not left it by then.
func (r *Running) Stop() bool {
	r.t.mustHost("stop the vCPU", r.stop())
	<-r.done
	if errors.Is(r.err, kvm.ErrStopped) {
		return true
	}
	r.t.must(r.err)
	return false
}

// Returned waits for the guest's next exit, and reports whether it came in time.
func (r *Running) Returned(limit time.Duration) bool {
	ctx, cancel := r.t.patience(limit)
	defer cancel()
	select {
	case <-r.done:
		return true
	case <-ctx.Done():
		return false
	}
}

// Exit waits for the guest's next exit. A guest that does not exit in time is a false claim.
func (r *Running) Exit(limit time.Duration) kvm.Exit {
	r.t.must(r.Wait(limit))
	return r.exit
}

// Halted waits until the guest has halted, so that only an interrupt makes it go on.
func (r *Running) Halted(limit time.Duration) bool { return r.BlockedIn("kvm_vcpu_block", limit) }
