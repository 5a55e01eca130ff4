package console

import (
	"bytes"
	"strings"

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
	module string
	cpu    int // -1 when not said
	pid    int
	comm   string
	cut    bool // ---[ cut here ]---: what follows says what it is
	oops   bool // an "Oops:" line may follow as part of it
	slab   bool // a slab report, which may hold a WARNING of its own
	panic  bool
	irq    bool // frames above an interrupt's entry are the watchdog's
}

const cutHere = "------------[ cut here ]------------"

// starts reports whether a kernel's line begins a report. Nearly all lines do not, and are left at the
// first letter.
func starts(text []byte) (start, bool) {
	s := start{cpu: -1}
	if len(text) == 0 {
		return s, false
	}
	switch text[0] {
	case '-':
		if bytes.HasPrefix(text, []byte(cutHere)) {
			s.cut = true
			return s, true
		}
	case 'B':
		if rest, ok := bytes.CutPrefix(text, []byte("BUG: ")); ok {
			return startBug(rest), true
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
	case 'r':
		if rest, ok := bytes.CutPrefix(text, []byte("rcu: INFO: ")); ok {
			return startInfo(string(rest))
		}
		if bytes.HasPrefix(text, []byte("refcount_t: ")) {
			return s, false // the WARNING that follows is the report
		}
	case '[': // up to 4.x: [ INFO: possible ... ] and today [ BUG: Invalid wait context ]
		inner := strings.Trim(string(text[:min(len(text), 100)]), "[] ")
		if rest, ok := strings.CutPrefix(inner, "INFO: "); ok {
			return startLockdep(rest)
		}
		if rest, ok := strings.CutPrefix(inner, "BUG: "); ok {
			return startLockdep(rest)
		}
	case 'w', 'N':
		return startWatchdog(string(text))
	case 'g', 'O', 'i', 'd', 's', 't', 'P', 'U', 'k':
		return startOops(string(text))
	case 'K':
		return startPanic(string(text))
	case 'u':
		if bytes.HasPrefix(text, []byte("unreferenced object 0x")) {
			s.title, s.class, s.ends = "memory leak", record.ClassLeak, endsAtTrace
			return s, true
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
	if at := bytes.Index(text, []byte("AMD-Vi: Event logged [")); at >= 0 {
		kind, _, _ := bytes.Cut(text[at+len("AMD-Vi: Event logged ["):], []byte(" "))
		return iommuFault("AMD-Vi", strings.Fields(string(kind))), true
	}
	return s, false
}

func startBug(rest []byte) start {
	text := string(rest)
	s := start{cpu: -1, class: record.ClassBug, ends: endsAtTrace}
	has := func(p string) bool { return strings.HasPrefix(text, p) }
	switch {
	case has("KASAN: "), has("KMSAN: "), has("KCSAN: "), has("KFENCE: "):
		tool, what, _ := strings.Cut(text, ": ")
		s.class, s.ends = record.ClassKASAN, endsAtRule
		kind, where, _ := strings.Cut(what, " in ")
		s.title = tool + ": " + kind
		if tool == "KCSAN" { // data-race in A / B
			s.title, s.bare = "KCSAN: "+kind+" in "+race(where), true
			return s
		}
		if f, ok := parseFrame([]byte(where)); ok {
			s.fn, s.module = f.name, f.module
		} else if n := symbol([]byte(where)); n > 0 {
			s.fn = where[:n]
		}
	case has("kernel NULL pointer dereference"), has("unable to handle kernel NULL pointer dereference"):
		s = oops("BUG: unable to handle kernel NULL pointer dereference")
	case has("unable to handle page fault"), has("unable to handle kernel paging request"):
		s = oops("BUG: unable to handle kernel paging request")
	case strings.Contains(text, "stack guard page was hit"):
		s = oops("BUG: stack guard page was hit")
	case has("soft lockup"):
		return lockup("BUG: soft lockup", text)
	case has("sleeping function called from invalid context"):
		s.title = "BUG: sleeping function called from invalid context"
	case has("scheduling while atomic"):
		s.title = "BUG: scheduling while atomic"
		if who := strings.Split(after(text, "atomic: "), "/"); len(who) > 2 { // comm/pid/preempt_count
			s.comm, s.pid = strings.Join(who[:len(who)-2], "/"), number(who[len(who)-2])
		}
	case has("using ") && strings.Contains(text, " in preemptible"):
		s.title = "BUG: " + text[:strings.Index(text, " in preemptible")] + " in preemptible code"
	case has("Bad page state"):
		s.title, s.bare = "BUG: Bad page state", true
	case has("Bad page map"):
		s.title, s.bare = "BUG: Bad page map", true
	case has("Bad rss-counter state"):
		s.title, s.bare, s.ends = "BUG: Bad rss-counter state", true, endsAtOnce
	case has("non-zero pgtables_bytes"):
		s.title, s.bare, s.ends = "BUG: non-zero pgtables_bytes on freeing mm", true, endsAtOnce
	case has("workqueue lockup"):
		s.title, s.bare, s.class = "BUG: workqueue lockup", true, record.ClassLockup
	default:
		if l, ok := startLockdep(text); ok {
			return l
		}
		s.title = "BUG: " + plain(text)
	}
	return s
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
	case strings.HasPrefix(what, "Objects remaining"):
		s.title = "BUG: Objects remaining in " + cache + " on __kmem_cache_shutdown()"
	default:
		s.title = "BUG: " + plain(what) + " in " + cache
	}
	return s, true
}

func startWarning(rest string) (start, bool) {
	s := start{cpu: -1, class: record.ClassWarn, title: "WARNING"}
	// WARNING: CPU: 0 PID: 1 at mm/slub.c:1152 __kmem_cache_shutdown+0x246/0x320 [kvm]
	if strings.HasPrefix(rest, "CPU: ") {
		head, tail, ok := strings.Cut(rest, " at ")
		if !ok {
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
	return startLockdep(rest)
}

func (s *start) named(file, where string) {
	if f, ok := parseFrame([]byte(where)); ok {
		s.fn, s.module = f.name, f.module
	}
	s.slab = strings.HasPrefix(file, "mm/slub.c:") || strings.HasPrefix(file, "mm/slab.c:") // told apart by absorbs
}

// startLockdep reads the lines of the lock validator, which stand behind WARNING:, BUG: or INFO:.
func startLockdep(rest string) (start, bool) {
	s := start{cpu: -1, class: record.ClassLockdep, ends: endsAtTrace}
	has := func(p string) bool { return strings.HasPrefix(rest, p) }
	switch {
	case has("possible circular locking dependency detected"), has("possible recursive locking detected"),
		has("possible irq lock inversion dependency detected"), strings.Contains(rest, "lock order detected"):
		s.title = "possible deadlock"
	case has("inconsistent lock state"):
		s.title = "inconsistent lock state"
	case has("bad unlock balance detected"):
		s.title = "WARNING: bad unlock balance"
	case has("held lock freed"):
		s.title = "WARNING: held lock freed"
	case has("lock held when returning to user space"):
		s.title = "WARNING: lock held when returning to user space"
	case has("Nested lock was not taken"):
		s.title = "WARNING: nested lock was not taken"
	case has("Invalid wait context"):
		s.title = "WARNING: invalid wait context"
	case has("trying to register non-static key"):
		s.title = "INFO: trying to register non-static key"
	case has("suspicious RCU usage"):
		s.title, s.class = "WARNING: suspicious RCU usage", record.ClassRCU
	default:
		return s, false
	}
	return s, true
}

func startInfo(rest string) (start, bool) {
	s := start{cpu: -1, ends: endsAtTrace}
	switch {
	case strings.HasPrefix(rest, "task ") && strings.Contains(rest, " blocked for more than "):
		s.title, s.class = "INFO: task hung", record.ClassHung
		who, _, _ := strings.Cut(strings.TrimPrefix(rest, "task "), " blocked for more than ")
		if i := strings.LastIndexByte(who, ':'); i > 0 {
			s.comm, s.pid = who[:i], number(who[i+1:])
		}
		return s, true
	case strings.HasPrefix(rest, "rcu") && (strings.Contains(rest, "self-detected stall") || strings.Contains(rest, "detected stall") ||
		strings.Contains(rest, "detected expedited stall")):
		s.title, s.class, s.irq = "INFO: rcu detected stall", record.ClassRCU, true
		return s, true
	}
	return startLockdep(rest)
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
		s.cpu = number(after(rest, "on cpu "))
		return s, true
	}
	return start{}, false
}

// lockup reads " - CPU#0 stuck for 22s! [comm:pid]".
func lockup(title, rest string) start {
	s := start{title: title, class: record.ClassLockup, fatal: true, cpu: -1, ends: endsAtTrace, irq: true}
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

func startOops(text string) (start, bool) {
	rest, prefixed := strings.CutPrefix(text, "Oops: ")
	die := prefixed || strings.Contains(rest, "[#") // "divide error: 0000 [#1] SMP"
	has := func(p string) bool { return strings.HasPrefix(rest, p) }
	switch {
	case has("general protection fault") && die:
		return oops("general protection fault"), true
	case has("stack segment") && die:
		return oops("stack segment fault"), true
	case has("divide error") && die:
		return oops("divide error"), true
	case has("invalid opcode") && die:
		return oops("invalid opcode"), true
	case has("int3") && die:
		return oops("int3"), true
	case has("double fault") && die, has("traps: PANIC: double fault"), has("PANIC: double fault"):
		return oops("PANIC: double fault"), true
	case has("kernel BUG at "):
		s := oops("kernel BUG")
		s.class = record.ClassBug
		return s, true
	case has("Unable to handle kernel NULL pointer dereference"):
		return oops("BUG: unable to handle kernel NULL pointer dereference"), true
	case has("Unable to handle kernel "):
		return oops("BUG: unable to handle kernel paging request"), true
	case has("sysfs: cannot create duplicate filename"):
		return start{title: "sysfs: cannot create duplicate filename", class: record.ClassWarn, cpu: -1, ends: endsAtTrace}, true
	case has("kmemleak: ") && strings.Contains(rest, "new suspected memory leaks"):
		return start{title: "memory leak", class: record.ClassLeak, cpu: -1, ends: endsAtOnce, bare: true}, true
	case has("UBSAN: "):
		return startUBSAN(rest), true
	case prefixed && strings.Contains(rest, "[#"):
		// "Oops: 0000 [#1]" without the BUG: line in front of it, which was lost
		s := oops("Oops")
		return s, true
	}
	return start{}, false
}

func startUBSAN(text string) start {
	what, _, _ := strings.Cut(strings.TrimPrefix(text, "UBSAN: "), " in ")
	return start{title: "UBSAN: " + plain(what), class: record.ClassUBSAN, cpu: -1}
}

func startPanic(text string) (start, bool) {
	rest, ok := strings.CutPrefix(text, "Kernel panic - not syncing: ")
	if !ok {
		return start{}, false
	}
	s := start{class: record.ClassPanic, fatal: true, cpu: -1, bare: true, panic: true}
	if where, ok := strings.CutPrefix(rest, "stack-protector: Kernel stack is corrupted in: "); ok {
		s.title = "kernel panic: corrupted stack"
		if f, ok := parseFrame([]byte(where)); ok {
			s.fn, s.module, s.bare = f.name, f.module, false
		}
		return s, true
	}
	s.title = "kernel panic: " + plain(rest)
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

// plain makes free text into a part of a title: no numbers, no addresses, one line, short.
func plain(text string) string {
	words := strings.Fields(text)
	for i, w := range words {
		bare := strings.TrimRight(w, ".,:;!)]")
		key, value, ok := strings.Cut(bare, "=")
		if !ok {
			key, value = "", bare
		}
		if value == "" || strings.Trim(strings.TrimPrefix(value, "0x"), "0123456789abcdef") != "" || strings.Trim(value, "abcdef") == "" {
			continue
		}
		if key != "" {
			key += "="
		}
		words[i] = key + "N" + w[len(bare):]
	}
	return strings.TrimRight(strings.Join(words, " "), " :.!")
}
