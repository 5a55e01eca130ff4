package machine

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/golden"

	"github.com/nestbed/nestbed/images/control"
)

// full is a named machine as a run uses it.
func full(t *testing.T, name string) Machine {
	t.Helper()
	m, err := Named(name)
	assert.NilError(t, err)
	m.Kernel, m.Initrd = "/cache/it's a kernel/vmlinuz", "/cache/init.cpio"
	m.Cmdline = []string{"loglevel=8", `dyndbg="file vfio* +p"`}
	m.Channels = []string{control.PortControl, control.PortSSH, control.PortShell}
	return m
}

func TestArgs(t *testing.T) {
	kvm := full(t, "intel")
	kvm.Accel, kvm.VCPUs, kvm.MemoryMB, kvm.RootPorts = KVM, 4, 2048, 1
	bare, err := Named("none")
	assert.NilError(t, err)
	bare.CPU = "EPYC"
	machines := map[string]Machine{"kvm": kvm, "bare": bare}
	for _, name := range Names() {
		machines[name] = full(t, name)
	}
	for name, m := range machines {
		t.Run(name, func(t *testing.T) {
			assert.NilError(t, m.Validate())
			golden.Assert(t, strings.Join(m.Args(), "\n")+"\n", name+".args")
		})
	}
}

func TestScript(t *testing.T) {
	golden.Assert(t, full(t, "intel").Script("/usr/bin/qemu-system-x86_64"), "intel.sh")
}

// The shell takes the script apart into the very words that were put in.
func TestScriptWords(t *testing.T) {
	m := full(t, "virtio")
	dir := t.TempDir()
	printer := filepath.Join(dir, "print $HOME `words`'s")
	assert.NilError(t, os.WriteFile(printer, []byte("#!/bin/sh\nfor w; do printf '%s\\n' \"$w\"; done\n"), 0o755))
	script := filepath.Join(dir, "qemu.sh")
	assert.NilError(t, os.WriteFile(script, []byte(m.Script(printer)), 0o755))
	out, err := exec.CommandContext(t.Context(), script).Output()
	assert.NilError(t, err)
	assert.DeepEqual(t, strings.Split(strings.TrimSuffix(string(out), "\n"), "\n"), m.fold(byHand{}))
}

// What a person starts by hand must not overwrite what a run has left.
func TestScriptWritesNoFileOfTheRun(t *testing.T) {
	args := strings.Join(full(t, "amd").fold(byHand{}), " ")
	for _, name := range []string{ConsoleLog, KmsgLog, TraceLog} {
		assert.Assert(t, is.Contains(args, "by-hand."+name))
		assert.Assert(t, !strings.Contains(strings.ReplaceAll(args, "by-hand."+name, ""), name), name)
	}
	assert.Assert(t, !strings.Contains(args, "fd="))
}

// The user's words come last: a kernel takes the last of two.
func TestCmdlineOrder(t *testing.T) {
	args := full(t, "intel").Args()
	words := strings.Fields(args[slices.Index(args, "-append")+1])
	assert.Assert(t, slices.Index(words, "loglevel=7") < slices.Index(words, "loglevel=8"))
	assert.Assert(t, slices.Contains(words, "intel_iommu=on"))
}

func TestNativeHotplug(t *testing.T) {
	const word = "acpi-pci-hotplug-with-bridge-support=off"
	m := full(t, "intel")
	assert.Assert(t, !strings.Contains(strings.Join(m.Args(), " "), word))
	m.NativeHotplug = true
	assert.Assert(t, is.Contains(strings.Join(m.Args(), " "), "-global ICH9-LPC."+word))
}

func TestNoIntRemap(t *testing.T) {
	for _, name := range Names() {
		m := full(t, name)
		m.NoIntRemap = true
		assert.NilError(t, m.Validate())
		args := strings.Join(m.Args(), " ")
		assert.Assert(t, !strings.Contains(args, "intremap=on"), name)
		assert.Equal(t, strings.Contains(args, "-iommu,intremap=off"), name == "intel" || name == "amd", name)
	}
}

// A device that belongs to a subsystem finds one under the name that it asks for.
func TestNVMeSubsystem(t *testing.T) {
	m := full(t, "intel")
	assert.Assert(t, !strings.Contains(strings.Join(m.Args(), " "), "nvme-subsys"))
	m.NVMeSubsystem = true
	assert.Assert(t, is.Contains(strings.Join(m.Args(), " "), "-device nvme-subsys,id=nvmes "))
	d, err := DeviceNamed("nvme-sriov")
	assert.NilError(t, err)
	assert.Assert(t, d.NVMeSubsystem)
	assert.Equal(t, d.Add("dut1", 1)["subsys"], "nvmes")
}

func TestFDs(t *testing.T) {
	m := full(t, "none")
	assert.DeepEqual(t, m.FDs(), []string{"qmp", "nestbed.control", "nestbed.ssh", "nestbed.shell"})
	args := strings.Join(m.Args(), " ")
	assert.Assert(t, is.Contains(args, "socket,id=qmp,fd=3 "))
	assert.Assert(t, is.Contains(args, "socket,id=channel3,fd=6 -device virtserialport,bus=serials.0,chardev=channel3,name=nestbed.shell"))
}

func TestNamed(t *testing.T) {
	assert.DeepEqual(t, Names(), []string{"intel", "amd", "virtio", "none"})
	_, err := Named("sparc")
	assert.Error(t, err, `unknown machine "sparc", there are: intel, amd, virtio, none`)
	m, err := Named("amd")
	assert.NilError(t, err)
	assert.DeepEqual(t, m, Machine{Name: "amd", Accel: TCG, IOMMU: AMDIOMMU, MemoryMB: 512, VCPUs: 1, RootPorts: 4})
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*Machine){
		`unknown accelerator "xen"`:        func(m *Machine) { m.Accel = "xen" },
		`unknown IOMMU "smmu"`:             func(m *Machine) { m.IOMMU = "smmu" },
		`0 MB of memory and 1 vCPUs`:       func(m *Machine) { m.MemoryMB = 0 },
		`512 MB of memory and -1 vCPUs`:    func(m *Machine) { m.VCPUs = -1 },
		`15 root ports, at most 14 fit`:    func(m *Machine) { m.RootPorts = 15 },
		`-1 root ports`:                    func(m *Machine) { m.RootPorts = -1 },
		`but no kernel`:                    func(m *Machine) { m.Kernel = "" },
		`bad channel name "a,path=/etc/x"`: func(m *Machine) { m.Channels = []string{"a,path=/etc/x"} },
		`bad channel name ""`:              func(m *Machine) { m.Channels = []string{""} },
		`two channels of one name`:         func(m *Machine) { m.Channels = []string{"a", "b", "a"} },
		`line break in "a\nb"`:             func(m *Machine) { m.Cmdline = []string{"a\nb"} },
		`line break in "/boot/\nvmlinuz"`:  func(m *Machine) { m.Kernel = "/boot/\nvmlinuz" },
	} {
		m := full(t, "intel")
		change(&m)
		assert.ErrorContains(t, m.Validate(), want)
	}
	for _, name := range Names() {
		assert.NilError(t, full(t, name).Validate())
	}
}

// Root ports, IOMMU and serial bus share the root bus: no address twice, none of the chipset's.
func TestAddresses(t *testing.T) {
	m := full(t, "virtio")
	m.RootPorts = MaxRootPorts
	seen := map[string]bool{"00.0": true, "1f.0": true}
	for _, a := range m.Args() {
		_, addr, ok := strings.Cut(a, "addr=")
		assert.Assert(t, !ok || !seen[addr], a)
		seen[addr] = true
	}
	assert.Assert(t, seen["1d.0"])
}

func TestDevices(t *testing.T) {
	d, err := DeviceNamed("virtio-net-pci")
	assert.NilError(t, err)
	assert.DeepEqual(t, d.Add("net1", 2), map[string]any{
		"driver": "virtio-net-pci", "id": "net1", "bus": "port2", "romfile": "", "disable-legacy": "on", "iommu_platform": true,
	})
	_, again := d.Props["driver"]
	assert.Assert(t, !again, "Add changed the device")
	_, err = DeviceNamed("gpu")
	assert.Error(t, err, `unknown device "gpu", there are: edu, nvme, nvme-sriov, e1000e, igb, pci-testdev, virtio-net-pci`)
}

func TestDrivers(t *testing.T) {
	assert.DeepEqual(t, Drivers(), []string{
		"amd-iommu", "e1000e", "edu", "igb", "intel-iommu", "nvme", "pci-testdev", "pcie-root-port", "pvpanic",
		"virtio-iommu-pci", "virtio-net-pci", "virtio-serial-pci", "virtserialport", "vmgenid",
	})
}
