package lab

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/kvm"
	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
)

// What can hold a VM or a device when everything else is closed.

// Part is one thing through which a VM is held.
type Part string

// The parts of a VM. Each may be the last.
const (
	PartSystem Part = "/dev/kvm"
	PartVM     Part = "the VM's descriptor"
	PartVCPU   Part = "a vCPU's descriptor"
	PartRun    Part = "a vCPU's mapped kvm_run"
	PartVFIO   Part = "the kvm-vfio device"
)

// NewVFIO makes the VM's kvm-vfio device, which knows of no device yet.
func (v *VM) NewVFIO() {
	var err error
	v.vfio, err = v.vm.CreateVFIO()
	v.t.must(err)
}

// CloseAllBut closes every part of the VM but one. Close closes that too.
func (v *VM) CloseAllBut(last Part) {
	var errs []error
	undo := func(p Part, f func() error) {
		if p != last {
			errs = append(errs, f())
		}
	}
	for _, cpu := range v.vcpus {
		undo(PartRun, cpu.Unmap)
		undo(PartVCPU, cpu.Desc.Close)
	}
	if v.vfio != nil {
		undo(PartVFIO, v.vfio.Close)
	}
	undo(PartVM, v.vm.Close)
	undo(PartSystem, v.system.Close)
	v.t.must(errors.Join(errs...))
}

// Stats is a descriptor of statistics, which outlives the VM's Close.
type Stats struct {
	t    *T
	desc *kvm.Stats
}

// NewStats opens the VM's statistics.
func (v *VM) NewStats() *Stats {
	desc, err := v.vm.Stats()
	return v.t.newStats(desc, err)
}

// NewStats opens the vCPU's statistics.
func (p *VCPU) NewStats() *Stats {
	desc, err := p.Stats()
	return p.t.newStats(desc, err)
}

func (t *T) newStats(desc *kvm.Stats, err error) *Stats {
	t.must(err)
	t.atEnd("close the statistics", desc.Close)
	return &Stats{t, desc}
}

// ID reads from the descriptor whose statistics they are.
func (s *Stats) ID() string {
	id, err := s.desc.ID()
	s.t.must(err)
	return id
}

// Close closes the descriptor.
func (s *Stats) Close() { s.t.must(s.desc.Close()) }

// GuestMemory is a guest_memfd, which outlives the VM's Close.
type GuestMemory struct {
	t    *T
	desc *kvm.GuestMemory
}

// NewGuestMemory makes a page of it, or returns nil: the kernel has none for such a VM.
func (v *VM) NewGuestMemory() *GuestMemory {
	desc, err := v.vm.CreateGuestMemory(PageSize)
	// ENOTTY up to 6.7 and without the option, EINVAL where only special VMs have it.
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		v.t.Log("no guest_memfd: " + err.Error())
		return nil
	}
	v.t.must(err)
	v.t.atEnd("close the guest memory", desc.Close)
	return &GuestMemory{v.t, desc}
}

// Close closes the descriptor.
func (g *GuestMemory) Close() { g.t.must(g.desc.Close()) }

// DebugFile is an open file of a VM's directory in debugfs.
type DebugFile struct {
	t    *T
	desc uapi.Desc
}

// OpenDebugFile opens one of the VM's statistics in debugfs.
func (v *VM) OpenDebugFile(name string) *DebugFile {
	path := filepath.Join(v.t.env.Root, "/sys/kernel/debug/kvm", v.debugDir(), name)
	fd, err := uapi.Open(path, unix.O_RDONLY)
	v.t.must(err)
	f := &DebugFile{v.t, uapi.Own(fd, path)}
	v.t.atEnd("close the statistics in debugfs", f.desc.Close)
	return f
}

// debugDir is the VM's directory under debugfs/kvm. The VM must be the only one.
func (v *VM) debugDir() string {
	entries, err := os.ReadDir(filepath.Join(v.t.env.Root, "/sys/kernel/debug/kvm"))
	v.t.mustHost("KVM's debugfs", err)
	dir := ""
	for _, e := range entries {
		switch {
		case !e.IsDir():
		case dir != "":
			v.t.Broken("two VMs in debugfs, " + dir + " and " + e.Name())
		default:
			dir = e.Name()
		}
	}
	if dir == "" {
		v.t.Broken("no VM in debugfs")
	}
	return dir
}

// Readable reports whether there is something in the file. It has no position to go back to: once only.
func (f *DebugFile) Readable() bool {
	n, err := unix.Read(f.desc.FD(), make([]byte, 64))
	return err == nil && n > 0
}

// Close closes the file.
func (f *DebugFile) Close() { f.t.must(f.desc.Close()) }

// DeviceFile is one of several descriptors of a device.
type DeviceFile struct {
	t    *T
	desc *vfio.Device
}

// OpenFile attaches what is not attached and gets one more descriptor of the device. VFIODevice.Close does
// not close it.
func (d *VFIODevice) OpenFile() *DeviceFile {
	d.Attach()
	desc, err := d.group.Device(d.pci.Address)
	d.t.must(err)
	d.t.atEnd("close the device", desc.Close)
	return &DeviceFile{d.t, desc}
}

// Works reports whether the device answers through this descriptor.
func (f *DeviceFile) Works() bool {
	info, err := f.desc.Info()
	return err == nil && info.PCI
}

// Close closes the descriptor.
func (f *DeviceFile) Close() { f.t.must(f.desc.Close()) }
