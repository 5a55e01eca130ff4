package lab

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/kvm"
)

// VM is a KVM virtual machine with the descriptors that belong to it: /dev/kvm, the VM, its vCPUs, its
// kvm-vfio device.
type VM struct {
	t      *T
	nth    int // in the order of KVM's create events
	system *kvm.System
	vm     *kvm.VM
	vcpus  []*VCPU
	vfio   *kvm.VFIO
}

// NewVM opens /dev/kvm and makes a VM. Both are closed at the end at the latest.
func (t *T) NewVM() *VM {
	v := &VM{t: t}
	var err error
	t.mustHost("uevents", t.events.pump())
	before := t.events.created

	// KVM's events name the creating thread, so that this one must not change under us.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	v.system, err = kvm.Open()
	t.must(err)
	t.atEnd("close the VM", v.close)
	v.vm, err = v.system.CreateVM()
	t.must(err)

	t.mustHost("uevents", t.events.pump())
	if n := t.events.created - before; n != 1 {
		t.WantInt(n, 1, "KVM announces the VM that it created")
		runtime.Goexit()
	}
	v.nth = t.events.created
	return v
}

// VendorPin is how many references of the vendor module a VM holds by itself, whatever becomes of its descriptors:
// one where kvm_create_vm takes it (up to 6.6, and wherever a fix brings that back), else none. It makes a VM to see.
// Afterwards the reference must still be given back with each VM, which is the scenario's to claim.
func (t *T) VendorPin() int {
	vm := t.NewVM()
	vm.CloseSystem()
	held := t.Module(KVMVendor).Held()
	vm.Close()
	if !t.Since(6, 1) || t.Since(6, 7) {
		held-- // kvm_vm_fops.owner, by the VM's descriptor
	}
	pin := min(max(held, 0), 1)
	if !t.Since(6, 7) {
		pin = 1
	}
	t.wantInt(held, pin, "a VM holds the vendor module by its descriptor, or once by itself", callerOutside())
	return pin
}

// AddVFIO tells the VM of the device's group, which is attached to a container first if it is not yet:
// 5.10 refuses a group without one (EINVAL), 6.1 takes it.
func (v *VM) AddVFIO(dev *VFIODevice) {
	dev.Attach()
	if v.vfio == nil {
		v.NewVFIO()
	}
	v.t.must(v.vfio.Add(dev.group.FD()))
}

// DelVFIO takes back AddVFIO.
func (v *VM) DelVFIO(dev *VFIODevice) error { return v.vfio.Del(dev.group.FD()) }

// CloseSystem closes /dev/kvm and keeps the VM.
func (v *VM) CloseSystem() { v.t.must(v.system.Close()) }

// Close closes every descriptor of the VM. Whether the VM is gone then is for Destroyed to say.
func (v *VM) Close() { v.t.must(v.close()) }

func (v *VM) close() error {
	var errs []error
	for _, p := range v.vcpus {
		errs = append(errs, p.Close())
	}
	if v.vfio != nil {
		errs = append(errs, v.vfio.Close())
	}
	if v.vm != nil {
		errs = append(errs, v.vm.Close())
	}
	return errors.Join(append(errs, v.system.Close())...)
}

// Destroyed reports whether the kernel has destroyed the VM.
func (v *VM) Destroyed() bool {
	v.t.mustHost("uevents", v.t.events.pump())
	return !v.t.events.lives(v.nth)
}

// VCPU is a vCPU. It ends with its VM's Close.
type VCPU struct {
	*kvm.VCPU
	t *T
}

// NewVCPU makes the VM's next vCPU.
func (v *VM) NewVCPU() *VCPU {
	p, err := v.vm.CreateVCPU(len(v.vcpus))
	v.t.must(err)
	cpu := &VCPU{p, v.t}
	v.vcpus = append(v.vcpus, cpu)
	return cpu
}

// SetCode gives the VM one page of memory at a guest physical address, which begins with code.
func (v *VM) SetCode(guest uint64, code []byte) *Page {
	page := v.t.NewPage()
	copy(page.mem, code)
	// An Intel CPU needs three pages for real mode; just below 4 GiB nothing else is.
	const tss, identity = 0xfffbd000, 0xfffbc000
	v.t.must(v.vm.PrepareRealMode(tss, identity))
	v.t.must(v.vm.SetMemory(0, guest, page.mem))
	return page
}

// StartReal sets the vCPU to real mode at address ip with ax and bx set.
func (p *VCPU) StartReal(ip uint64, ax, bx uint16) { p.t.must(p.VCPU.StartReal(ip, ax, bx)) }

// Run lets the guest run to its next exit to user space.
func (p *VCPU) Run() kvm.Exit {
	exit, err := p.VCPU.Run()
	p.t.must(err)
	return exit
}

// Page is one page of memory that the Go runtime does not know of: it neither moves nor goes away while
// the kernel has it pinned.
type Page struct{ mem []byte }

// PageSize is the size of a Page.
const PageSize = 4096

// NewPage maps a page and touches it.
func (t *T) NewPage() *Page {
	mem, err := unix.Mmap(-1, 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	t.mustHost("map a page", err)
	p := &Page{mem}
	t.atEnd("unmap a page", func() error { return unix.Munmap(mem) })
	return p
}

// Fill writes one byte all over the page.
func (p *Page) Fill(b byte) {
	for i := range p.mem {
		p.mem[i] = b
	}
}

// Count is how many bytes of the page are b.
func (p *Page) Count(b byte) int {
	n := 0
	for _, have := range p.mem {
		if have == b {
			n++
		}
	}
	return n
}

// Uint16 reads a little-endian word of the page.
func (p *Page) Uint16(at int) uint16 { return uint16(p.mem[at]) | uint16(p.mem[at+1])<<8 }
