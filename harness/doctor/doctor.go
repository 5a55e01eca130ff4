// Package doctor finds out what this host can run: which QEMU with which devices, which accelerator really
// boots a guest, which tools and how much disk there are, and what to type where something is missing.
//
// It owns the questions and remembers the answers that cost a boot. It asks QEMU and the host and never
// derives an answer from a version. It installs nothing.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/kernels"
)

// Doctor examines this host. Its fields are set before use.
type Doctor struct {
	Binary     string // QEMU; empty: the one in PATH
	Pool       *pool.Pool
	Kernels    *kernels.Cache
	KernelSpec string       // the kernel whose boot proves an accelerator
	Memory     string       // folder in which answers are remembered
	Say        func(string) // progress, for a person
}

// Choice is the accelerator that runs should use.
type Choice struct {
	Proof
	Proven bool // a kernel is known to reach userspace with it
}

// Choose returns the fastest accelerator that is proven here: KVM if a guest boots and can nest, else TCG.
// Where nothing could be proven, for want of a kernel, it is TCG, unproven. It fails when not even TCG
// boots the kernel that proves it.
func (d *Doctor) Choose(ctx context.Context) (Choice, error) {
	kvm, err := d.prove(ctx, machine.KVM)
	if err != nil {
		return Choice{}, err
	}
	if kvm.Works == Yes && kvm.Nested == Yes {
		return Choice{kvm, true}, nil
	}
	tcg, err := d.prove(ctx, machine.TCG)
	if err != nil {
		return Choice{}, err
	}
	if tcg.Works == No {
		return Choice{}, fmt.Errorf("no accelerator boots %s here: tcg: %s; kvm: %s (nestbed doctor says more)", d.KernelSpec, tcg.Reason, kvm.Reason)
	}
	return Choice{tcg, tcg.Works == Yes}, nil
}

// NotCovered says what a green result with this accelerator does not say.
func (c Choice) NotCovered() []string {
	if c.Accel == machine.TCG {
		return []string{"SVM only, emulated (TCG)", "no VMX", "no posted interrupts", "no real DMA ordering"}
	}
	return []string{"no posted interrupts (no emulated vIOMMU has them)", "no real DMA ordering"}
}

// Examination is everything that doctor found.
type Examination struct {
	QEMU         QEMU          `json:"qemu"`
	Accelerators []Proof       `json:"accelerators"`
	Tools        []Tool        `json:"tools"`
	Disk         Disk          `json:"disk"`
	Can          []string      `json:"can"`
	Cannot       []Shortcoming `json:"cannot"`
}

// QEMU is the program and which of what we use it has.
type QEMU struct {
	Path     string    `json:"path"`
	Version  string    `json:"version"`
	Features []Feature `json:"features"`
}

// Feature is something that nestbed asks of QEMU.
type Feature struct {
	Name string `json:"name"`
	For  string `json:"for"`
	Have bool   `json:"have"`
	Must bool   `json:"must"` // nothing runs without it
}

// Tool is a program on the host that a part of nestbed uses.
type Tool struct {
	Name    string `json:"name"`
	For     string `json:"for"`
	Path    string `json:"path"` // empty: not here
	Package string `json:"package"`
}

// Disk is the space where the cache lives.
type Disk struct {
	Folder string `json:"folder"`
	FreeMB int64  `json:"free_mb"`
}

// Shortcoming is what cannot be run here, why, and what would change it.
type Shortcoming struct {
	What   string `json:"what"`
	Why    string `json:"why"`
	Remedy string `json:"remedy"`
}

// wantedMB is what a first run needs: a kernel package while it is unpacked, the imported kernel, a run.
const wantedMB = 2048

// Examine looks at everything. What is missing is in the examination; an error is trouble in looking.
func (d *Doctor) Examine(ctx context.Context) (Examination, error) {
	x := Examination{Tools: tools(), Disk: disk(filepath.Dir(d.Memory))}
	path, version, err := qemu.Find(d.Binary)
	if err != nil {
		x.QEMU = QEMU{Path: path, Version: version} // neither when it is none; both when it is too old
		x.Cannot = append(x.Cannot, Shortcoming{"anything", err.Error(), "apt-get install qemu-system-x86, or --qemu PATH"})
		x.sum()
		return x, nil
	}
	caps, err := qemu.Ask(ctx, d.Binary)
	if err != nil {
		return x, err
	}
	x.QEMU = QEMU{Path: caps.Path, Version: caps.Version, Features: features(caps)}
	for _, accel := range []machine.Accel{machine.KVM, machine.TCG} {
		p, err := d.prove(ctx, accel)
		if err != nil {
			return x, err
		}
		x.Accelerators = append(x.Accelerators, p)
	}
	x.sum()
	return x, nil
}

// Usable says whether anything can be run at all.
func (x Examination) Usable() bool {
	proven := slices.ContainsFunc(x.Accelerators, func(p Proof) bool { return p.Works == Yes })
	lacking := slices.ContainsFunc(x.QEMU.Features, func(f Feature) bool { return f.Must && !f.Have })
	return x.QEMU.Path != "" && proven && !lacking
}

// sum draws the conclusions.
func (x *Examination) sum() {
	have := map[string]bool{}
	for _, f := range x.QEMU.Features {
		have[f.Name] = f.Have
		if !f.Have {
			x.Cannot = append(x.Cannot, Shortcoming{f.For, x.QEMU.Path + " " + x.QEMU.Version + " has no " + f.Name, "a newer QEMU: apt-get install -t bookworm-backports qemu-system-x86, or --qemu PATH"})
		}
	}
	if len(x.Accelerators) == 2 {
		x.sumAccelerators(x.Accelerators[0], x.Accelerators[1])
	}
	for _, m := range []struct{ machine, needs string }{{"intel", "intel-iommu"}, {"amd", "amd-iommu"}, {"virtio", "virtio-iommu-pci"}} {
		if have[m.needs] {
			x.Can = append(x.Can, "machine "+m.machine+" (-m "+m.machine+")")
		}
	}
	x.Cannot = append(x.Cannot, Shortcoming{"posted interrupts", "no emulated vIOMMU offers them", "real hardware; nestbed does not go there"})
	for _, t := range x.Tools {
		if t.Path == "" {
			x.Cannot = append(x.Cannot, Shortcoming{t.For, "no " + t.Name + " in PATH", "apt-get install " + t.Package})
		}
	}
	if x.Disk.FreeMB < wantedMB {
		x.Cannot = append(x.Cannot, Shortcoming{"importing another kernel", fmt.Sprintf("%d MB free in %s", x.Disk.FreeMB, x.Disk.Folder), "nestbed cache prune, or set XDG_CACHE_HOME"})
	}
}

func (x *Examination) sumAccelerators(kvm, tcg Proof) {
	switch {
	case kvm.Works == Yes && kvm.Nested == Yes:
		x.Can = append(x.Can, "guests on KVM, with KVM in them")
	case kvm.Works == Yes:
		x.Cannot = append(x.Cannot, Shortcoming{"nested guests on KVM", "KVM runs guests, but nesting is off", "modprobe -r kvm_intel && modprobe kvm_intel nested=1 (or kvm_amd)"})
	case kvm.Works == CannotTell:
		x.Cannot = append(x.Cannot, Shortcoming{"guests on KVM", "cannot tell: " + kvm.Reason, "mend that, then nestbed doctor"})
	default:
		x.Cannot = append(x.Cannot, Shortcoming{"guests on KVM", kvm.Reason, kvm.Remedy})
	}
	switch tcg.Works {
	case Yes:
		x.Can = append(x.Can, "guests under TCG, with SVM emulated in them (kvm_amd)")
		if kvm.Works != Yes || kvm.Nested != Yes {
			x.Cannot = append(x.Cannot, Shortcoming{"anything that is VMX's (kvm_intel)", "TCG emulates SVM only", "an Intel host whose KVM runs guests"})
		}
	case CannotTell:
		x.Cannot = append(x.Cannot, Shortcoming{"guests under TCG", "cannot tell: " + tcg.Reason, "mend that, then nestbed doctor"})
	default:
		x.Cannot = append(x.Cannot, Shortcoming{"guests under TCG", tcg.Reason, "look at it: nestbed shell"})
	}
}

// features asks for what package machine and the scenarios use.
func features(caps qemu.Capabilities) []Feature {
	f := func(have bool, name, use string, must bool) Feature {
		return Feature{Name: name, For: use, Have: have, Must: must}
	}
	device := func(name, use string, must bool) Feature { return f(caps.HasDevice(name), name, use, must) }
	property := func(dev, prop, use string) Feature {
		return f(caps.HasProperty(dev, prop), dev+"."+prop, use, false)
	}
	return []Feature{
		f(caps.HasMachine("q35"), "q35", "every machine", true),
		device("pcie-root-port", "hot-adding devices under test", true),
		device("virtio-serial-pci", "talking to the guest", true),
		device("pvpanic", "noticing a panic", true),
		device("vmgenid", "fresh random numbers in every guest", true),
		device("intel-iommu", "machine intel", false),
		property("intel-iommu", "intremap", "VFIO without unsafe interrupts on intel"),
		device("amd-iommu", "machine amd", false),
		device("virtio-iommu-pci", "machine virtio", false),
		device("edu", "the device under test of most scenarios", false),
		device("nvme", "scenarios about MSI-X, FLR and bus master", false),
		property("nvme", "sriov_max_vfs", "scenarios about virtual functions"),
		device(machine.NVMeSubsystemDriver, "scenarios about virtual functions", false),
		device("e1000e", "scenarios about power management; nestbed exec --device e1000e", false),
		device("pci-testdev", "nestbed exec --device pci-testdev", false),
		f(caps.HasTrace("vtd_dmar_fault"), "trace vtd_dmar_fault", "counting DMA faults on intel", false),
		f(caps.HasTrace("amdvi_translation_result"), "trace amdvi_translation_result", "counting DMA faults on amd", false),
		f(caps.HasTrace("virtio_iommu_report_fault"), "trace virtio_iommu_report_fault", "counting DMA faults on virtio", false),
	}
}

func tools() []Tool {
	list := []Tool{
		{Name: "apt-get", For: "kernels of a distribution (debian:...)", Package: "apt"},
		{Name: "xz", For: "unpacking kernels faster", Package: "xz-utils"},
		{Name: "busybox", For: "running a script in a guest (nestbed exec)", Package: "busybox-static"},
		{Name: "strip", For: "smaller modules of kernels that were built by hand", Package: "binutils"},
	}
	for i := range list {
		list[i].Path, _ = exec.LookPath(list[i].Name) // an error is: not here
	}
	return list
}

// disk looks at the file system of the first folder above name that exists.
func disk(name string) Disk {
	for dir := name; ; dir = filepath.Dir(dir) {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil {
			return Disk{Folder: dir, FreeMB: int64(fs.Bavail) * fs.Bsize >> 20}
		} else if !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir) {
			return Disk{Folder: dir}
		}
	}
}

// Text is the examination for a person.
func (x Examination) Text() string {
	var b strings.Builder
	if x.QEMU.Path == "" {
		fmt.Fprintf(&b, "QEMU: none\n")
	} else {
		fmt.Fprintf(&b, "QEMU %s (%s)\n", x.QEMU.Version, x.QEMU.Path)
	}
	for _, f := range x.QEMU.Features {
		fmt.Fprintf(&b, "  %-3s  %-32s %s\n", yes(f.Have), f.Name, f.For)
	}
	fmt.Fprintf(&b, "\nAccelerators\n")
	for _, p := range x.Accelerators {
		fmt.Fprintf(&b, "  %-3s  %-5s %s\n", cmp.Or(string(p.Works), "?"), p.Accel, p.Reason)
	}
	fmt.Fprintf(&b, "\nTools\n")
	for _, t := range x.Tools {
		fmt.Fprintf(&b, "  %-3s  %-8s %s\n", yes(t.Path != ""), t.Name, t.For)
	}
	fmt.Fprintf(&b, "\nDisk\n  %d MB free in %s\n", x.Disk.FreeMB, x.Disk.Folder)
	fmt.Fprintf(&b, "\nYou can run here\n")
	for _, c := range x.Can {
		fmt.Fprintf(&b, "  %s\n", c)
	}
	fmt.Fprintf(&b, "\nYou cannot run here\n")
	for _, c := range x.Cannot {
		fmt.Fprintf(&b, "  %s\n      why:  %s\n", c.What, c.Why)
		if c.Remedy != "" {
			fmt.Fprintf(&b, "      cure: %s\n", c.Remedy)
		}
	}
	return b.String()
}

func yes(have bool) string {
	if have {
		return "yes"
	}
	return "no"
}
