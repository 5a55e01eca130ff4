// Package machine describes a virtual machine as a value and folds it into QEMU's arguments and the kernel's
// command line.
//
// It owns what a guest is made of: the four named machines, the vIOMMU, the empty root ports, the wiring of
// logs and channels, and the devices that are hot-added later. It is pure: it starts nothing, opens nothing and
// asks QEMU nothing (that is package qemu), and it knows nothing of kernels or scenarios.
package machine

import (
	"fmt"
	"slices"
	"strings"
)

// The files that QEMU writes, relative to the folder that it runs in.
const (
	ConsoleLog = "console.log" // the serial console, from the kernel's first word
	KmsgLog    = "kmsg.log"    // /dev/kmsg as the guest's init forwards it
	TraceLog   = "trace.log"   // QEMU's own trace events: IOMMU faults
)

// Accel is what runs the guest's instructions.
type Accel string

// The accelerators. The zero Accel is TCG: only a boot that reached userspace proves KVM.
const (
	TCG Accel = "tcg"
	KVM Accel = "kvm"
)

// IOMMU is the virtual IOMMU between the guest's devices and its memory.
type IOMMU string

// The IOMMUs. The zero IOMMU is NoIOMMU.
const (
	NoIOMMU     IOMMU = "none"
	IntelIOMMU  IOMMU = "intel"
	AMDIOMMU    IOMMU = "amd"
	VirtioIOMMU IOMMU = "virtio"
)

// MaxRootPorts is how many root ports fit on the root bus beside everything else.
const MaxRootPorts = 14

// Machine is a virtual machine before it starts. Take one from Named and fill in the kernel.
type Machine struct {
	Name          string   // as the user types it
	Accel         Accel    // zero: TCG
	CPU           string   // QEMU's CPU model; empty: one with nested virtualisation
	MemoryMB      int      //
	VCPUs         int      //
	IOMMU         IOMMU    // zero: none
	RootPorts     int      // empty PCIe root ports named port1, port2 ...
	Kernel        string   // absolute path of the bzImage; empty: firmware only
	Initrd        string   // absolute path of the initramfs, or empty
	Cmdline       []string // kernel words after the machine's own, so that they win
	NativeHotplug bool     // root ports do hot-plug by themselves (pciehp), not through ACPI
	NoIntRemap    bool     // the IOMMU does not remap interrupts; virtio's never does
	NVMeSubsystem bool     // there is one, for a Device that belongs to it
	Channels      []string // virtio-serial ports wired to inherited sockets, by name, see FDs

	Memory   Memory // where the guest's memory is
	Incoming bool   // QEMU waits for a saved state instead of booting, and goes on with the logs that are there
}

// Memory is where a guest's memory is. The zero value is memory of QEMU's own.
type Memory struct {
	File    string // absolute path of a file as large as the memory, which QEMU maps
	Private bool   // what the guest writes is its own (copy on write); otherwise it goes into the file
}

// named lists the machines that a user can name, in the order in which help shows them.
func named() []Machine {
	usual := Machine{Accel: TCG, MemoryMB: 512, VCPUs: 1, RootPorts: 4}
	var ms []Machine
	for _, u := range []IOMMU{IntelIOMMU, AMDIOMMU, VirtioIOMMU, NoIOMMU} {
		m := usual
		m.Name, m.IOMMU = string(u), u
		ms = append(ms, m)
	}
	return ms
}

// Names of the machines that Named knows.
func Names() []string {
	var names []string
	for _, m := range named() {
		names = append(names, m.Name)
	}
	return names
}

// Named returns the machine of that name with its defaults: 512 MB, one vCPU, four empty root ports, TCG.
func Named(name string) (Machine, error) {
	for _, m := range named() {
		if m.Name == name {
			return m, nil
		}
	}
	return Machine{}, fmt.Errorf("unknown machine %q, there are: %s", name, strings.Join(Names(), ", "))
}

// Validate reports what would make QEMU refuse the machine or read it as something else.
func (m Machine) Validate() error {
	switch {
	case !slices.Contains([]Accel{"", TCG, KVM}, m.Accel):
		return fmt.Errorf("machine %s: unknown accelerator %q", m.Name, m.Accel)
	case !slices.Contains([]IOMMU{"", NoIOMMU, IntelIOMMU, AMDIOMMU, VirtioIOMMU}, m.IOMMU):
		return fmt.Errorf("machine %s: unknown IOMMU %q", m.Name, m.IOMMU)
	case m.MemoryMB < 1 || m.VCPUs < 1:
		return fmt.Errorf("machine %s: %d MB of memory and %d vCPUs", m.Name, m.MemoryMB, m.VCPUs)
	case m.RootPorts < 0 || m.RootPorts > MaxRootPorts:
		return fmt.Errorf("machine %s: %d root ports, at most %d fit", m.Name, m.RootPorts, MaxRootPorts)
	case m.Kernel == "" && (m.Initrd != "" || len(m.Cmdline) > 0):
		return fmt.Errorf("machine %s: an initramfs or kernel words, but no kernel", m.Name)
	}
	for _, name := range m.FDs() {
		if name == "" || strings.ContainsAny(name, "/, \t\n") {
			return fmt.Errorf("machine %s: bad channel name %q", m.Name, name)
		}
	}
	if names := m.FDs(); len(slices.Compact(slices.Sorted(slices.Values(names)))) != len(names) {
		return fmt.Errorf("machine %s: two channels of one name", m.Name)
	}
	for _, s := range append([]string{m.Kernel, m.Initrd, m.CPU, m.Memory.File}, m.Cmdline...) {
		if strings.ContainsAny(s, "\n\x00") {
			return fmt.Errorf("machine %s: line break in %q", m.Name, s)
		}
	}
	// A comma ends an option of QEMU's, and there is no way to quote one that every version understands.
	if strings.Contains(m.Memory.File, ",") {
		return fmt.Errorf("machine %s: a comma in %q", m.Name, m.Memory.File)
	}
	return nil
}

// FDs names the sockets that QEMU inherits, in order: "qmp", then Channels. The i-th is file descriptor 3+i.
func (m Machine) FDs() []string {
	return append([]string{"qmp"}, m.Channels...)
}

// Args is QEMU's argument vector without the program. File names in it are relative to the folder that QEMU
// runs in, except Kernel and Initrd.
func (m Machine) Args() []string { return m.fold(inherited{again: m.Incoming}) }

// Script is a shell script that starts the same machine by hand: the console is on the terminal (^A x ends
// it) and in a file, inherited sockets become listening ones in the current folder. No file of a run that
// is already in that folder is overwritten. A machine that was restored is booted.
func (m Machine) Script(binary string) string {
	m.Memory, m.Incoming = Memory{}, false
	var b strings.Builder
	b.WriteString("#!/bin/sh\n# Boots this guest again, by hand. ^A x ends it; the sockets and logs are by-hand.* here.\n")
	b.WriteString(quote(binary))
	for _, a := range m.fold(byHand{}) {
		if strings.HasPrefix(a, "-") {
			b.WriteString(" \\\n ")
		}
		b.WriteString(" " + quote(a))
	}
	b.WriteString("\n")
	return b.String()
}

// fold lets every feature add its arguments, and collects the kernel's words on the way.
func (m Machine) fold(w wiring) []string {
	var args, words []string
	for _, f := range m.features(w) {
		args = append(args, f.args()...)
		words = append(words, f.words()...)
	}
	if m.Incoming {
		args = append(args, "-incoming", "defer")
	}
	if m.Kernel == "" {
		return args
	}
	args = append(args, "-kernel", m.Kernel)
	if m.Initrd != "" {
		args = append(args, "-initrd", m.Initrd)
	}
	return append(args, "-append", strings.Join(append(words, m.Cmdline...), " "))
}

// quote makes s one word of a POSIX shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_=./,:+%@", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
