package machine

import (
	"fmt"
	"strings"

	"github.com/nestbed/nestbed/images/control"
)

// feature is one property of a machine: what it asks of QEMU and what the kernel must be told about it.
type feature interface {
	args() []string
	words() []string
}

// features of the machine, in the order of argv. The IOMMU comes before the devices that it translates.
func (m Machine) features(w wiring) []feature {
	fs := []feature{
		board{name: m.Name, accel: m.Accel, cpu: m.CPU, memoryMB: m.MemoryMB, vcpus: m.VCPUs, memory: m.Memory},
		sandbox{},
		endings{},
		diagnosis{},
		serial{w},
		monitor{w},
		vmgenid{},
		pvpanic{},
	}
	if u := m.iommu(w); u != nil {
		fs = append(fs, u)
	}
	if m.NativeHotplug {
		fs = append(fs, pciehp{})
	}
	if m.NVMeSubsystem {
		fs = append(fs, nvmeSubsystem{})
	}
	return append(fs, channels{w, m.Channels}, rootPorts(m.RootPorts))
}

func (m Machine) iommu(w wiring) feature {
	switch m.IOMMU {
	case IntelIOMMU:
		return intelIOMMU{w, intremap(!m.NoIntRemap)}
	case AMDIOMMU:
		return amdIOMMU{w, intremap(!m.NoIntRemap)}
	case VirtioIOMMU:
		return virtioIOMMU{w}
	}
	return nil
}

// board is the bare machine: a q35 with nothing on it that a scenario does not need.
type board struct {
	name            string
	accel           Accel
	cpu             string
	memoryMB, vcpus int
	memory          Memory
}

func (b board) args() []string {
	accel, cpu := "tcg", b.cpu
	// Interrupt remapping needs the IOAPIC in QEMU.
	if b.accel == KVM {
		accel = "kvm,kernel-irqchip=split"
	}
	switch {
	case cpu != "":
	case b.accel == KVM:
		cpu = "host"
	default:
		// TCG emulates SVM and no VMX, so that the guest's KVM is kvm_amd. Five-level paging would only
		// make every page walk longer.
		cpu = "max,svm=on,la57=off"
	}
	q35 := "q35,usb=off,sata=off,smbus=off,vmport=off,smm=off"
	var memory []string
	if b.memory.File != "" {
		share := "on"
		if b.memory.Private {
			share = "off"
		}
		q35 += ",memory-backend=ram"
		memory = []string{"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM,mem-path=%s,share=%s", b.memoryMB, b.memory.File, share)}
	}
	return append(memory,
		"-name", "nestbed-"+b.name,
		"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", q35,
		"-accel", accel,
		"-cpu", cpu,
		"-smp", fmt.Sprint(b.vcpus),
		"-m", fmt.Sprintf("%dM", b.memoryMB),
	)
}

func (b board) words() []string {
	words := []string{"rdinit=/init", "nokaslr"}
	if b.accel != KVM {
		// On a busy host the emulated timer can miss the few ticks that the kernel's check waits for;
		// the check then panics. Kernels that see KVM skip it by themselves.
		words = append(words, "no_timer_check")
		// The kernel tests its own ciphers while it boots, and measures this CPU's jitter: 1 s of a stock
		// 6.12's 6, and nothing here depends on either.
		words = append(words, "cryptomgr.notests", "initcall_blacklist=jent_mod_init")
	}
	return words
}

// sandbox keeps a QEMU that its guest has taken over from starting anything else. spawn=deny also means that
// a migration goes through a descriptor, never through exec:.
type sandbox struct{}

func (sandbox) args() []string {
	return []string{"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"}
}
func (sandbox) words() []string { return nil }

// endings says how a guest ends. A reset or a power-off ends QEMU, each with a SHUTDOWN event that names the
// reason. A panic is an event only: QEMU must go on, because the kernel prints after it has told pvpanic.
// The kernel resets at once after a panic, if it still can; the host ends it if it cannot.
type endings struct{}

func (endings) args() []string {
	return []string{"-action", "reboot=shutdown,shutdown=poweroff,panic=none"}
}
func (endings) words() []string { return []string{"panic=-1"} }

// diagnosis makes the kernel say what is wrong and live on for as long as it can, so that the reference
// counts can still be read after an oops. Sysctls are given as kernel words because they cover a kernel that
// was configured otherwise, whether the code is in a module or not.
type diagnosis struct{}

func (diagnosis) args() []string { return nil }
func (diagnosis) words() []string {
	return []string{
		"sysctl.kernel.panic_on_oops=0",
		"sysctl.kernel.panic_on_warn=0",
		"sysctl.kernel.hung_task_panic=0",
		"sysctl.kernel.hung_task_timeout_secs=10",
		// A CPU that is stuck is the guest's only one. Since the 8250 console prints from a task of its own (7.x),
		// nothing but the panic gets the report of a soft lockup out.
		"sysctl.kernel.softlockup_panic=1",
		// The host asks a silent guest by NMI: the kernel dumps all CPUs and panics.
		"unknown_nmi_panic", "panic_print=0x40", "sysrq_always_enabled",
	}
}

// serial is the console. QEMU writes the log itself, so that nothing is lost when the harness is slow or gone.
type serial struct{ w wiring }

func (s serial) args() []string { return append(s.w.console(), "-serial", "chardev:serial") }
func (serial) words() []string {
	// earlyprintk shows what a kernel says that dies before it has a console. printk.time is for kernels that were
	// configured without CONFIG_PRINTK_TIME.
	return []string{"console=ttyS0,115200", "earlyprintk=ttyS0,115200", "loglevel=7", "printk.time=1"}
}

// monitor is QMP on an inherited socket.
type monitor struct{ w wiring }

func (m monitor) args() []string {
	return append(m.w.socket("qmp", "qmp", 0), "-mon", "chardev=qmp,mode=control")
}
func (monitor) words() []string { return nil }

// vmgenid tells the kernel that a snapshot was restored, so that two guests do not draw the same random numbers.
type vmgenid struct{}

func (vmgenid) args() []string  { return []string{"-device", "vmgenid,guid=auto"} }
func (vmgenid) words() []string { return nil }

// pvpanic turns a panic into the event GUEST_PANICKED. The ISA device has a driver in every kernel that we
// know; pvpanic-pci only since 5.14.
type pvpanic struct{}

func (pvpanic) args() []string  { return []string{"-device", "pvpanic"} }
func (pvpanic) words() []string { return nil }

// strict makes an unmap take effect at once and every device go through the IOMMU, whatever the
// distribution chose.
func strict(more ...string) []string {
	return append([]string{"iommu.passthrough=0", "iommu.strict=1"}, more...)
}

// intremap says whether an IOMMU remaps interrupts. Without it VFIO refuses a device.
type intremap bool

func (on intremap) String() string {
	if on {
		return "intremap=on"
	}
	return "intremap=off"
}

// intelIOMMU is VT-d.
type intelIOMMU struct {
	w        wiring
	intremap intremap
}

func (u intelIOMMU) args() []string {
	return append([]string{"-device", "intel-iommu," + u.intremap.String()}, u.w.trace("vtd_dmar_fault")...)
}
func (intelIOMMU) words() []string { return strict("intel_iommu=on") }

// amdIOMMU is AMD-Vi. It takes the address 00:01.0 by itself. A device that is on the command line behind a
// root port is never translated (its bus number is fixed at creation): devices are hot-added. QEMU 7.2 has
// no event for a page that is not mapped; what every translation came to is all that it traces.
type amdIOMMU struct {
	w        wiring
	intremap intremap
}

func (u amdIOMMU) args() []string {
	return append([]string{"-device", "amd-iommu," + u.intremap.String()}, u.w.trace("amdvi_translation_result")...)
}
func (amdIOMMU) words() []string { return strict() }

// virtioIOMMU is the paravirtual IOMMU. It has no interrupt remapping.
type virtioIOMMU struct{ w wiring }

func (u virtioIOMMU) args() []string {
	return append([]string{"-device", "virtio-iommu-pci,addr=01.0"}, u.w.trace("virtio_iommu_report_fault")...)
}
func (virtioIOMMU) words() []string { return strict() }

// channels is the virtio-serial bus: the inherited sockets, and the port that carries /dev/kmsg into a file.
type channels struct {
	w     wiring
	names []string
}

func (c channels) args() []string {
	args := []string{"-device", "virtio-serial-pci,id=serials,addr=02.0"}
	port := func(id, name string) []string {
		return []string{"-device", fmt.Sprintf("virtserialport,bus=serials.0,chardev=%s,name=%s", id, name)}
	}
	args = append(args, c.w.kmsg()...)
	args = append(args, port("kmsg", control.PortKmsg)...)
	for i, name := range c.names {
		id := fmt.Sprintf("channel%d", i+1)
		args = append(args, c.w.socket(id, name, i+1)...)
		args = append(args, port(id, name)...)
	}
	return args
}
func (channels) words() []string { return nil }

// pciehp leaves hot-plug to the root ports: q35 does it through ACPI unless told not to.
type pciehp struct{}

func (pciehp) args() []string {
	return []string{"-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"}
}
func (pciehp) words() []string { return nil }

// nvmeSubsystem is what an nvme device with virtual functions shares with them.
type nvmeSubsystem struct{}

const nvmeSubsystemID = "nvmes"

// NVMeSubsystemDriver is QEMU's name for what a Device with NVMeSubsystem belongs to.
const NVMeSubsystemDriver = "nvme-subsys"

func (nvmeSubsystem) args() []string {
	return []string{"-device", NVMeSubsystemDriver + ",id=" + nvmeSubsystemID}
}
func (nvmeSubsystem) words() []string { return nil }

// rootPorts are empty; devices under test are hot-added behind them. Each is a slot of its own, so that each
// device is in an IOMMU group of its own.
type rootPorts int

func (n rootPorts) args() []string {
	var args []string
	for i := range int(n) {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=%s,chassis=%d,slot=%d,addr=%02x.0", PortID(i+1), i+1, i+1, 0x10+i))
	}
	return args
}
func (rootPorts) words() []string { return nil }

// PortID is QEMU's name for the bus behind the n-th root port, counted from 1.
func PortID(n int) string { return fmt.Sprintf("port%d", n) }

// wiring is where a machine's ends go: inherited descriptors and plain files for the harness, listening
// sockets and the terminal for a person.
type wiring interface {
	console() []string
	kmsg() []string
	socket(id, name string, n int) []string // n counts the inherited sockets from 0
	trace(event string) []string
}

// inherited goes on with the logs of a guest's life before if again is set.
type inherited struct{ again bool }

func (in inherited) console() []string { return in.log("serial", ConsoleLog) }
func (in inherited) kmsg() []string    { return in.log("kmsg", KmsgLog) }
func (in inherited) log(id, path string) []string {
	arg := fmt.Sprintf("file,id=%s,path=%s", id, path)
	if in.again {
		arg += ",append=on"
	}
	return []string{"-chardev", arg}
}
func (inherited) socket(id, _ string, n int) []string {
	return []string{"-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, 3+n)}
}
func (inherited) trace(event string) []string { return []string{"-D", TraceLog, "-trace", event} }

type byHand struct{}

const byHandPrefix = "by-hand."

func (byHand) console() []string {
	return []string{"-chardev", "stdio,id=serial,mux=on,signal=off,logfile=" + byHandPrefix + ConsoleLog}
}
func (byHand) kmsg() []string {
	return []string{"-chardev", "file,id=kmsg,path=" + byHandPrefix + KmsgLog}
}
func (byHand) socket(id, name string, _ int) []string {
	return []string{"-chardev", fmt.Sprintf("socket,id=%s,path=%s%s.sock,server=on,wait=off", id, byHandPrefix, strings.TrimPrefix(name, "nestbed."))}
}
func (byHand) trace(event string) []string {
	return []string{"-D", byHandPrefix + TraceLog, "-trace", event}
}
