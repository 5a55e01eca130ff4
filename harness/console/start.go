package console

import (
	"bytes"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/nestbed/nestbed/results/record"
)

// ending says what completes a report.
type ending uint8

const (
	endsAtMark  ending = iota // ---[ end trace ...
	endsAtRule                // a line of =====
	endsAtTrace               // the first line behind its stack trace
	endsAtOnce                // it is one line
)

// start is what a first line tells about a report.
type start struct {
	title  string // without the function
	class  record.Class
	fatal  bool
	ends   ending
	bare   bool   // the title never takes a function
	fn     string // function that the line itself names
	exact  bool   // it is the one, messenger or not
	module string
	cpu    int // -1 when not said
	pid    int
	comm   string
	cut    bool // ---[ cut here ]---: what follows says what it is
	oops   bool // an "Oops:" line may follow as part of it
	slab   bool // a slab report, which may hold a WARNING of its own
	panic  bool
	irq    bool   // frames above an interrupt's entry are the watchdog's
	warn   bool   // a WARN's line, or another that a cut-here line announces
	ud     bool   // BUG_ON's line: the trap that it takes follows
	alone  string // title when no function is found
	inline bool   // the function of the line was inlined: a symbolizer repeats the line for the real one
	pick   pick
	skip   []string // further functions that do not name the report
	from   string   // the stack trace behind a line that holds this names the report
	lock   bool     // "..., at: func" names the report
	part   bool     // the lines in front of it, which say what happened, are missing
	tail   bool     // part of a report unless that one is missing

	vague   bool // its words could be any program's
	takes   bool // with lock: the function at the lock is the one, even if it allocates, unless another stands above it
	rust    bool // Rust's panic, whose message is the next line, before the BUG that it takes
	stalled bool // the work that a stalled pool's first worker is at names the report
}

const cutHere = "------------[ cut here ]------------"

// starts reports whether a kernel's line begins a report. Nearly all lines do not, and are left at the
// first letter.
func starts(text []byte) (start, bool) {
	s := start{cpu: -1}
	if len(text) == 0 {
		return s, false
	}
	if !hasAny(text, firstWords[text[0]]...) {
		return startFault(text)
	}
	switch text[0] {
	case '-':
		if bytes.HasPrefix(text, []byte(cutHere)) {
			s.cut = true
			return s, true
		}
	case 'B':
		if rest, ok := bytes.CutPrefix(text, []byte("BUG: ")); ok {
			return startBug(rest), !bytes.HasSuffix(rest, []byte(" messages suppressed"))
		}
		if rest, ok := bytes.CutPrefix(text, []byte("BUG ")); ok {
			return startSlab(string(rest))
		}
	case 'W':
		if rest, ok := bytes.CutPrefix(text, []byte("WARNING: ")); ok {
			return startWarning(string(rest))
		}
	case 'I':
		if rest, ok := bytes.CutPrefix(text, []byte("INFO: ")); ok {
			return startInfo(string(rest))
		}
		return startRest(string(text))
	case 'r':
		if bytes.HasPrefix(text, []byte("rust_kernel: panicked at ")) {
			s = oops("rust panic")
			s.class, s.rust = record.ClassBug, true
			return s, true
		}
		if rest, ok := bytes.CutPrefix(text, []byte("rcu: INFO: ")); ok {
			return startInfo(string(rest))
		}
		if bytes.Contains(text, []byte(" kthread starved for ")) { // last part of a stall's report
			s, _ := startInfo("rcu: detected stall")
			s.tail, s.part = true, true
			return s, true
		}
		if bytes.HasPrefix(text, []byte("refcount_t: ")) {
			return s, false // the WARNING that follows is the report
		}
	case '[': // up to 4.x: [ INFO: possible ... ] and today [ BUG: Invalid wait context ]
		inner := strings.Trim(string(text[:min(len(text), 100)]), "[] ")
		if rest, ok := strings.CutPrefix(inner, "INFO: "); ok {
			return startLockdep("INFO: ", rest)
		}
		if rest, ok := strings.CutPrefix(inner, "BUG: "); ok {
			return startLockdep("BUG: ", rest)
		}
	case 'w', 'N':
		return startWatchdog(string(text))
	case 'A', 'V', 'm', 'a':
		if st, ok := startRest(string(text)); ok || text[0] != 'a' {
			return st, ok
		}
		return startOops(string(text))
	case 'k':
		// Up to 5.x a hint in front of the fault had no newline.
		if i := bytes.Index(text, []byte("general protection fault: ")); i > 0 && bytes.HasPrefix(text, []byte("kasan: GPF could be caused by")) {
			text = text[i:]
		}
		return startOops(string(text))
	case 'g', 'O', 'i', 'd', 's', 't', 'P', 'U', 'u', 'R', 'b', 'c', 'f', 'o', 'p', 'x', 'e':
		return startOops(string(text))
	case 'K':
		if st, ok := startPanic(string(text)); ok {
			return st, true
		}
		return startOops(string(text))
	case 'C':
		if cpu, rest, ok := bytes.Cut(text, []byte(" Unable to handle kernel ")); ok && bytes.HasPrefix(cpu, []byte("CPU ")) { // mips, loongarch
			return startOops("Unable to handle kernel " + string(rest))
		}
	case 'D':
		if rest, ok := bytes.CutPrefix(text, []byte("DMAR: [")); ok {
			return startDMAR(string(rest))
		}
	case 'v':
		if bytes.HasPrefix(text, []byte("virtio_iommu ")) && bytes.Contains(text, []byte(" fault from EP ")) {
			return iommuFault("virtio-iommu", strings.Fields(after(string(text), ": "))), true
		}
	}
	return startFault(text)
}

// startFault reads an IOMMU's line behind a device's name: "vfio-pci 0000:01:00.0: AMD-Vi: Event logged
// [IO_PAGE_FAULT domain=0x0001 ...".
func startFault(text []byte) (start, bool) {
	open := bytes.IndexByte(text, '[')
	if open > 0 && open+1 < len(text) && text[open+1] == '#' {
		return startDie(text, open)
	}
	if open < 0 || !bytes.HasSuffix(text[:open], []byte("AMD-Vi: Event logged ")) {
		return start{}, false
	}
	kind, _, _ := bytes.Cut(text[open+1:], []byte(" "))
	return iommuFault("AMD-Vi", strings.Fields(string(kind))), true
}

// startDie reads what die() of any machine prints of a trap that is not known by name: "Unhandled kernel unaligned
// access[#1]:", "Oops - illegal instruction [#1]", "Misaligned Access: 0004 [#1] SMP".
func startDie(text []byte, open int) (start, bool) {
	rest := text[open+len("[#"):]
	n := digits(string(rest[:min(len(rest), 4)]))
	if n == 0 || n > 3 || n == len(rest) || rest[n] != ']' || open > 80 {
		return start{}, false
	}
	what := bytes.TrimRight(text[:open], " ")
	if code := bytes.LastIndex(what, []byte(": ")); code > 0 && len(bytes.Trim(what[code+2:], "0123456789abcdef")) == 0 {
		what = what[:code]
	}
	if len(what) < 4 || what[0] < 'A' || what[0] > 'z' {
		return start{}, false
	}
	for flag := range bytes.FieldsSeq(rest[n+1:]) { // SMP, PREEMPT, ARM, KASAN ...
		if len(bytes.Trim(flag, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_():=")) > 0 {
			return start{}, false
		}
	}
	s := oops(plain(string(what)))
	s.vague = true
	return s, true
}

// firstWords are what the first lines of reports begin with, by their first letter.
var firstWords = byLetter([]string{
	"------------[ cut here", "BUG: ", "BUG ", "WARNING: ", "INFO: ", "[ INFO: ", "[ BUG: ", "rcu: INFO: ", "rcu: rcu_", "rcu_", "watchdog: ", "NMI watchdog: ",
	"Internal error: ", "Insufficient stack space", "Alignment trap: ", "VFS: Busy inodes", "VFS: Close: ", "mce: [Hardware Error]: ", "arm-smmu",
	"Kernel panic - ", "Kernel BUG ", "Kernel bug detected", "CPU ", "DMAR: [", "virtio_iommu ", "general protection fault", "stack segment",
	"divide error", "divide_error", "invalid opcode", "int3", "Reserved instruction in kernel code", "illegal operation: ", "kernel stack overflow (",
	"double fault", "traps: PANIC: double fault", "PANIC: double fault", "PANIC: early exception ", "kernel BUG at ", "Unable to handle kernel ", "unregister_netdevice: waiting",
	"sysfs: cannot create duplicate", "kmemleak: ", "unreferenced object 0x", "Out of memory: Kill", "Unhandled fault: ", "UBSAN: ", "Oops", "kasan: GPF could be caused by", "rust_kernel: panicked at ",
}, traps)

func byLetter(lists ...[]string) (words [256][]string) {
	for _, list := range lists {
		for _, w := range list {
			words[w[0]] = append(words[w[0]], w)
		}
	}
	return words
}

func startBug(rest []byte) start {
	text := string(rest)
	s := start{cpu: -1, class: record.ClassBug, ends: endsAtTrace}
	has := func(p string) bool { return strings.HasPrefix(text, p) }
	switch {
	case has("KASAN: "), has("KMSAN: "), has("KCSAN: "), has("KFENCE: "):
		return startSanitizer(text)
	case has("KASan: "): // 4.0 to 4.4
		return startSanitizer(strings.NewReplacer("KASan: use after free", "KASAN: use-after-free", "KASan: out of bounds access", "KASAN: out-of-bounds",
			"KASan: ", "KASAN: ").Replace(text))
	case has("kernel NULL pointer dereference"), has("Kernel NULL pointer dereference"), has("unable to handle kernel NULL pointer dereference"):
		s = oops("BUG: unable to handle kernel NULL pointer dereference")
	case has("unable to handle page fault"), has("unable to handle kernel paging request"), has("Unable to handle kernel data access"),
		has("Unable to handle kernel instruction fetch"):
		s = oops("BUG: unable to handle kernel paging request")
	case has("unable to handle kernel"), has("Unable to handle kernel"):
		s = oops("BUG: unable to handle kernel")
		s.part = true
	case strings.Contains(text, "stack guard page was hit"):
		s = oops("BUG: stack guard page was hit")
		s.pick = pickBefore
	case has("soft lockup"):
		return lockup("BUG: soft lockup", text)
	case has("spinlock "), has("rwlock "), has("rwsem "):
		what, _, _ := strings.Cut(text, " on CPU#")
		s.title, s.skip = "BUG: "+plain(what), skipSpin
		s.task(after(text, ", "))
	case has("sleeping function called from invalid context"):
		s.title = "BUG: sleeping function called from invalid context"
	case has("scheduling while atomic"):
		s.title, s.skip = "BUG: scheduling while atomic", skipSchedule
		if who := strings.Split(after(text, "atomic: "), "/"); len(who) > 2 { // comm/pid/preempt_count
			s.comm, s.pid = strings.Join(who[:len(who)-2], "/"), number(who[len(who)-2])
		}
	case has("using ") && strings.Contains(text, " in preemptible"):
		s.title, s.skip = "BUG: "+plain(text[:strings.Index(text, " in preemptible")])+" in preemptible code", skipPreempt
	case has("Bad page state"), has("Bad page cache"):
		s.title, s.from, s.skip = "BUG: "+text[:len("Bad page state")], "page last allocated", skipPageOwner
	case has("Bad page map"):
		s.title, s.bare = "BUG: Bad page map", true
	case has("Bad rss-counter state"):
		s.title, s.bare, s.ends = "BUG: Bad rss-counter state", true, endsAtOnce
	case has("non-zero ") && strings.Contains(text, " on freeing mm"):
		what, _, _ := strings.Cut(text, " on freeing mm")
		s.title, s.bare, s.ends = "BUG: "+plain(what)+" on freeing mm", true, endsAtOnce
	case has("Dentry ") && strings.Contains(text, " still in use"):
		s.title, s.bare = "BUG: Dentry still in use", true
		if strings.Contains(text, "[unmount of ") {
			s.title += " in unmount"
		}
	case has("workqueue lockup"):
		s.title, s.bare, s.class, s.stalled = "BUG: workqueue lockup", true, record.ClassLockup, true
	case has("workqueue leaked "):
		what, _, _ := strings.Cut(text, ": ")
		s.title = "BUG: " + plain(what)
	case has("memory leak"):
		s.title, s.class, s.skip = "memory leak", record.ClassLeak, skipLeak
	default:
		if l, ok := startLockdep("BUG: ", text); ok {
			return l
		}
		s.title, s.bare, s.vague = "BUG: "+plain(text), true, true
	}
	return s
}

// startSanitizer reads "KASAN: slab-use-after-free in func+0x1/0x2", behind "BUG: ".
func startSanitizer(text string) start {
	s := start{cpu: -1, class: record.ClassKASAN, ends: endsAtRule}
	tool, what, _ := strings.Cut(text, ": ")
	kind, where, ok := strings.Cut(what, " in ")
	if !ok {
		kind, _, _ = strings.Cut(what, " on address")
	}
	switch {
	case tool == "KCSAN": // data-race in A / B
		s.title, s.bare = "KCSAN: "+plain(kind), true
		if ok {
			s.title += " in " + race(where)
		}
		return s
	case tool == "KASAN" && (strings.HasPrefix(kind, "double-free") || strings.HasPrefix(kind, "invalid-free")):
		kind, s.skip = "invalid-free", skipFree // how it was freed before is luck
	case tool == "KMSAN":
		s.skip = skipKMSAN
	}
	s.title = tool + ": " + plain(kind)
	if f, ok := parseFrame([]byte(where)); ok {
		s.fn, s.module, s.inline = f.name, f.module, f.inline
	} else if n := symbol([]byte(where)); n > 0 {
		s.fn = where[:n]
	}
	return s
}

func (s *start) task(who string) {
	if i := strings.LastIndexByte(who, '/'); i > 0 {
		s.comm, s.pid = who[:i], number(who[i+1:])
	}
}

// race makes "A+0x1/0x2 / B+0x3/0x4 [kvm]" into "A / B".
func race(where string) string {
	var names []string
	for side := range strings.SplitSeq(where, " / ") {
		name := side[:symbol([]byte(side))]
		names = append(names, baseName(name))
	}
	return strings.Join(names, " / ")
}

func oops(title string) start {
	return start{title: title, class: record.ClassOops, fatal: true, cpu: -1, oops: true}
}

// startSlab reads "kmalloc-64 (Tainted: G    B): Poison overwritten", behind "BUG ".
func startSlab(rest string) (start, bool) {
	s := start{cpu: -1, class: record.ClassBug, ends: endsAtTrace, slab: true, bare: true}
	cache, tail, ok := strings.Cut(rest, " (")
	taint, what, ok2 := strings.Cut(tail, "): ")
	if !ok || !ok2 || cache == "" || len(cache) > 80 || !strings.HasPrefix(taint, "Tainted") && !strings.HasPrefix(taint, "Not tainted") {
		return s, false
	}
	cache, _, _ = strings.Cut(cache, "(") // a memory cgroup's cache
	switch {
	case strings.HasPrefix(what, "Object already free"):
		s.title = "BUG: Object already free"
	case strings.HasPrefix(what, "Objects remaining"):
		s.title = "BUG: Objects remaining in " + cache + " on __kmem_cache_shutdown()"
	default:
		s.title = "BUG: " + plain(what) + " in " + cache
	}
	return s, true
}

func startWarning(rest string) (start, bool) {
	s := start{cpu: -1, class: record.ClassWarn, title: "WARNING", warn: true}
	if at, ok := strings.CutPrefix(rest, "at "); ok { // up to 3.12: WARNING: at mm/slub.c:1152 __kmem_cache_shutdown+0x246/0x320()
		file, where, ok := strings.Cut(at, " ")
		if !ok || !strings.Contains(file, ":") {
			return s, false
		}
		s.named(file, where)
		return s, true
	}
	// WARNING: CPU: 0 PID: 1 at mm/slub.c:1152 __kmem_cache_shutdown+0x246/0x320 [kvm]
	if strings.HasPrefix(rest, "CPU: ") {
		head, tail, ok := strings.Cut(rest, " at ")
		if !ok || digits(rest[len("CPU: "):]) == 0 {
			return s, false
		}
		f := strings.Fields(head)
		for i := 0; i+1 < len(f); i++ {
			switch f[i] {
			case "CPU:":
				s.cpu = number(f[i+1])
			case "PID:":
				s.pid = number(f[i+1])
			}
		}
		file, where, _ := strings.Cut(tail, " ")
		s.named(file, where)
		return s, true
	}
	// since 6.18: WARNING: mm/slub.c:1268 at __slab_err+0x19/0x20, CPU#0: init/1
	// and [condition] WARNING: ... in front of it
	if file, tail, ok := strings.Cut(rest, " at "); ok {
		if i := strings.LastIndexByte(file, ' '); i >= 0 {
			file = file[i+1:]
		}
		where, who, ok := strings.Cut(tail, ", CPU#")
		if ok && strings.Contains(file, ":") {
			cpu, task, _ := strings.Cut(who, ": ")
			s.cpu = number(cpu)
			if i := strings.LastIndexByte(task, '/'); i > 0 {
				s.comm, s.pid = task[:i], number(task[i+1:])
			}
			s.named(file, where)
			return s, true
		}
	}
	if strings.HasPrefix(rest, "kernel stack ") && strings.Contains(rest, " has bad ") { // the unwinder's
		what, _, _ := strings.Cut(rest, " at ")
		_, value, _ := strings.Cut(rest, " has bad ")
		if end := strings.Index(value, "value"); end >= 0 {
			value = value[:end+len("value")]
		}
		return start{cpu: -1, class: record.ClassWarn, title: "WARNING: " + plain(what+" has bad "+value), bare: true, ends: endsAtOnce}, true
	}
	return startLockdep("WARNING: ", rest)
}

// named tells the WARNs apart whose line is in a helper that many use, by the helper's file.
func (s *start) named(file, where string) {
	if f, ok := parseFrame([]byte(where)); ok {
		s.fn, s.module, s.inline = f.name, f.module, f.inline
	}
	in := func(p string) bool { return strings.HasPrefix(file, p) }
	fn := func(fragments ...string) bool { return matches(s.fn+" ", fragments) }
	switch {
	case in("mm/slub.c:"), in("mm/slab.c:"):
		s.slab = true // told apart by absorbs
	case in("lib/refcount.c:"):
		s.title, s.class, s.skip = "WARNING: refcount bug", record.ClassRefcount, skipRefcount
	case in("lib/debugobjects.c:") && fn("^debug_print_object", "^debug_check_no_obj_freed"): // not a caller that it was inlined into
		s.title, s.skip = "WARNING: ODEBUG bug", skipObject
	case in("mm/usercopy.c:"):
		s.title, s.skip = "WARNING: bad usercopy", skipUserCopy
	case in("lib/kobject.c:"):
		s.title, s.skip = "WARNING: kobject bug", skipKobject
	case in("fs/proc/generic.c:"):
		s.title, s.skip = "WARNING: proc registration bug", skipProc
	case in("kernel/locking/lockdep.c:") && fn("lock_"):
		s.title, s.class, s.skip = "WARNING: locking bug", record.ClassLockdep, skipSock
	case in("mm/vmalloc.c:") && fn("^__vmalloc_node"):
		s.title = "WARNING: zero-size vmalloc"
	case in("mm/") && fn("^kmalloc", "^kvmalloc", "^kzalloc", "^kcalloc", "^vmalloc_fix_flags"):
		s.title, s.skip = "WARNING: kmalloc bug", skipFree
	case fn("^usb_submit_urb"):
		s.skip = skipURB
	}
}

// startLockdep reads the lines of the lock validator, which stand behind WARNING:, BUG: or INFO:.
func startLockdep(tag, rest string) (start, bool) {
	s := start{cpu: -1, class: record.ClassLockdep, ends: endsAtTrace, lock: true}
	has := func(p string) bool { return strings.HasPrefix(rest, p) }
	switch {
	case has("possible circular locking dependency detected"):
		s.title, s.skip = "possible deadlock", skipWork
	case has("possible recursive locking detected"), has("possible irq lock inversion dependency detected"):
		s.title = "possible deadlock"
	case strings.Contains(rest, "-safe -> ") && strings.Contains(rest, "-unsafe lock order detected"):
		s.title, s.from, s.lock = "possible deadlock", "which became ", false
	case has("inconsistent lock state"):
		s.title, s.takes, s.skip = "inconsistent lock state", true, skipSock
	case has("bad unlock balance detected"):
		s.title, s.lock = tag+"bad unlock balance", false
	case has("held lock freed"):
		s.title = tag + "held lock freed"
	case has("bad contention detected"):
		s.title, s.lock = tag+"bad contention", false
	case has("chain_key collision"):
		s.title, s.lock = tag+"chain_key collision", false
	case has("lock held when returning to user space"):
		s.title = tag + "lock held when returning to user space"
	case strings.Contains(rest, " still has locks held!"):
		s.title = tag + "still has locks held"
		who, _, _ := strings.Cut(rest, " still has")
		s.task(who)
	case has("Nested lock was not taken"):
		s.title, s.lock = "WARNING: nested lock was not taken", false
	case has("Invalid wait context"):
		s.title, s.lock, s.skip = "WARNING: locking bug", false, skipSock
	case has("trying to register non-static key"):
		s.title, s.lock, s.skip = "INFO: trying to register non-static key", false, skipKey
	case has("suspicious RCU usage"):
		if tag == "BUG: " {
			tag = "WARNING: "
		}
		s.title, s.class, s.lock, s.skip = tag+"suspicious RCU usage", record.ClassRCU, false, skipRCU
	default:
		return s, false
	}
	return s, true
}

func startInfo(rest string) (start, bool) {
	s := start{cpu: -1, ends: endsAtTrace}
	switch {
	case strings.HasPrefix(rest, "task ") && strings.Contains(rest, " for more than ") &&
		(strings.Contains(rest, " blocked ") || strings.Contains(rest, " can't die ")):
		s.title, s.class, s.pick = "INFO: task hung", record.ClassHung, pickSleep
		who, _, hung := strings.Cut(strings.TrimPrefix(rest, "task "), " blocked ") // since 6.15 also "blocked in I/O wait for"
		if !hung {
			who, _, _ = strings.Cut(who, " can't die ")
			s.title, s.pick, s.skip = "INFO: task can't die", pickFirst, skipSchedule
		}
		if i := strings.LastIndexByte(who, ':'); i > 0 {
			s.comm, s.pid = who[:i], number(who[i+1:])
		}
		return s, true
	case strings.HasPrefix(rest, "rcu") && (strings.Contains(rest, "self-detected stall") || strings.Contains(rest, "detected stall") ||
		strings.Contains(rest, "detected expedited stall")):
		s.title, s.class, s.irq, s.pick, s.skip = "INFO: rcu detected stall", record.ClassRCU, true, pickBefore, skipTimer
		return s, true
	}
	return startLockdep("INFO: ", rest)
}

func startWatchdog(text string) (start, bool) {
	_, rest, ok := strings.Cut(text, "atchdog: ") // watchdog:, NMI watchdog:, watchdog: CPU3:
	if !ok {
		return start{}, false
	}
	if rest, ok := strings.CutPrefix(rest, "BUG: soft lockup"); ok {
		return lockup("BUG: soft lockup", rest), true
	}
	if strings.Contains(rest, "atchdog detected hard LOCKUP on cpu ") {
		s := lockup("BUG: hard lockup", "")
		s.pick = pickFirst // no tick got through: it is stuck right here
		s.cpu = number(after(rest, "on cpu "))
		return s, true
	}
	// powerpc: "CPU 3 self-detected hard LOCKUP @ func+0x1c/0x40", "CPU 3 detected hard LOCKUP on other CPUs 5", and
	// "CPU 5 Hard LOCKUP" of the one that was detected
	if cpu, what, ok := strings.Cut(strings.TrimPrefix(rest, "CPU "), " "); ok && digits(cpu) == len(cpu) && strings.HasPrefix(rest, "CPU ") &&
		(strings.HasPrefix(what, "self-detected hard LOCKUP") || strings.HasPrefix(what, "detected hard LOCKUP") || strings.HasPrefix(what, "Hard LOCKUP")) {
		s := lockup("BUG: hard lockup", "")
		s.pick, s.cpu = pickFirst, number(cpu)
		if f, ok := parseFrame([]byte(after(what, " @ "))); ok {
			s.fn, s.module = f.name, f.module
		}
		return s, true
	}
	return start{}, false
}

// lockup reads " - CPU#0 stuck for 22s! [comm:pid]".
func lockup(title, rest string) start {
	s := start{title: title, class: record.ClassLockup, fatal: true, cpu: -1, ends: endsAtTrace, irq: true, pick: pickBefore}
	if at := after(rest, "CPU#"); at != "" {
		s.cpu = number(at)
	}
	if who, ok := strings.CutSuffix(strings.TrimSpace(after(rest, "! [")), "]"); ok {
		if i := strings.LastIndexByte(who, ':'); i > 0 {
			s.comm, s.pid = who[:i], number(who[i+1:])
		}
	}
	return s
}

// startOops reads what an oops begins with: the words of a trap or a fault. The kernel counts its oopses in the
// line of die(), "Oops: 0000 [#1] SMP", which follows these words or holds them.
func startOops(text string) (start, bool) {
	rest, prefixed := strings.CutPrefix(text, "Oops: ")
	die := prefixed || strings.Contains(rest, "[#") // "divide error: 0000 [#1] SMP"
	has := func(p string) bool { return strings.HasPrefix(rest, p) }
	switch {
	case has("general protection fault") && die:
		return oops("general protection fault"), true
	case has("stack segment") && die:
		return oops("stack segment fault"), true
	case (has("divide error") || has("divide_error")) && die:
		return oops("divide error"), true
	case has("invalid opcode") && die:
		return oops("invalid opcode"), true
	case has("int3") && die:
		return oops("int3"), true
	case (has("Reserved instruction in kernel code") || has("illegal operation: ")) && die: // mips, s390
		return oops("invalid opcode"), true
	case has("kernel stack overflow (") && die: // up to 5.15
		return oops("BUG: stack guard page was hit"), true
	case has("Insufficient stack space to handle exception!"): // arm64, riscv; a panic follows
		return stackOverflow(), true
	case has("double fault") && die, has("traps: PANIC: double fault"), has("PANIC: double fault"):
		return oops("PANIC: double fault"), true
	case has("PANIC: early exception "):
		return oops("PANIC: early exception"), true
	case has("kernel BUG at "):
		s := oops("kernel BUG")
		s.class, s.ud, s.warn, s.skip = record.ClassBug, true, true, skipSKB
		s.alone = strings.TrimSuffix(plain(rest), "!") + "!"
		switch {
		case has("kernel BUG at lib/list_debug.c"):
			s.title, s.class = "BUG: corrupted list", record.ClassList
		case has("kernel BUG at mm/usercopy.c"):
			s.title, s.skip = "BUG: bad usercopy", skipUserCopy
		}
		return s, true
	case has("Unable to handle kernel NULL pointer dereference"):
		return oops("BUG: unable to handle kernel NULL pointer dereference"), true
	case has("Unable to handle kernel access to user memory"):
		return oops("BUG: unable to handle kernel access to user memory"), true
	case has("Unable to handle kernel "):
		return oops("BUG: unable to handle kernel paging request"), true
	case has("unregister_netdevice: waiting for ") && strings.Contains(rest, " to become free"):
		return start{title: "unregister_netdevice: waiting for DEV to become free", class: record.ClassHung, cpu: -1, ends: endsAtOnce, bare: true}, true
	case has("sysfs: cannot create duplicate filename"):
		return start{title: "sysfs: cannot create duplicate filename", class: record.ClassWarn, cpu: -1, ends: endsAtTrace}, true
	case has("kmemleak: ") && strings.Contains(rest, "new suspected memory leaks"):
		return start{title: "memory leak", class: record.ClassLeak, cpu: -1, ends: endsAtOnce, bare: true}, true
	case has("unreferenced object 0x"):
		return start{title: "memory leak", class: record.ClassLeak, cpu: -1, ends: endsAtTrace, skip: skipLeak}, true
	case has("Out of memory: Kill"): // a limit that a cgroup's owner set is no report
		s := start{title: "Out of memory", class: record.ClassOOM, cpu: -1, ends: endsAtOnce, bare: true}
		_, who, _ := strings.Cut(rest, " process ")
		s.pid = number(who)
		comm, _, _ := strings.Cut(after(who, "("), ")")
		s.comm = comm
		return s, true
	case has("Unhandled fault: "):
		return oops("Unhandled fault"), true
	case has("UBSAN: "):
		return startUBSAN(rest), true
	case has("Kernel bug detected[#"), has("Kernel BUG [#"): // mips, riscv
		s := oops("kernel BUG")
		s.class, s.skip = record.ClassBug, skipSKB
		return s, true
	case has("Oops - ") && strings.Contains(rest, "[#"): // riscv
		what, _, _ := strings.Cut(rest, " [#")
		return oops(plain(what)), true
	case (has("Oops") || prefixed) && strings.Contains(rest, "[#"):
		// "Oops: 0000 [#1]" without the BUG: line in front of it, which was lost
		s := oops("Oops")
		s.part = true
		return s, true
	case strings.Contains(rest, "[#") && hasAny([]byte(rest), traps...):
		what, code, _ := strings.Cut(rest, ": ") // "overflow: 0000 [#1] SMP"
		if code, _, _ = strings.Cut(code, " "); len(code) != 4 || strings.Trim(code, "0123456789abcdef") != "" {
			return start{}, false
		}
		return oops(plain(what)), true
	}
	return start{}, false
}

// What other traps that a kernel dies of are called: x86 and s390.
var traps = []string{
	"alignment check", "bounds", "control protection", "coprocessor segment overrun", "invalid TSS", "overflow", "segment not present", "simd exception",
	"x87 FPU exception", "addressing exception", "execute exception", "fixpoint divide exception", "monitor event", "operand exception",
	"privileged operation", "protection exception", "specification exception", "translation exception", "vector exception", "transaction constraint",
}

func stackOverflow() start {
	return start{title: "kernel stack overflow", class: record.ClassPanic, fatal: true, cpu: -1, panic: true, pick: pickBefore, skip: skipStack}
}

// startRest reads what begins with a letter of its own: arm's faults, machine checks, the VFS, an SMMU.
func startRest(text string) (start, bool) {
	has := func(p string) bool { return strings.HasPrefix(text, p) }
	once := start{cpu: -1, ends: endsAtOnce, bare: true, class: record.ClassBug}
	switch {
	case has("Internal error: ") && strings.Contains(text, "[#"):
		return oops("Internal error"), true
	case has("Alignment trap: ") && !strings.Contains(text, " PC=0x"): // that one is a program's
		return oops("Alignment trap"), true
	case has("VFS: Busy inodes after unmount"):
		once.title = "VFS: Busy inodes after unmount (use-after-free)"
	case has("VFS: Close: file count is 0"):
		once.title = "VFS: Close: file count is zero (use-after-free)"
	case has("mce: [Hardware Error]: ") && strings.Contains(text, "Machine Check Exception: "):
		once.title, once.class = "Machine Check Exception", record.ClassMCE
		once.cpu = number(after(text, "CPU "))
	case has("arm-smmu"):
		_, what, _ := strings.Cut(text, ": ")
		switch {
		case strings.HasPrefix(what, "event: "): // since 6.15, decoded
			kind, _, _ := strings.Cut(strings.TrimPrefix(what, "event: "), " ")
			return iommuFault("SMMUv3", []string{kind}), true
		case strings.HasPrefix(what, "event 0x") && strings.Contains(what, " received"):
			kind, _, _ := strings.Cut(what, " received")
			once.title, once.class = "IOMMU fault: SMMUv3: "+kind, record.ClassIOMMU
		case strings.HasPrefix(what, "Unhandled context fault: "):
			return iommuFault("SMMU", []string{"context", "fault"}), true
		default:
			return start{}, false
		}
	default:
		return start{}, false
	}
	return once, true
}

func startUBSAN(text string) start {
	what, _, _ := strings.Cut(strings.TrimPrefix(text, "UBSAN: "), " in ")
	if what == "Undefined behaviour" { // up to 5.9
		what = "undefined-behaviour"
	}
	return start{title: "UBSAN: " + plain(what), class: record.ClassUBSAN, cpu: -1, ends: endsAtTrace, warn: true, skip: skipOverflow}
}

func startPanic(text string) (start, bool) {
	rest, ok := strings.CutPrefix(text, "Kernel panic - not syncing: ")
	if !ok {
		return start{}, false
	}
	s := start{class: record.ClassPanic, fatal: true, cpu: -1, bare: true, panic: true}
	has := func(p string) bool { return strings.HasPrefix(rest, p) }
	switch {
	case has("stack-protector: Kernel stack is corrupted in: "):
		s.title, s.bare, s.skip = "kernel panic: stack is corrupted", false, skipStack
		if f, ok := parseFrame([]byte(after(rest, "corrupted in: "))); ok {
			s.fn, s.module, s.exact = f.name, f.module, true
		}
	case has("corrupted stack end"):
		s.title, s.bare, s.pick, s.skip = "kernel panic: corrupted stack end", false, pickBefore, skipSchedule
	case has("kernel stack overflow"), has("Kernel stack overflow"):
		return stackOverflow(), true
	case has("Attempted to kill init!"):
		s.title = "kernel panic: Attempted to kill init!"
	case has("Fatal exception"), has("panic_on_warn set"), has("hung_task: blocked tasks"):
		what, _, _ := strings.Cut(strings.ReplaceAll(rest, " in interrupt", ""), " ...")
		s.title, s.part = "kernel panic: "+plain(what), true
	default:
		s.title = "kernel panic: " + plain(rest)
		if strings.HasSuffix(rest, " set ...") { // "KASAN: panic_on_warn set ..."
			s.part = true
		}
	}
	return s, true
}

// startDMAR reads "DMA Write NO_PASID] Request device [01:00.0] fault addr 0x200000 [fault reason 0x05] PTE
// Write access is not set", behind "DMAR: [".
func startDMAR(rest string) (start, bool) {
	kind, tail, ok := strings.Cut(rest, "]")
	if !ok || !strings.Contains(tail, "fault ") {
		return start{}, false
	}
	kind = strings.TrimSuffix(strings.TrimSuffix(kind, " NO_PASID"), " PASID")
	why := after(tail, "[fault reason ")
	_, why, _ = strings.Cut(why, "]")
	return iommuFault("DMAR", append(strings.Fields(kind), strings.Fields(why)...)), true
}

func iommuFault(unit string, words []string) start {
	var kept []string
	for _, w := range words[:min(len(words), 12)] {
		switch {
		case strings.HasPrefix(w, "0x"), w == "at", w == "EP", w == "from", w == "[]", number(w) > 0 || w == "0":
		default:
			kept = append(kept, w)
		}
	}
	return start{title: "IOMMU fault: " + unit + ": " + strings.Join(kept, " "), class: record.ClassIOMMU, cpu: -1, ends: endsAtOnce, bare: true}
}

func after(s, sep string) string {
	_, rest, _ := strings.Cut(s, sep)
	return rest
}

// number reads the decimal number at the start of s, 0 when there is none or it is absurd.
func number(s string) int {
	n := 0
	for i := 0; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		if n = n*10 + int(s[i]-'0'); n > 1<<31 {
			return 0
		}
	}
	return n
}

// plain makes free text into a part of a title: one line, addresses as ADDR or IPV6ADDR, long numbers as NUM, functions
// without offsets, files without line numbers.
func plain(text string) string {
	text = bound(text, 2*maxTitle)
	words := strings.Fields(text)
	for i, w := range words {
		if f, ok := parseFrame([]byte(w)); ok {
			words[i] = f.name
			continue
		}
		if strings.Count(w, ":") > 1 {
			if _, err := netip.ParseAddr(w); err == nil {
				words[i] = "IPV6ADDR"
				continue
			}
		}
		var b strings.Builder
		for w != "" {
			n := strings.IndexFunc(w, func(c rune) bool { return c >= 0x80 || !wordByte(byte(c)) })
			if n < 0 {
				n = len(w)
			}
			b.WriteString(number6(w[:n]))
			w = w[n:]
			if w == "" {
				break
			}
			_, size := utf8.DecodeRuneInString(w)
			if w[0] == ':' && b.Len() > 0 && strings.Contains(b.String(), ".") && digits(w[1:]) > 0 {
				b.WriteString(":LINE") // drivers/x.c:123
				size = 1 + digits(w[1:])
			} else {
				b.WriteString(w[:size])
			}
			w = w[size:]
		}
		words[i] = b.String()
	}
	return strings.TrimRight(strings.Join(words, " "), " :")
}

func wordByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// number6 replaces a word that is an address or a long number.
func number6(w string) string {
	hex, prefixed := strings.CutPrefix(w, "0x")
	switch {
	case digits(w) == len(w) && len(w) >= 5:
		return "NUM"
	case len(hex) >= 6 && strings.Trim(hex, "0123456789abcdef") == "" && (prefixed || strings.ContainsAny(hex, "0123456789")):
		return "ADDR"
	}
	return w
}
