package console

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// forms are the ways in which a log of stamped lines reaches a reader.
var forms = map[string]func(n int, stamp, text string) string{
	"no stamps":   func(_ int, _, text string) string { return text + "\n" },
	"task caller": func(_ int, stamp, text string) string { return stamp + "[   T87] " + text + "\n" },
	"CPU caller":  func(_ int, stamp, text string) string { return stamp + "[    C1] " + text + "\n" },
	"level":       func(n int, stamp, text string) string { return fmt.Sprintf("<%d>%s %s\n", n%8, stamp, text) },
	"CRLF":        func(_ int, stamp, text string) string { return stamp + " " + text + "\r\n" },
	"syslog": func(_ int, stamp, text string) string {
		return "Nov 22 23:01:20 l1 kernel: " + stamp + " " + text + "\n"
	},
	"journal":   func(_ int, _, text string) string { return "Nov 22 23:01:20 l1 kernel: " + text + "\n" },
	"monotonic": func(_ int, stamp, text string) string { return stamp + " l1 kernel: " + text + "\n" },
	"RFC 5424": func(_ int, _, text string) string {
		return "<4>1 2026-11-22T23:01:20.345678+00:00 l1 kernel - - - " + text + "\n"
	},
	"dmesg -T": func(_ int, _, text string) string { return "[Sun Nov  2 23:01:20 2026] " + text + "\n" },
	"dmesg -x": func(_ int, stamp, text string) string { return "kern  :warn  : " + stamp + " " + text + "\n" },
	"dmesg in color": func(_ int, stamp, text string) string {
		return "\x1b[32m" + stamp + " \x1b[0m\x1b[31m" + text + "\x1b[0m\n"
	},
	"quoted":       func(_ int, stamp, text string) string { return "> " + stamp + " " + text + "\n" },
	"quoted twice": func(_ int, _, text string) string { return "> > " + text + "\n" },
	"pasted":       func(_ int, _, text string) string { return "      " + text + "\n" },
	"cut before": func(n int, stamp, text string) string {
		if n == 0 {
			return "[   12.000000] usb 1-1: new high-sp" + stamp + " " + text + "\n"
		}
		return stamp + " " + text + "\n"
	},
	"behind a prompt": func(n int, stamp, text string) string {
		if n == 0 {
			return "l1 login: " + stamp + " " + text + "\n"
		}
		return stamp + " " + text + "\n"
	},
}

// A report reads the same in whatever form its log comes.
func TestForms(t *testing.T) {
	files, err := filepath.Glob("testdata/classes/*.log")
	assert.NilError(t, err)
	for _, file := range files {
		if strings.Contains(file, "shape-") {
			continue // it is in a form of its own
		}
		data, err := os.ReadFile(file)
		assert.NilError(t, err)
		_, log, _ := bytes.Cut(data, []byte("\n\n"))
		want := Parse(log)[0]
		for name, form := range forms {
			var b strings.Builder
			n := 0
			for line := range strings.Lines(string(log)) {
				stamp, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "] ")
				if !ok {
					stamp, text = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "]"), ""
				}
				b.WriteString(form(n, stamp+"]", text))
				n++
			}
			got := Parse([]byte(b.String()))
			assert.Equal(t, len(got), 1, "%s, %s:\n%s", file, name, describe(got))
			assert.Check(t, got[0].Title == want.Title && got[0].Signature == want.Signature && got[0].Corrupted == want.Corrupted,
				"%s, %s: %s", file, name, describe(got))
		}
	}
}

// Lines of healthy kernels and of programs that hold the words of a report.
const healthy = `Linux version 6.12.117 (gcc 14.2.0) #1 SMP PREEMPT_DYNAMIC
Command line: console=ttyS0 panic_on_warn=1 oops=panic softlockup_panic=1 nmi_watchdog=panic slub_debug=FZPU BUG: WARNING: kasan.fault=panic
Kernel command line: init=/init systemd.unit="general protection fault: 0000 [#1]" log="Kernel panic - not syncing: x" BUG: unable-to
kasan: KernelAddressSanitizer initialized (generic)
kfence: initialized - using 2097152 bytes for 255 objects at 0x(____ptrval____)-0x(____ptrval____)
kmemleak: Kernel memory leak detector initialized (mem pool available: 15803)
Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar
 per task-struct memory footprint: 2688 bytes
INFO: lockdep is turned off.
rcu: INFO: Stall ended before state dump start
NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.
NMI watchdog: Perf NMI watchdog permanently disabled
watchdog: Delayed init of the lockup detector failed: -19
watchdog: Disabling watchdog on nohz_full cores by default
perf: interrupt took too long (2504 > 2500), lowering kernel.perf_event_max_sample_rate to 79750
INFO: NMI handler (perf_event_nmi_handler) took too long to run: 1.234 msecs
EXT4-fs (sda1): INFO: recovery required on readonly filesystem
rcu: RCU debug extended QS entry/exit.
rcu: 	RCU lockdep checking is enabled.
rcu: 	RCU CPU stall warnings timeout set to 60 (rcu_cpu_stall_timeout).
DMA-API: preallocated 65536 debug entries
DMA-API: debugging enabled by kernel config
page_owner is disabled
ODEBUG: selftest passed
ODEBUG: 2 of 2 active objects replaced
DMAR: DRHD base: 0x000000fed90000 flags: 0x0
DMAR: Intel(R) Virtualization Technology for Directed I/O
AMD-Vi: Interrupt remapping enabled
arm-smmu-v3 arm-smmu-v3.0.auto: ias 44-bit, oas 44-bit (features 0x00000305)
mce: [Hardware Error]: Machine check events logged
MCE: In-kernel MCE decoding enabled.
WARNING: /etc/ssh/moduli does not exist, using fixed modulus
WARNING: Spawning modprobe failed
WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible via Spectre v2 BHB attacks!
warning: 'agent' uses wireless extensions which will stop working for Wi-Fi 7 hardware
WARNING: workqueue cpumask: online intersect > possible intersect
XFS (sda1): WARNING: Reset corrupted AGFL on AG 0
agent[87]: segfault at 0 ip 0000000000401136 sp 00007ffc1b2a3c40 error 6 in agent[401000+1000] likely on CPU 1 (core 1, socket 0)
traps: agent[87] general protection fault ip:401136 sp:7ffc1b2a3c40 error:0 in agent[401000+1000]
traps: agent[87] trap invalid opcode ip:401136 sp:7ffc1b2a3c40 error:0 in agent[401000+1000]
traps: agent[87] trap divide error ip:401136 sp:7ffc1b2a3c40 error:0 in agent[401000+1000]
Memory cgroup out of memory: Killed process 87 (agent) total-vm:1234kB, anon-rss:1024kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:44kB oom_score_adj:0
agent: page allocation failure: order:4, mode:0xcc0(GFP_KERNEL), nodemask=(null),cpuset=/,mems_allowed=0
lkdtm: No crash points registered, enable through debugfs
bug_on_demo: loading out-of-tree module taints kernel.
kernel_bug_at: module verification failed: signature and/or required key missing - tainting kernel
random: crng init done
sysrq: Show Blocked State
systemd[1]: kernel-panic-note.service: Deactivated successfully.
audit: type=1400 audit(1732312345.678:2): name="BUG: KASAN: x" comm="agent"
unregister_netdevice: eth0 is gone
Freeing unused kernel image (initmem) memory: 2612K
Alignment trap: agent (87) PC=0x0001052c Instr=0xe5812000 Address=0x00021029 FSR 0x801
Kernel/User page tables isolation: enabled
Kernel stack randomization is on
Kernel is locked down from EFI Secure Boot mode; see man kernel_lockdown.7
kasan: test: Loaded test module
KCSAN: enabled early
KMSAN: starting testing
UBSAN is enabled
ubsan: test module says nothing
Running RCU self tests
Running RCU Tasks wait API self tests
Callback from call_rcu_tasks() invoked.
rcu_tasks_trace: Setting shift to 1 and lim to 1 rcu_task_cb_adjust=1.
rcu: RCU lockdep checking is enabled.
rcu: INFO: rcu_preempt detected a quiet night
INFO: task scheduler of process 12 blocked signals
WARNING: The mand mount option has been deprecated and will be ignored
WARNING: CPU: fan at low speed
WARNING: at your own risk
BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
double fault handler: installed
kernel BUG is what this prints, at /usr/bin/agent
list_add corruption is what this option finds
invalid opcode emulation is on
Oops: what a pity
general protection fault handling is described in the manual
watchdog: hard lockup detector armed on CPU 0
watchdog: CPU0: Watchdog disabled
NMI backtrace for cpu 0 is what sysrq-l prints
overflow: counters [#1] and [#2] are fine
soft lockup detector: threshold 20s
Unhandled fault handling: see Documentation
CPU 0 is able to handle kernel mode
Internal error recovery is on
unregister_netdevice: wait for the end
Booting the kernel.
reboot: Power down
`

func TestHealthyLinesAreNoReports(t *testing.T) {
	for name, form := range map[string]func(string) string{
		"bare":    func(s string) string { return s },
		"stamped": func(s string) string { return "[    1.234567] " + s },
		"caller":  func(s string) string { return "[    1.234567][    T1] " + s },
		"journal": func(s string) string { return "Nov 22 23:01:20 l1 kernel: " + s },
		"pasted":  func(s string) string { return "    " + s },
		"program": func(s string) string { return "Nov 22 23:01:20 l1 agent[87]: " + s },
	} {
		var all strings.Builder
		for line := range strings.Lines(healthy) {
			assert.Equal(t, len(Parse([]byte(form(line)))), 0, "%s: %s", name, line)
			all.WriteString(form(line))
		}
		assert.Equal(t, len(Parse([]byte(all.String()))), 0, name)
	}
}

// What is cut short says so, and so does a panic whose cause the log lost.
func TestCorrupted(t *testing.T) {
	for log, want := range map[string]string{
		"[    1.000000] BUG: unable to handle page fault for address: ffffc90000a41000\n":                                        "BUG: unable to handle kernel paging request in corrupted",
		"[    1.000000] Kernel panic - not syncing: Fatal exception in interrupt\n":                                              "kernel panic: Fatal exception",
		"[    1.000000] Oops: 0002 [#1] PREEMPT SMP NOPTI\n[    1.000001] RIP: 0010:kvm_put_kvm+0x1/0x2 [kvm]\n":                 "Oops in kvm_put_kvm",
		"[    1.000000] ==================================================================\n[    1.000001] BUG: KASAN: slab-use": "KASAN: slab-use in corrupted",
	} {
		r := Parse([]byte(log))
		assert.Equal(t, len(r), 1, log)
		assert.Equal(t, r[0].Title, want)
		assert.Check(t, r[0].Corrupted, log)
	}
}

// endless gives the same text over and over, with one report in the middle.
type endless struct {
	noise, report []byte
	left          int
	text          []byte
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.text) == 0 {
		if e.left == 0 {
			return 0, os.ErrClosed
		}
		e.left--
		e.text = e.noise
		if e.left == 200 {
			e.text = e.report
		}
	}
	n := copy(p, e.text)
	e.text = e.text[n:]
	return n, nil
}

// A report is found in 32 MB of noise, which Read never holds. The reader's error is the caller's.
func TestReportInNoise(t *testing.T) {
	noise, err := os.ReadFile("testdata/clean-debian-6.1.192-intel.log")
	assert.NilError(t, err)
	data, err := os.ReadFile("testdata/classes/odebug.log")
	assert.NilError(t, err)
	_, report, _ := bytes.Cut(data, []byte("\n\n"))
	got, err := Read(&endless{noise: noise, report: report, left: 1300})
	assert.ErrorIs(t, err, os.ErrClosed)
	assert.Equal(t, len(got), 1)
	assert.Equal(t, got[0].Title, "WARNING: ODEBUG bug in vfio_pci_core_release_dev")
}

// A line that never ends is read to its bound, and the next one is found.
func TestReadBoundsLines(t *testing.T) {
	log := strings.Repeat("x", 1<<20) + "\n" + "unregister_netdevice: waiting for eth0 to become free. Usage count = 2\n"
	got, err := Read(strings.NewReader(log))
	assert.NilError(t, err)
	assert.Equal(t, len(got), 1)
	assert.Equal(t, got[0].Line, 2)
}

// A log that ends anywhere within a report still has the report: titled like the whole one, or corrupted.
func TestCutAnywhere(t *testing.T) {
	files, err := filepath.Glob("testdata/classes/*.log")
	assert.NilError(t, err)
	real, err := filepath.Glob("testdata/provoked/*.log")
	assert.NilError(t, err)
	for _, file := range append(files, real...) {
		log, err := os.ReadFile(file)
		assert.NilError(t, err)
		if bytes.HasPrefix(log, []byte("TITLE: ")) {
			_, log, _ = bytes.Cut(log, []byte("\n\n"))
		}
		whole := Parse(log)[0]
		lines := bytes.SplitAfter(log, []byte("\n"))
		found := false
		for n := range lines {
			got := Parse(bytes.Join(lines[:n+1], nil))
			assert.Check(t, len(got) > 0 || !found, "%s: gone at line %d", file, n+1)
			if len(got) == 0 {
				continue
			}
			found = true
			assert.Check(t, got[0].Title == whole.Title || got[0].Corrupted, "%s, cut at line %d: %s", file, n+1, got[0].Title)
		}
		assert.Check(t, found)
	}
}
