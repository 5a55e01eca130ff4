package console

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"github.com/nestbed/nestbed/results/record"
)

// Real logs, with what must be found in them: the leader and its followers.
var realLogs = map[string][]string{
	"clean-debian-5.10.223-intel.log":    nil,
	"clean-debian-6.1.192-intel.log":     nil,
	"kvm-unusable-emulation-failure.log": nil,
	"kvm-unusable-msr-assert.log":        nil,
	"l1-debian-6.12.117-intel.log": {
		"BUG: Objects remaining in kvm_vcpu on __kmem_cache_shutdown()",
		"WARNING in kvm_exit",
		"BUG: Objects remaining in kvm_mmu_page_header on __kmem_cache_shutdown()",
		"WARNING in kvm_mmu_vendor_module_exit",
		"BUG: Objects remaining in x86_emulator on __kmem_cache_shutdown()",
		"WARNING in kvm_x86_vendor_exit",
		"BUG: unable to handle kernel NULL pointer dereference in simple_recursive_removal",
	},
	"l1-debian-7.3.4-intel.log": {
		"BUG: Objects remaining in kvm_vcpu on __kmem_cache_shutdown()",
		"WARNING in kvm_exit",
		"BUG: Objects remaining in kvm_mmu_page_header on __kmem_cache_shutdown()",
		"WARNING in kvm_mmu_vendor_module_exit",
		"BUG: Objects remaining in x86_emulator on __kmem_cache_shutdown()",
		"WARNING in kvm_x86_vendor_exit",
		"BUG: unable to handle kernel NULL pointer dereference in __simple_recursive_removal",
	},
	"l1-debian-6.12.117-amd-panic-recursion.log": {
		"BUG: Objects remaining in kvm_vcpu on __kmem_cache_shutdown()",
		"WARNING in kvm_exit",
		"BUG: Objects remaining in kvm_mmu_page_header on __kmem_cache_shutdown()",
		"WARNING in kvm_mmu_vendor_module_exit",
		"BUG: Objects remaining in x86_emulator on __kmem_cache_shutdown()",
		"WARNING in kvm_x86_vendor_exit",
		"BUG: unable to handle kernel NULL pointer dereference in simple_recursive_removal",
		"BUG: unable to handle kernel paging request in simple_recursive_removal",
		"BUG: unable to handle kernel paging request in corrupted",
		"BUG: stack guard page was hit in number",
	},
	"l1-built-6.12.117-intel-oops-panic.log": { // the console's level kept the WARNs off the serial line
		"BUG: Objects remaining in kvm_vcpu on __kmem_cache_shutdown()",
		"BUG: Objects remaining in pte_list_desc on __kmem_cache_shutdown()",
		"BUG: Objects remaining in kvm_mmu_page_header on __kmem_cache_shutdown()",
		"BUG: Objects remaining in x86_emulator on __kmem_cache_shutdown()",
		"BUG: unable to handle kernel NULL pointer dereference in simple_recursive_removal",
		"BUG: unable to handle kernel paging request in simple_recursive_removal",
		"BUG: unable to handle kernel paging request in corrupted",
		"BUG: stack guard page was hit in number",
	},
}

func TestRealLogs(t *testing.T) {
	files, err := filepath.Glob("testdata/*.log")
	assert.NilError(t, err)
	assert.Equal(t, len(files), len(realLogs), "each real log has its expected titles")
	for name, want := range realLogs {
		t.Run(name, func(t *testing.T) {
			log, err := os.ReadFile("testdata/" + name)
			assert.NilError(t, err)
			reports := Parse(log)
			var got []string
			for _, r := range reports {
				got = append(got, r.Title)
				for _, f := range r.Followers {
					got = append(got, f.Title)
				}
			}
			assert.DeepEqual(t, got, want)
			if len(want) == 0 {
				return
			}
			assert.Equal(t, len(reports), 1, "one group")
			golden.Assert(t, describe(reports), name+".golden")
			for _, r := range reports {
				checkReport(t, r, log)
			}
		})
	}
}

// The logs of provoked are real: what kernels print when they are made to (nestbed run 'detect-*'), from the
// provocation to the guest's end, the registers of user space and the lines of others left as they came. The first
// title is the report's, the others are those of its followers.
var provokedLogs = map[string][]string{
	"access-userspace-6.12-kasan":       {"general protection fault in lkdtm_ACCESS_USERSPACE"},
	"bpf-soft-lockup-debian-5.10":       {"BUG: soft lockup in bpf"},
	"bpf-soft-lockup-debian-6.12":       {"BUG: soft lockup in sys_bpf"},
	"bpf-soft-lockup-debian-7.3":        {"BUG: soft lockup in sys_bpf"},
	"bug-6.12-base":                     {"kernel BUG in lkdtm_BUG"},
	"bug-in-hardirq-7.3-base":           {"kernel BUG in bug_in_hardirq"},
	"corrupt-list-add-7.3-base":         {"WARNING: corrupted list in lkdtm_CORRUPT_LIST_ADD"},
	"corrupt-list-del-6.12-base":        {"WARNING: corrupted list in lkdtm_CORRUPT_LIST_DEL"},
	"exception-6.12-base":               {"BUG: unable to handle kernel NULL pointer dereference in lkdtm_EXCEPTION"},
	"exception-6.12-kasan":              {"general protection fault in lkdtm_EXCEPTION"},
	"exec-data-6.12-base":               {"BUG: unable to handle kernel paging request in corrupted"},
	"exec-data-6.12-kasan":              {"BUG: unable to handle kernel paging request in data_area"},
	"fortify-strscpy-6.12-kasan":        {"KASAN: stack-out-of-bounds Write in lkdtm_FORTIFY_STRSCPY"},
	"hung-task-6.12-base":               {"INFO: task hung in lkdtm_HUNG_TASK"},
	"hung-task-6.12-kasan":              {"INFO: task hung in lkdtm_HUNG_TASK"},
	"hung-task-7.3-base":                {"INFO: task hung in lkdtm_HUNG_TASK"},
	"panic-6.12-base":                   {"kernel panic: dumptest"},
	"panic-in-hardirq-7.3-base":         {"kernel panic: from hard IRQ context"},
	"pipe-hung-task-debian-6.12":        {"INFO: task hung in pipe_write"},
	"pipe-hung-task-debian-7.3":         {"INFO: task hung in anon_pipe_write"},
	"refcount-inc-zero-6.12-base":       {"WARNING: refcount bug in lkdtm_REFCOUNT_INC_ZERO"},
	"refcount-inc-zero-7.3-base":        {"WARNING: refcount bug in lkdtm_REFCOUNT_INC_ZERO"},
	"slab-free-double-6.12-kasan":       {"KASAN: invalid-free in lkdtm_do_action"},
	"slab-linear-overflow-6.12-kasan":   {"KASAN: slab-out-of-bounds Write in lkdtm_SLAB_LINEAR_OVERFLOW"},
	"softlockup-6.12-kasan":             {"BUG: soft lockup in full_proxy_write"},
	"softlockup-7.3-base":               {"BUG: soft lockup in full_proxy_write"},
	"spinlockup-6.12-base":              {"BUG: scheduling while atomic in syscall_exit_to_user_mode", "BUG: soft lockup in full_proxy_write"},
	"spinlockup-6.12-kasan":             {"WARNING: lock held when returning to user space in lkdtm_do_action", "BUG: sleeping function called from invalid context in __fput", "BUG: scheduling while atomic in do_nanosleep", "BUG: soft lockup in full_proxy_write"},
	"spinlockup-7.3-base":               {"BUG: scheduling while atomic in do_nanosleep", "BUG: soft lockup in full_proxy_write"},
	"sysrq-c-debian-6.12":               {"kernel panic: sysrq triggered crash"},
	"unset-smep-6.12-base":              {"WARNING in native_write_cr4"},
	"vmalloc-linear-overflow-6.12-base": {"BUG: unable to handle kernel paging request in lkdtm_VMALLOC_LINEAR_OVERFLOW"},
	"warning-6.12-base":                 {"WARNING in lkdtm_WARNING"},
	"warning-7.3-base":                  {"WARNING in lkdtm_WARNING"},
	"warning-message-6.12-kasan":        {"WARNING in lkdtm_WARNING_MESSAGE"},
	"write-after-free-6.12-kasan":       {"KASAN: slab-use-after-free Write in lkdtm_WRITE_AFTER_FREE"},
	"write-ro-6.12-base":                {"BUG: unable to handle kernel paging request in lkdtm_WRITE_RO"},
}

func TestProvokedLogs(t *testing.T) {
	files, err := filepath.Glob("testdata/provoked/*.log")
	assert.NilError(t, err)
	assert.Equal(t, len(files), len(provokedLogs), "each log has its expected titles")
	for name, want := range provokedLogs {
		t.Run(name, func(t *testing.T) {
			log, err := os.ReadFile("testdata/provoked/" + name + ".log")
			assert.NilError(t, err)
			reports := Parse(log)
			assert.Equal(t, len(reports), 1, describe(reports))
			got := []string{reports[0].Title}
			for _, f := range reports[0].Followers {
				got = append(got, f.Title)
			}
			assert.DeepEqual(t, got, want)
			golden.Assert(t, describe(reports), "provoked/"+name+".golden")
			checkReport(t, reports[0], log)
		})
	}
}

// The logs of classes are written by hand after the words of the kernel's sources, which a stock kernel does
// not say in any order: TITLE and what follows it is what must be found, alone, in the lines below.
func TestClasses(t *testing.T) {
	files, err := filepath.Glob("testdata/classes/*.log")
	assert.NilError(t, err)
	assert.Assert(t, len(files) > 40)
	classes := map[record.Class]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".log"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			assert.NilError(t, err)
			head, log, ok := bytes.Cut(data, []byte("\n\n"))
			assert.Assert(t, ok)
			reports := Parse(log)
			assert.Equal(t, len(reports), 1, describe(reports))
			r := reports[0]
			var title, class, fatal, corrupted string
			for line := range strings.Lines(string(head) + "\n") {
				key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				switch key {
				case "TITLE":
					title = value
				case "CLASS":
					class = value
				case "FATAL":
					fatal = value
				case "CORRUPTED":
					corrupted = value
				}
			}
			assert.Equal(t, r.Title, title)
			assert.Equal(t, string(r.Class), class)
			assert.Equal(t, r.Fatal, fatal == "True")
			assert.Equal(t, r.Corrupted, corrupted == "True")
			assert.Equal(t, len(r.Followers), 0, describe(reports))
			classes[r.Class] = true
			golden.Assert(t, describe(reports), "classes/"+strings.TrimSuffix(filepath.Base(file), ".log")+".golden")
			checkReport(t, r, log)
		})
	}
	for _, c := range []record.Class{
		record.ClassOops, record.ClassBug, record.ClassWarn, record.ClassKASAN, record.ClassUBSAN, record.ClassLockdep, record.ClassRCU,
		record.ClassLockup, record.ClassHung, record.ClassRefcount, record.ClassList, record.ClassLeak, record.ClassIOMMU, record.ClassPanic,
		record.ClassMCE, record.ClassOOM,
	} {
		assert.Check(t, classes[c], "no log of class %s", c)
	}
}

// Reports in the forms of other machines, older kernels and other programs that keep a log, made by hand after
// the kernel's sources: each block's first line has the titles that must be found in the lines below it.
func TestVariety(t *testing.T) {
	files, err := filepath.Glob("testdata/variety/*.txt")
	assert.NilError(t, err)
	assert.Assert(t, len(files) > 3)
	for _, file := range files {
		data, err := os.ReadFile(file)
		assert.NilError(t, err)
		blocks := strings.Split("\n"+string(data), "\n=== ")[1:]
		assert.Assert(t, len(blocks) > 5, file)
		for n, block := range blocks {
			want, log, _ := strings.Cut(block, "\n")
			var got []string
			for _, r := range Parse([]byte(log)) {
				checkReport(t, r, []byte(log))
				got = append(got, r.Title)
				for _, f := range r.Followers {
					got = append(got, f.Title)
				}
			}
			assert.Check(t, strings.Join(got, " ;; ") == want, "%s, block %d:\n got %q\nwant %q", file, n+1, got, want)
		}
	}
}

// One report reads the same in all shapes of a log, and its signature with it.
func TestShapesAgree(t *testing.T) {
	files, err := filepath.Glob("testdata/classes/shape-*.log")
	assert.NilError(t, err)
	want := ""
	for _, file := range files {
		if strings.Contains(file, "cut-short") {
			continue // its stack trace is shorter, but not its top
		}
		data, err := os.ReadFile(file)
		assert.NilError(t, err)
		_, log, _ := bytes.Cut(data, []byte("\n\n"))
		r := Parse(log)[0]
		if want == "" {
			want = r.Signature
		}
		assert.Check(t, r.Signature == want, file)
		assert.Check(t, slices.Equal(r.Frames[:3], []string{"kvm_put_kvm", "kvm_vm_release", "__fput"}), "%s: %v", file, r.Frames)
		assert.Check(t, slices.Equal(r.Modules[:3], []string{"kvm", "kvm", ""}), "%s: %v", file, r.Modules)
		assert.Check(t, r.CPU == 1 && r.PID == 87 && r.Comm == "agent", file)
	}
}

// A kernel that stamps its lines does not say what a program prints without a stamp.
func TestProgramsCannotForgeReports(t *testing.T) {
	log := "[    0.000000] Linux version 6.12.117\nBUG: kernel NULL pointer dereference, address: 0000000000000098\n[    1.000000] reboot: Power down\n"
	assert.Equal(t, len(Parse([]byte(log))), 0)
}

// Frames after ? are leftovers on the stack and name nobody.
func TestUnsureFramesDoNotName(t *testing.T) {
	log := `BUG: kernel NULL pointer dereference, address: 0000000000000098
Oops: Oops: 0000 [#1] SMP
CPU: 0 UID: 0 PID: 1 Comm: init Not tainted 6.12.117 #1
RIP: 0010:down_write+0x20/0x60
Call Trace:
 <TASK>
 ? innocent+0x1/0x2 [kvm]
 guilty+0x3/0x4 [vfio]
 </TASK>
---[ end trace 0000000000000000 ]---
`
	r := Parse([]byte(log))
	assert.Equal(t, r[0].Title, "BUG: unable to handle kernel NULL pointer dereference in guilty")
	assert.DeepEqual(t, r[0].Frames, []string{"down_write", "guilty"})
	assert.Equal(t, r[0].Top, 1)
}

func TestSignatureIgnoresAddressesAndLines(t *testing.T) {
	data, err := os.ReadFile("testdata/classes/warn-5.10.log")
	assert.NilError(t, err)
	other := strings.NewReplacer("+0x1b2/0x2f0", "+0x1c3/0x310", "kvm_main.c:812", "kvm_main.c:899", "__fput+0x92/0x240", "__fput.part.0+0x92/0x240").Replace(string(data))
	assert.Assert(t, other != string(data))
	assert.Equal(t, Parse([]byte(other))[0].Signature, Parse(data)[0].Signature)
}

// What follows the first report is grouped under it; an IOMMU fault leads nothing and follows only the dead.
func TestGroups(t *testing.T) {
	part := func(name string) string {
		data, err := os.ReadFile("testdata/classes/" + name + ".log")
		assert.NilError(t, err)
		_, log, _ := strings.Cut(string(data), "\n\n")
		return log
	}
	r := Parse([]byte(part("dmar-6.12") + part("warn-5.10") + part("virtio-iommu") + part("warn-5.10") + part("freed-text") + part("amd-vi")))
	var got []string
	for _, lead := range r {
		got = append(got, lead.Title)
		for _, f := range lead.Followers {
			got = append(got, "- "+f.Title)
		}
	}
	assert.DeepEqual(t, got, []string{
		"IOMMU fault: DMAR: DMA Write PTE Write access is not set",
		"WARNING in kvm_put_kvm",
		"- BUG: unable to handle kernel paging request in kvm_put_kvm",
		"IOMMU fault: virtio-iommu: page fault",
		"IOMMU fault: AMD-Vi: IO_PAGE_FAULT",
	})
}

func TestPanicOfAnEarlierReportIsNoReport(t *testing.T) {
	data, err := os.ReadFile("testdata/classes/freed-text.log")
	assert.NilError(t, err)
	log := string(data) + "[   12.400000] Kernel panic - not syncing: Fatal exception\n[   12.400001] ---[ end Kernel panic - not syncing: Fatal exception ]---\n"
	r := Parse([]byte(log))
	assert.Equal(t, len(r), 1)
	assert.Equal(t, len(r[0].Followers), 0)

	// A report that is not fatal in itself does not hide the end of the kernel.
	data, err = os.ReadFile("testdata/classes/kasan-uaf.log")
	assert.NilError(t, err)
	r = Parse([]byte(string(data) + "[   12.400000] Kernel panic - not syncing: kasan.fault=panic set ...\n"))
	assert.Equal(t, len(r[0].Followers), 1)
	assert.Assert(t, r[0].Followers[0].Fatal)
}

// Two tasks report at once: the caller tells their lines apart.
func TestTwoReportsInterleaved(t *testing.T) {
	task := func(caller, fn string) []string {
		lines := []string{
			"------------[ cut here ]------------", "WARNING: CPU: 0 PID: 1 at mm/x.c:1 " + fn + "+0x1/0x2 [kvm]",
			"CPU: 0 UID: 0 PID: 1 Comm: x Not tainted 6.12.117 #1", "RIP: 0010:" + fn + "+0x1/0x2 [kvm]", "Call Trace:", " <TASK>",
			" " + fn + "_caller+0x3/0x4 [kvm]", " </TASK>", "---[ end trace 0000000000000000 ]---",
		}
		for i := range lines {
			lines[i] = fmt.Sprintf("[    1.%06d][%6s] %s", i, caller, lines[i])
		}
		return lines
	}
	a, b := task("T1", "left"), task("T2", "right")
	var log strings.Builder
	for i := range a {
		fmt.Fprintln(&log, a[i])
		fmt.Fprintln(&log, b[i])
	}
	r := Parse([]byte(log.String()))
	assert.Equal(t, r[0].Title, "WARNING in left")
	assert.DeepEqual(t, r[0].Frames, []string{"left", "left_caller"})
	assert.Equal(t, r[0].Followers[0].Title, "WARNING in right")
	assert.DeepEqual(t, r[0].Followers[0].Frames, []string{"right", "right_caller"})
}

func TestBoundedInEverything(t *testing.T) {
	var log bytes.Buffer
	for i := range 500 { // endless distinct reports
		fmt.Fprintf(&log, "------------[ cut here ]------------\nWARNING: CPU: 0 PID: 1 at a.c:1 f%sx+0x1/0x2\nRIP: 0010:f%sx+0x1/0x2\nCall Trace:\n", letters(i), letters(i))
		for j := range 200 {
			fmt.Fprintf(&log, " g%d+0x1/0x2\n", j)
		}
		fmt.Fprintln(&log, "---[ end trace 0 ]---")
	}
	r := Parse(log.Bytes())
	assert.Equal(t, len(r), 1)
	assert.Equal(t, len(r[0].Followers), maxFollowers)
	assert.Equal(t, len(r[0].Frames), maxFrames)
	assert.Equal(t, len(r[0].Head), maxHead)

	long := Parse([]byte("[    1.000000] BUG: " + strings.Repeat("long words ", 1<<16) + "\n"))
	assert.Assert(t, len(long[0].Title) <= maxTitle+8)
}

func letters(i int) string { return string(rune('a'+i%26)) + string(rune('a'+i/26)) }

func TestSanitize(t *testing.T) {
	for in, want := range map[string]string{
		"plain":               "plain",
		"a\tb":                "a b",
		"\x1b[31mred\x1b[0m":  `\x1b[31mred\x1b[0m`,
		"bell\a\r\n":          `bell\x07\x0d\x0a`,
		"\xff\xfe":            `\xff\xfe`,
		"c1 \u009b31m":        `c1 \u009b31m`,
		"bidi \u202e evil":    `bidi \u202e evil`,
		"zero\u200bwidth":     `zero\u200bwidth`,
		"naïve 漢字":            "naïve 漢字",
		"nul\x00del\x7f":      `nul\x00del\x7f`,
		"line\u2028separator": `line\u2028separator`,
	} {
		assert.Equal(t, Sanitize(in), want)
	}
}

func TestLastLine(t *testing.T) {
	assert.Equal(t, LastLine([]byte("[    0.1] x\n[    1.234567] ACPI: \x1b[2J enabled\r\n\r\n\n")), `ACPI: \x1b[2J enabled`)
	assert.Equal(t, LastLine([]byte("Probing EDD (edd=off to disable)... ok")), "Probing EDD (edd=off to disable)... ok")
	assert.Equal(t, LastLine(nil), "")
	assert.Equal(t, LastLine([]byte("\n\n\r\n")), "")
}

func TestTail(t *testing.T) {
	assert.DeepEqual(t, Tail([]byte("[    0.100000] x\n\r\n[    1.234567] ACPI: \x1b[2J enabled\r\ncut")), []string{"x", `ACPI: \x1b[2J enabled`, "cut"})
	assert.Equal(t, len(Tail(nil)), 0)
	var log []byte
	for i := range 20000 {
		log = fmt.Appendf(log, "[%5d.000000] line %d %s\n", i, i, strings.Repeat("y", 400))
	}
	tail := Tail(log)
	assert.Equal(t, len(tail), tailLines)
	assert.Assert(t, strings.HasPrefix(tail[tailLines-1], "line 19999 y"))
	assert.Assert(t, len(tail[0]) <= 240)
}

func TestKVMUnusable(t *testing.T) {
	for name, want := range map[string]string{
		"kvm-unusable-emulation-failure.log": "KVM cannot run the guest's first instructions: emulation failure",
		"kvm-unusable-msr-assert.log":        "KVM refuses a model-specific register of this CPU model: failed to set MSR 0x10a to 0x69",
		"clean-debian-6.1.192-intel.log":     "",
		"l1-debian-6.12.117-intel.log":       "",
	} {
		log, err := os.ReadFile("testdata/" + name)
		assert.NilError(t, err)
		reason, ok := KVMUnusable(log)
		assert.Equal(t, reason, want)
		assert.Equal(t, ok, want != "")
	}
}

// checkReport holds for every report whatever the log.
func checkReport(t *testing.T, r record.Report, log []byte) {
	t.Helper()
	lines := bytes.Count(log, []byte("\n")) + 1
	assert.Assert(t, r.Title != "" && r.Class != "" && len(r.Signature) == 16, "%+v", r)
	assert.Assert(t, 1 <= r.Line && r.Line <= r.EndLine && r.EndLine <= lines, "lines %d to %d of %d", r.Line, r.EndLine, lines)
	assert.Assert(t, len(r.Frames) == len(r.Modules) && len(r.Frames) <= maxFrames && len(r.Head) <= maxHead && len(r.Followers) <= maxFollowers)
	for _, text := range append([]string{r.Title, r.Comm, r.Tainted}, slices.Concat(r.Head, r.Frames, r.Modules)...) {
		bad := strings.IndexFunc(text, func(c rune) bool { return c != ' ' && !unicode.IsPrint(c) })
		assert.Assert(t, bad < 0 && len(text) < 2048, "unclean %s", strconv.Quote(text))
	}
	for _, f := range r.Followers {
		assert.Assert(t, f.Line >= r.Line && len(f.Followers) == 0)
		checkReport(t, f, log)
	}
}

func describe(reports []record.Report) string {
	var b strings.Builder
	for _, r := range reports {
		fmt.Fprintf(&b, "%s\n  class %s, fatal %v, cpu %d, pid %d, comm %q, tainted %q, lines %d to %d, signature %s\n",
			r.Title, r.Class, r.Fatal, r.CPU, r.PID, r.Comm, r.Tainted, r.Line, r.EndLine, r.Signature)
		for i, f := range r.Frames {
			fmt.Fprintf(&b, "  frame %s", f)
			if r.Modules[i] != "" {
				fmt.Fprintf(&b, " [%s]", r.Modules[i])
			}
			fmt.Fprintln(&b)
		}
		for _, h := range r.Head {
			fmt.Fprintf(&b, "  | %s\n", h)
		}
		for line := range strings.Lines(describe(r.Followers)) {
			b.WriteString("    " + line)
		}
	}
	return b.String()
}

// The report that began first leads, whichever is complete first.
func TestTheFirstLeads(t *testing.T) {
	log := `[    1.000000][    T1] ------------[ cut here ]------------
[    1.000001][    T1] WARNING: CPU: 0 PID: 1 at mm/x.c:1 first+0x1/0x2 [kvm]
[    1.000002][    T2] ------------[ cut here ]------------
[    1.000003][    T2] WARNING: CPU: 1 PID: 2 at mm/x.c:1 second+0x1/0x2 [kvm]
[    1.000004][    T2] ---[ end trace 0000000000000000 ]---
[    1.000005][    T1] ---[ end trace 0000000000000000 ]---
`
	r := Parse([]byte(log))
	assert.Equal(t, r[0].Title, "WARNING in first")
	assert.Equal(t, r[0].Followers[0].Title, "WARNING in second")
}

// In a log without stamps a line may be any program's: a BUG of unknown words counts with a stack trace only, or
// where a log daemon says that the kernel wrote it.
func TestUnknownBugsNeedTheKernel(t *testing.T) {
	trace := "CPU: 0 PID: 1 Comm: init Not tainted 6.12.117 #1\nCall Trace:\n kvm_exit+0x12/0x340 [kvm]\n"
	for log, want := range map[string]int{
		"BUG: the widget is blue\n":                                                0,
		"BUG: the widget is blue\n" + trace:                                        1,
		"[    1.000000] BUG: the widget is blue\n":                                 1,
		"Nov 22 23:01:20 l1 kernel: BUG: the widget is blue\n":                     1,
		"Nov 22 23:01:20 l1 make[12]: BUG: the widget is blue\n":                   0,
		"<3>BUG: the widget is blue\n":                                             1,
		"[2021/07/05, 13:43:52.334] BUG: the widget is blue\n":                     0,
		"2026-09-17T03:25:48.5656375Z BUG: the widget is blue\n":                   0,
		"2026-09-17T03:25:48,565637+00:00 BUG: the widget is blue\n":               1,
		"BUG: Bad rss-counter state mm:00000000aabbccdd type:MM_ANONPAGES val:1\n": 1,
		"[    1.000000] BUG: Bad page state: 12 messages suppressed\n":             0,
	} {
		assert.Equal(t, len(Parse([]byte(log))), want, log)
	}
}
