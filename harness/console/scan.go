package console

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/results/record"
)

// Bounds on one report and on how many are under construction: a guest may print anything.
const (
	maxOpen      = 8    // reports at once, one per printing task or CPU
	maxLines     = 4000 // of one report
	maxIdle      = 60   // lines without a stack trace, of a report that should have one
	maxChain     = 2000 // the same, where the kernel prints how every lock came to depend on the next, or all workqueues
	maxForeign   = 8    // lines of others in a row, within the tags of a stack trace
	maxFrames    = 64   // of a stack trace: its innermost half and its outermost
	maxHead      = 25
	maxTitle     = 120
	maxFollowers = 32
	maxReports   = 64 // groups; IOMMU faults and their kind
	topFrames    = 3  // that count for a signature
)

// Parse finds the kernel reports in a serial log, grouped.
func Parse(log []byte) []record.Report {
	var g groups
	s := scanner{report: g.add}
	eachLine(log, func(l line) bool {
		s.line(l)
		return true
	})
	s.end()
	return g.reports
}

// scanner finds reports in lines. It is fed lines in order and holds no more than the open reports.
type scanner struct {
	report func(record.Report)

	stamped bool       // the kernel stamps its lines, so one without a stamp is not the kernel's
	died    bool       // a fatal report is complete: a panic is its consequence
	stalled bool       // RCU has reported a stall
	open    []*builder // at most one per caller
	indent  int        // blanks before each line of a log that was pasted into a text
	rule    lead       // the last ===== line or what else opens a report's first line
}

// lead is the line above a report's first line, which belongs to it.
type lead struct {
	no     int
	caller string
	text   string // what it says, if it says what kind of report follows
}

// line takes the next line. A second stamp in it begins another one: what stood before lost its newline.
func (s *scanner) line(l line) {
	for l.stamped {
		at := innerStamp(l.text)
		if at < 0 {
			break
		}
		cut := l
		cut.text = l.text[:at]
		s.whole(cut)
		l = parseLine(l.no, l.text[at:])
	}
	s.whole(l)
}

func (s *scanner) whole(l line) {
	if l.stamped {
		s.stamped = true
	} else if s.stamped {
		if !s.leak(l) {
			return // a program on the same serial port
		}
		l.caller = reader
	} else {
		l.text = s.unindented(l.text)
	}
	if len(s.open) == 0 && len(l.text) > 0 && l.text[0] != '=' {
		// The way of nearly all lines.
		if st, ok := s.starts(l); ok {
			s.begin(l, st)
		} else if l.text[0] == 'l' && corruptList(l.text) {
			s.rule = lead{no: l.no, caller: l.caller, text: clean(l.text)} // printed above the BUG
		}
		return
	}
	s.slow(l)
}

// unindented takes away the blanks before a line, as many as there were before the first line of a report: a
// kernel does not indent those.
func (s *scanner) unindented(text []byte) []byte {
	if len(text) == 0 || text[0] != ' ' && text[0] != '\t' {
		return text
	}
	inner := bytes.TrimLeft(text, " \t")
	if len(s.open) == 0 {
		if _, ok := starts(inner); ok || isRule(inner) {
			s.indent = len(text) - len(inner)
			return inner
		}
	}
	return text[min(s.indent, len(text)-len(inner)):]
}

// reader is the caller of a leak that a program has read out of kmemleak's file, as fuzzers do.
const reader = "program"

// leak reports whether a line without a stamp is out of kmemleak's file: nothing else that a program prints in
// a stamped log counts.
func (s *scanner) leak(l line) bool {
	return hasAny(l.text, "unreferenced object 0x") || slices.ContainsFunc(s.open, func(b *builder) bool { return b.caller == reader })
}

func (s *scanner) slow(l line) {
	rule := isRule(l.text)
	i := slices.IndexFunc(s.open, func(b *builder) bool { return b.caller == l.caller })
	if i < 0 && hasAny(l.text, "NMI backtrace for cpu ") {
		// The CPU that is asked for a backtrace answers itself.
		i = slices.IndexFunc(s.open, func(b *builder) bool { return b.irq && b.trace == noTrace })
		if i >= 0 {
			s.open[i].caller = l.caller
		}
	}
	if i >= 0 {
		b := s.open[i]
		if rule {
			if b.ends == endsAtRule && b.trace != noTrace {
				b.extend(l)
				s.finish(b)
				return
			}
			if b.slab {
				s.finish(b) // the rule belongs to the next one
			}
			s.rule = lead{no: l.no, caller: l.caller}
			return
		}
		if st, ok := s.starts(l); ok {
			if b.absorbs(l, st) {
				return
			}
			if b.cutAt > 0 {
				s.rule = lead{no: b.cutAt, caller: l.caller}
			}
			s.finish(b)
			s.begin(l, st)
			return
		}
		if b.take(l) {
			s.finish(b)
		}
	} else if st, ok := s.starts(l); ok {
		s.begin(l, st)
		return
	}
	if rule {
		s.rule = lead{no: l.no, caller: l.caller}
	}
}

// starts reports whether a line begins a report in this log.
func (s *scanner) starts(l line) (start, bool) {
	st, ok := l.starts()
	return st, ok && !(st.tail && s.stalled)
}

// begin opens a report.
func (s *scanner) begin(l line, st start) {
	if st.panic && s.died {
		return // "Fatal exception" and the like
	}
	s.stalled = s.stalled || st.class == record.ClassRCU && st.irq
	b := newBuilder(l, st)
	if s.rule.no > 0 && s.rule.caller == l.caller && l.no-s.rule.no <= 6 {
		b.first = s.rule.no
		if s.rule.text != "" {
			b.text = append(b.text, s.rule.text)
			if !st.cut {
				b.head = append(b.text, b.head...)
			}
		}
	}
	s.rule = lead{}
	if st.ends == endsAtOnce && !st.cut {
		s.emit(b)
		return
	}
	if len(s.open) >= maxOpen {
		s.finish(s.open[0])
	}
	s.open = append(s.open, b)
}

func (s *scanner) finish(b *builder) {
	s.open = slices.DeleteFunc(s.open, func(o *builder) bool { return o == b })
	s.emit(b)
}

func (s *scanner) emit(b *builder) {
	r, ok := b.done()
	if !ok {
		return
	}
	s.died = s.died || r.Fatal
	s.report(r)
}

// end completes what is open: the log is over, or quiet.
func (s *scanner) end() {
	for len(s.open) > 0 {
		s.finish(s.open[0])
	}
}

// pending reports whether a report is under construction, and whether a fatal one is.
func (s *scanner) pending() (open, fatal bool) {
	for _, b := range s.open {
		fatal = fatal || b.fatal
	}
	return len(s.open) > 0, fatal
}

func corruptList(text []byte) bool {
	return hasAny(text, "list_add", "list_del") && bytes.Contains(text, []byte("corruption"))
}

// isRule reports whether a line is a rule of "=".
func isRule(text []byte) bool {
	return len(text) >= 20 && text[0] == '=' && len(bytes.Trim(text, "=\t ")) == 0
}

// builder collects the lines of one report.
type builder struct {
	start
	caller      string
	first, last int
	seen, idle  int // lines so far, and those that were no part of a trace
	text        []string
	access      string // "Read" or "Write" of KASAN
	tainted     string
	version     string
	buildID     string
	oopsSeen    bool
	cutAt       int // a cut-here line inside a slab report that may begin the next one

	rip      *frame
	frames   []frame
	trace    tracing
	unheaded bool // the stack trace follows without "Call Trace:"
	tagged   bool // between <TASK> and </TASK>, since 5.16: what is no frame there is somebody else's
	alien    int  // lines of that kind in a row
	head     []string

	victim   []frame // of RCU's own thread, which a stall shows first
	origin   []frame // of the stack trace that names the report, where it is another than the first
	inOrigin bool
	locks    int  // "at:" lines that were looked at
	release  bool // the next line says where a lock was released
}

type tracing uint8

const (
	noTrace tracing = iota
	inTrace
	traceOver
)

func newBuilder(l line, st start) *builder {
	b := &builder{start: st, caller: l.caller, first: l.no, last: l.no, seen: 1}
	b.oopsSeen = st.oops && bytes.Contains(l.text, []byte("[#"))
	b.vague = st.vague && !l.kernel
	if !st.cut {
		b.keep(l.text)
	}
	if strings.HasPrefix(st.title, "KMSAN: ") {
		b.trace = inTrace // its frames follow at once
	}
	return b
}

// absorbs reports whether a line that could begin a report belongs to this one.
func (b *builder) absorbs(l line, st start) bool {
	switch {
	case b.cut: // the cut-here line announced it
		if st.cut {
			return false
		}
		if !st.warn {
			return false
		}
		first, seen, text := b.first, b.seen, b.text
		*b = *newBuilder(l, st)
		b.first, b.seen, b.text = first, seen+1, text
		b.head = append(slices.Clone(text), b.head...)
		return true
	case b.rust && !b.oopsSeen && (st.cut || st.ud || st.oops): // the BUG that it ends in
		b.oopsSeen = st.oops && !st.ud
		b.extend(l)
		b.keep(l.text)
		return true
	case b.class == record.ClassLockdep && b.trace == noTrace && st.oops && strings.HasSuffix(b.title, "nested lock was not taken"):
		b.fatal, b.oops = true, true // the lock that is not held may be none at all, and printing it a fault
		b.extend(l)
		b.keep(l.text)
		return true
	case b.inline && b.seen < 12 && len(b.frames) == 0 && (b.title == st.title || b.warn && st.warn):
		b.fn, b.module, b.inline = st.fn, st.module, st.inline
		if st.warn {
			b.title, b.class, b.skip, b.slab = st.title, st.class, st.skip, st.slab
		}
		b.extend(l)
		return true
	case b.oops && st.oops && b.title == st.title && b.trace == noTrace && b.rip == nil && b.seen < maxIdle && !bytes.Contains(l.text, []byte("[#")):
		b.extend(l) // of another CPU, which waits for this one to finish before it prints the rest
		return true
	case st.panic && b.title == st.title && b.trace == noTrace:
		b.extend(l)
		b.keep(l.text)
		return true
	case st.panic && b.trace == noTrace && (b.warn && !b.ud && st.part || b.ends == endsAtTrace && b.rip == nil && b.seen < maxIdle/2):
		// panic_on_warn and its kind come before the report's own stack trace
		b.fatal = true
		b.extend(l)
		b.keep(l.text)
		return true
	case b.ends == endsAtRule && st.slab && b.trace == noTrace: // up to 4.8 KASAN lets the slab allocator print the object
		b.extend(l)
		return true
	case b.title == "memory leak" && st.title == b.title && b.trace == noTrace && b.seen == 1:
		b.extend(l) // "BUG: memory leak" is a test program's own line above the kernel's
		b.keep(l.text)
		return true
	case b.oops && st.oops && !b.oopsSeen && (bytes.Contains(l.text, []byte("[#")) || b.title == st.title):
		b.oopsSeen = true
		b.extend(l)
		b.keep(l.text)
		return true
	case b.slab && st.cut && b.title != "WARNING" && b.trace == noTrace:
		b.cutAt = l.no // since 6.12 a slab report ends in a WARNING of its own
		return true
	case b.cutAt > 0 && st.slab && st.title == "WARNING":
		b.cutAt, b.ends = 0, endsAtMark
		b.rip = &frame{name: st.fn, module: st.module, sure: true, inline: st.inline}
		b.cpu, b.pid, b.comm = st.cpu, st.pid, st.comm
		b.extend(l)
		return true
	}
	return false
}

// take adds a line of the report's own task and tells whether the report is complete.
func (b *builder) take(l line) (complete bool) {
	b.seen++
	if b.seen > maxLines {
		return true
	}
	text := bytes.TrimLeft(l.text, " \t")
	if mark, ok := bytes.CutPrefix(text, []byte("---[ end ")); ok {
		b.extend(l)
		return b.ends != endsAtRule || bytes.HasPrefix(mark, []byte("Kernel panic"))
	}
	if b.named(text) {
		b.extend(l)
		return false
	}
	if !b.facts(text) && b.cut && len(b.text) < 6 && len(text) > 0 {
		b.text = append(b.text, clean(text))
	}
	if f, ok := b.stack(l.text, text); ok {
		b.alien = 0
		b.extend(l)
		if f.name != "" && f.sure && b.trace == inTrace {
			if len(b.frames) == maxFrames { // a recursion: how it began tells as much as where it ended
				b.frames = slices.Delete(b.frames, maxFrames/2, maxFrames/2+1)
			}
			b.frames = append(b.frames, f)
			b.keep(l.text)
		}
		return false
	}
	if b.trace == inTrace {
		if b.tagged && b.alien < maxForeign {
			b.alien++
			return false
		}
		b.trace = traceOver
		if strings.HasPrefix(b.title, "KMSAN: ") && len(b.frames) == 0 || b.irq && (len(b.frames) == 0 || b.starved()) {
			b.trace = noTrace // another one follows
		}
	}
	if b.ends == endsAtTrace {
		if b.trace == traceOver {
			return true
		}
		if !b.slab || !hasAny(text, "Object 0x", "Slab 0x", "INFO: ") {
			b.idle++
		}
		if b.idle > maxIdle && (b.class != record.ClassLockdep && !b.stalled || b.idle > maxChain) {
			return true // its trace was lost, or it has none
		}
	}
	b.extend(l)
	if f, ok := parseFrame(text); !ok || f.sure && !onlyReports(f.name) { // "Allocated by task 1:" has frames too
		b.keep(l.text)
	}
	return false
}

// starved moves the stack trace of RCU's own thread out of the way, which is a stall's victim, or one that names nobody,
// of a CPU that does not answer. It tells whether there was one.
func (b *builder) starved() bool {
	victim := slices.ContainsFunc(b.frames, func(f frame) bool { return f.name == "rcu_gp_kthread" }) ||
		b.rip == nil && !slices.ContainsFunc(b.frames, func(f frame) bool { return !onlyReports(f.name) })
	if victim {
		b.victim, b.frames, b.rip = b.frames, nil, nil
	}
	return victim
}

func (b *builder) extend(l line) { b.last = l.no }

// stack reads the lines of a stack trace: its frames, its tags, and the registers of an exception within.
func (b *builder) stack(raw, text []byte) (frame, bool) {
	switch {
	case hasAny(text, "Call Trace:", "Call trace:", "Backtrace:", "backtrace:", "backtrace (", "Stack Trace:") || string(text) == "Trace:":
		if b.trace == noTrace {
			b.keep(raw)
			b.trace = inTrace
		}
		if i := bytes.Index(text, []byte(": [<")); i > 0 { // m68k puts the first frame here
			if f, ok := parseFrame(text[i+2:]); ok {
				return f, true
			}
		}
		return frame{}, true
	case b.trace == noTrace && b.class == record.ClassKASAN && bytes.HasSuffix(text, []byte(":")) &&
		(bytes.Contains(text, []byte(" at 0x")) || bytes.Contains(text, []byte(" on cpu "))):
		b.trace = inTrace // KFENCE and KCSAN put no "Call Trace:" above the first one
		b.keep(raw)
		return frame{}, true
	case hasAny(text, "RIP: ", "EIP: ", "IP: ", "pc : ", "PC is at ", "pc is at ", "PC: [<", "TPC: <", "epc : ", "epc   : ", "ERA: ", "NIP [", "Krnl PSW : "):
		f, user := parseRIP(text)
		if user {
			return frame{}, b.trace == inTrace
		}
		if (b.rip == nil || b.rip.inline || b.rip.name == "") && b.trace == noTrace {
			b.rip = &f
			b.keep(raw)
			return frame{}, true
		}
		return f, b.trace == inTrace
	case len(text) > 0 && text[0] == '<' && hasAny(text, "<TASK>", "</TASK>", "<IRQ>", "</IRQ>", "<NMI>", "</NMI>", "<SOFTIRQ>", "</SOFTIRQ>",
		"<#DB>", "</#DB>", "<#DF>", "</#DF>", "<ENTRY_TRAMPOLINE>", "</ENTRY_TRAMPOLINE>", "<EOE>", "<EOI>"):
		b.tagged = hasAny(text, "<TASK>", "<IRQ>", "<NMI>", "<SOFTIRQ>") && text[len(text)-1] == '>'
		return frame{}, true
	case b.trace == noTrace && hasAny(text, "[<", "unwind_backtrace from") && unwinder(text):
		b.trace = inTrace // arm puts no "Backtrace:" above a trace unless it has frame pointers
		b.keep(raw)
		return frame{}, true
	case b.trace == noTrace && hasAny(text, "status: ") && bytes.Contains(text, []byte("badaddr: ")):
		b.unheaded = true // riscv puts nothing above it
		return frame{}, true
	case b.trace == noTrace && b.unheaded && hasAny(text, "[<"):
		b.trace = inTrace
	case b.trace == inTrace && hasAny(text, "--- interrupt: "): // powerpc: what was interrupted, or trapped
		if _, where, ok := bytes.Cut(text, []byte(" at ")); ok {
			if f, ok := parseFrame(where); ok {
				return f, true
			}
		}
		return frame{}, true
	case b.trace == inTrace && (hasAny(text, entryRegisters...) || exceptionStack(text)):
		return frame{}, true
	case hasAny(text, "Code: ", "RSP: ", "RAX: ", "RDX: ", "RBP: ", "R10: ", "R13: ", "FS: ", "CS: ", "CR2: ", "DR0: ", "DR3: ", "PKRU: ", "ORIG_RAX: "):
		return frame{}, true
	case b.trace == inTrace && stackWords(text):
		return frame{}, true
	}
	if b.trace != inTrace {
		return frame{}, false
	}
	return parseFrame(text)
}

// entryRegisters begin the lines that powerpc and arm print within a trace, where an interrupt or a trap came in.
var entryRegisters = []string{"LR = ", "NIP: ", "NIP [", "LR [", "REGS: ", "MSR: ", "CFAR: ", "GPR", "Exception stack("}

// unwinder reports whether a line is a frame of arm's unwinder, "[<80776938>] (schedule) from [<8014ac8c>] (caller+0x20/0x40)",
// or its first one, its own, in a kernel that writes them otherwise.
func unwinder(text []byte) bool {
	f, ok := parseFrame(text)
	return ok && (f.from != "" || f.name == "unwind_backtrace" || f.name == "dump_backtrace")
}

// exceptionStack reports whether a line is of arm's dump of what an exception saved: "3f00: 20b35644 7effffff ...".
func exceptionStack(text []byte) bool {
	if len(text) < 6 || text[4] != ':' {
		return false
	}
	for _, c := range text[:4] {
		if !hexDigit(c) {
			return false
		}
	}
	return stackWords(text[5:])
}

// stackWords reports whether a line holds nothing but words of a stack, which stand among the frames of old
// kernels and of arm ("r7:c0a03d20 r6:00000000"), or an address that has no name ("? 0xffffffffc0401234",
// "0x0 (P)").
func stackWords(text []byte) bool {
	for n := address(text); n > 0; n = address(text) {
		text = bytes.TrimLeft(text[n:], " ")
	}
	words := bytes.Fields(text)
	for _, w := range words {
		if w[0] == '?' || w[0] == '(' && (len(w) <= len("(PL)") || string(w) == "(unreliable)") {
			continue
		}
		if hex, ok := bytes.CutPrefix(w, []byte("0x")); ok {
			w = append(bytes.Repeat([]byte("0"), max(0, 16-len(hex))), hex...)
		}
		if i := bytes.IndexByte(w, ':'); i > 0 && i <= 3 && w[0] == 'r' {
			w = w[i+1:]
		}
		if len(w) != 8 && len(w) != 16 {
			return false
		}
		for _, c := range w {
			if !hexDigit(c) {
				return false
			}
		}
	}
	return len(words) > 0
}

// parseRIP reads "RIP: 0010:func+0x20/0x60 [kvm]"; user says that it is not the kernel's.
func parseRIP(text []byte) (f frame, user bool) {
	var where []byte
	switch {
	case bytes.HasPrefix(text, []byte("NIP [")): // ppc
		_, where, _ = bytes.Cut(text, []byte("] "))
	case bytes.HasPrefix(text, []byte("TPC: <")): // sparc
		where = text[len("TPC: <"):]
	case bytes.HasPrefix(text, []byte("PC is at ")), bytes.HasPrefix(text, []byte("pc is at ")): // arm, alpha
		where = text[len("PC is at "):]
	case bytes.HasPrefix(text, []byte("Krnl PSW : ")): // s390: two words, then (func+0x12/0x34)
		_, where, _ = bytes.Cut(text, []byte(" ("))
	case bytes.HasPrefix(text, []byte("epc   : ")), bytes.HasPrefix(text, []byte("ERA: ")): // mips, loongarch: address and function
		_, where, _ = bytes.Cut(text, []byte(": "))
		_, where, _ = bytes.Cut(where, []byte(" "))
	case text[0] == 'p' || text[0] == 'e': // arm64, riscv
		_, where, _ = bytes.Cut(text, []byte(" : "))
		where, _, _ = bytes.Cut(where, []byte(" ra : "))
	default:
		_, where, _ = bytes.Cut(text, []byte(": "))
		if selector, rest, ok := bytes.Cut(where, []byte(":")); ok && len(selector) == 4 && digits(string(selector)) == 4 {
			if string(selector) == "0033" || string(selector) == "0023" || string(selector) == "0073" {
				return frame{}, true
			}
			where = rest
		}
	}
	f, ok := parseFrame(where)
	if !ok {
		return frame{}, false // an address without a symbol: freed module text
	}
	f.sure, f.site.Exact = true, true
	return f, false
}

// named reads what names the report besides the first stack trace: another one, or the place of a lock. It
// tells whether that was all that the line says.
func (b *builder) named(text []byte) bool {
	switch {
	case b.inOrigin:
		if f, ok := parseFrame(text); ok {
			if f.sure && len(b.origin) < maxFrames {
				b.origin = append(b.origin, f)
			}
			return true
		}
		b.inOrigin = false
	case b.from != "" && len(b.origin) == 0 && bytes.Contains(text, []byte(b.from)):
		b.inOrigin = true
	case b.lock && b.locks < 2 && bytes.Contains(text, []byte(", at: ")):
		if f, ok := parseFrame([]byte(after(string(text), ", at: "))); ok && !f.inline {
			b.locks++
			if b.takes {
				b.fn, b.module, b.lock = f.name, f.module, false
			} else if b.fn == "" || messenger(frame{name: b.fn}, b.skip) {
				b.fn, b.module = f.name, f.module
			}
		}
	case b.release:
		f, ok := parseFrame(text)
		if ok {
			b.fn, b.module = f.name, f.module
		}
		b.release = ok && f.inline
	case b.class == record.ClassLockdep && bytes.Contains(text, []byte(" is trying to release lock ")):
		b.release = true
	case b.rust && b.title == "rust panic" && len(text) > 0:
		b.title = plain(string(text))
	case b.stalled && hasAny(text, "Workqueue: "): // of the worker whose stack trace follows
		if words := strings.Fields(string(text)); b.bare && len(words) > 2 && symbol([]byte(words[2])) == len(words[2]) {
			b.fn, b.exact, b.bare = words[2], true, false
		}
	case hasAny(text, "last function: "):
		b.fn = string(text[len("last function: "):][:symbol(text[len("last function: "):])])
	}
	return false
}

// facts reads the lines that name a CPU, a task, an access.
func (b *builder) facts(text []byte) bool {
	switch {
	case hasAny(text, "CPU: "):
		b.cpuLine(string(text))
		return true
	case hasAny(text, "Read of size ", "Write of size ", "Read at addr ", "Write at addr "):
		if b.access == "" {
			b.access = string(text[:bytes.IndexByte(text, ' ')])
			b.task(after(string(text), " by task "))
		}
		return true
	case b.class == record.ClassLockdep && b.comm == "" && bytes.Contains(text, []byte(" is trying to ")):
		who, _, _ := strings.Cut(string(text), " is trying to ")
		b.task(who)
	case b.class == record.ClassLeak && hasAny(text, "comm \""):
		comm, rest, _ := strings.Cut(string(text[len("comm \""):]), "\"")
		b.comm, b.pid = comm, number(after(rest, "pid "))
	}
	return false
}

// cpuLine reads "CPU: 0 UID: 0 PID: 1 Comm: init Tainted: G    B   W   6.12.117 #1". The first one counts.
func (b *builder) cpuLine(text string) {
	if b.tainted != "" {
		return
	}
	head, tail, ok := strings.Cut(text, " Comm: ")
	if !ok {
		return
	}
	b.cpu = number(after(head, "CPU: "))
	b.pid = number(after(head, "PID: "))
	if i := strings.Index(tail, " Tainted: "); i >= 0 {
		b.comm = tail[:i]
		flags := tail[i+len(" Tainted: "):]
		end := strings.IndexFunc(flags, func(c rune) bool { return c != ' ' && (c < 'A' || c > 'Z') })
		if end >= 0 {
			b.kernel(flags[end:])
			flags = flags[:end]
		}
		b.tainted = strings.ReplaceAll(flags, " ", "")
	} else if i := strings.Index(tail, " Not tainted"); i >= 0 {
		b.comm, b.tainted = tail[:i], "no"
		b.kernel(tail[i+len(" Not tainted"):])
	}
}

// kernel reads "6.12.117 #1" and the build id behind it, with CONFIG_STACKTRACE_BUILD_ID.
func (b *builder) kernel(text string) {
	if words := strings.Fields(text); len(words) > 0 {
		b.version = bound(words[0], 64)
	}
	b.buildID = buildID(strings.TrimSpace(text))
}

// noise are lines that say nothing to a reader of the head.
var noise = []string{
	"Code: ", "RSP: ", "RAX: ", "RDX: ", "RBP: ", "R10: ", "R13: ", "FS: ", "CS: ", "CR2: ", "DR0: ", "DR3: ",
	"PKRU: ", "Hardware name: ", "PGD ", "Modules linked in: ", "Object 0x", "Slab 0x", "Tainted: [", "-----", "=====",
	"Disabling lock debugging", "\"echo 0 > ", "#PF: error_code", "irq event stamp", "hardirqs last", "softirqs last", "kernel version",
	"note: ", "<",
}

// keep adds a line to the head, unless it is noise.
func (b *builder) keep(raw []byte) {
	text := bytes.TrimLeft(raw, " \t")
	if len(b.head) >= maxHead || len(text) == 0 || hasAny(text, noise...) || hasAny(text, "? ") {
		return
	}
	if b.class == record.ClassLockdep && b.trace == noTrace && len(b.head) >= 6 && !hasAny(text, "CPU: ", "Call Trace:") {
		return // chains of locks, long enough to push the stack trace out
	}
	indent := ""
	if len(text) < len(raw) {
		indent = " "
	}
	b.head = append(b.head, indent+clean(text))
}

func hasAny(text []byte, prefixes ...string) bool {
	for _, p := range prefixes {
		if len(text) >= len(p) && string(text[:len(p)]) == p {
			return true
		}
	}
	return false
}

// done makes the report. What turned out to be none is not ok: a cut-here line without the rest.
func (b *builder) done() (record.Report, bool) {
	if b.vague && b.rip == nil && len(b.frames) == 0 {
		return record.Report{}, false // a program's words in a log without stamps
	}
	if b.cut {
		if b.rip == nil && len(b.frames) == 0 {
			return record.Report{}, false
		}
		b.title, b.class, b.cut = "WARNING", record.ClassWarn, false // its WARNING line was lost
		b.head = append(slices.Clone(b.text), b.head...)
		b.head = b.head[:min(len(b.head), maxHead)]
	}
	frames := b.frames
	if len(frames) == 0 && b.rip == nil {
		frames = b.victim
	}
	if n := len(frames); n > 0 && frames[n-1].from != "" && len(frames) < maxFrames {
		frames = append(slices.Clone(frames), frame{name: frames[n-1].from, sure: true})
	}
	if b.rip != nil && b.rip.name != "" {
		frames = append([]frame{*b.rip}, frames...)
	}
	if len(frames) > maxFrames {
		frames = slices.Delete(slices.Clone(frames), maxFrames/2, maxFrames/2+1)
	}
	if b.irq {
		if i := slices.IndexFunc(frames, func(f frame) bool { return interruptEntry(f.name) }); i >= 0 {
			frames = frames[i+1:] // what stands below an outer one was interrupted as well, and waits
		}
	}
	b.reclassify()

	title, top, whole := b.titled(frames)
	r := record.Report{
		Title: Sanitize(bound(title, maxTitle)),
		Class: b.class, Fatal: b.fatal, CPU: b.cpu, PID: b.pid, Comm: Sanitize(bound(b.comm, 64)),
		Line: b.first, EndLine: b.last, Head: b.head, Corrupted: !whole || b.part,
		Release: b.version, BuildID: b.buildID,
	}
	if b.tainted != "no" {
		r.Tainted = b.tainted
	}
	for _, f := range frames {
		r.Frames = append(r.Frames, f.name)
		r.Modules = append(r.Modules, f.module)
		r.Sites = append(r.Sites, f.site)
	}
	if len(top) > 0 {
		r.Top = max(0, slices.IndexFunc(frames, func(f frame) bool { return f.name == top[0].name && f.module == top[0].module }))
	}
	r.Signature = signature(r.Title, top)
	return r, true
}

// reclassify tells apart what begins alike, by the line that a WARN or a BUG prints first.
func (b *builder) reclassify() {
	if b.title != "WARNING" && b.title != "kernel BUG" {
		if b.access != "" && strings.HasPrefix(b.title, "KASAN: ") && b.title != "KASAN: invalid-free" {
			b.title += " " + b.access
		}
		return
	}
	for _, text := range b.text {
		switch {
		case strings.HasPrefix(text, "refcount_t: "):
			b.title, b.class, b.skip = "WARNING: refcount bug", record.ClassRefcount, skipRefcount
		case corruptList([]byte(text)):
			b.class = record.ClassList
			if b.title == "kernel BUG" {
				b.title = "BUG: corrupted list"
			} else {
				b.title = "WARNING: corrupted list"
			}
		case strings.HasPrefix(text, "ODEBUG: ") && b.fn == "":
			b.title, b.skip = "WARNING: ODEBUG bug", skipObject
		default:
			continue
		}
		return
	}
}

// titled adds the function to the title. top are the frames from there on; whole is false when the report
// should have had a stack trace, or a function to be named after.
func (b *builder) titled(frames []frame) (title string, top []frame, whole bool) {
	if b.bare {
		return b.title, from(frames, b.skip, 0), true
	}
	candidates := frames
	switch {
	case b.from != "" && (len(b.origin) > 0 || b.class == record.ClassLockdep):
		candidates = b.origin
	case b.takes && len(frames) > 0: // the place of the lock is looked for among the frames
	case b.fn != "" && (len(frames) == 0 || frames[0].name != b.fn):
		candidates = append([]frame{{name: b.fn, module: b.module, sure: true, inline: b.inline}}, frames...)
	}
	fn, at := b.pick.guilty(candidates, b.skip)
	if b.takes && !matches(b.fn, skipTaking) {
		if i := slices.IndexFunc(frames, func(f frame) bool { return f.name == b.fn }); i >= 0 && (i < at || at < 0) {
			fn, at = withoutSyscall(b.fn), i
			b.exact = true
		}
	}
	if b.exact && len(candidates) > 0 {
		fn, at = withoutSyscall(b.fn), 0
		if i := slices.IndexFunc(frames, func(f frame) bool { return f.name == b.fn }); i >= 0 {
			candidates, at = frames, i
		}
	}
	switch {
	case at < 0 && b.alone != "" && len(candidates) == 0:
		return b.alone, nil, false
	case at < 0:
		return b.title + nameless, from(frames, b.skip, 0), false
	}
	if b.warn && b.title == "WARNING" && b.fn == "usb_submit_urb" {
		return "WARNING in " + fn + "/usb_submit_urb", from(candidates, b.skip, at), true
	}
	whole = (len(frames) > 0 || b.locks > 0 || b.panic) && (b.exact || !messenger(frame{name: candidates[at].name}, b.skip))
	if b.pick == pickBefore && b.trace != traceOver && !slices.ContainsFunc(candidates, dispatches) {
		whole = false // the log ends before what would name it
	}
	return b.title + " in " + fn, from(candidates, b.skip, at), whole
}

// nameless stands in a title for the function that a cut or garbled stack trace does not name.
const nameless = " in corrupted"

// from gives the top frames from the one at a place on that are no messengers.
func from(frames []frame, skip []string, at int) []frame {
	var out []frame
	for _, f := range frames[min(at, len(frames)):] {
		if len(out) < topFrames && !messenger(f, skip) {
			out = append(out, f)
		}
	}
	return out
}

func bound(s string, n int) string { return s[:min(len(s), n)] }

// signature is the hash of the title and the top frames.
func signature(title string, top []frame) string {
	h := sha256.New()
	fmt.Fprintln(h, strings.TrimSuffix(title, nameless)) // runs of before nestbed said so have it without
	for _, f := range top {
		fmt.Fprintln(h, f.name, f.module)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// groups puts followers under the report that explains them.
type groups struct {
	reports []record.Report
	leader  int // 1 + its index in reports
	seen    map[string]bool
}

func (g *groups) add(r record.Report) {
	if g.seen == nil {
		g.seen = map[string]bool{}
	}
	sig := r.Signature
	if g.seen[sig] {
		return // the same again
	}
	fault := r.Class == record.ClassIOMMU || r.Class == record.ClassOOM || r.Class == record.ClassMCE
	switch {
	case g.leader > 0 && (!fault || g.reports[g.leader-1].Fatal):
		lead := &g.reports[g.leader-1]
		if len(lead.Followers) >= maxFollowers {
			return
		}
		if r.Line < lead.Line { // it began first and took longer to print
			r.Followers, lead.Followers = lead.Followers, nil
			*lead, r = r, *lead
		}
		at, _ := slices.BinarySearchFunc(lead.Followers, r.Line+1, func(f record.Report, line int) int { return f.Line - line })
		lead.Followers = slices.Insert(lead.Followers, at, r)
	case len(g.reports) >= maxReports:
		return
	default:
		g.reports = append(g.reports, r)
		if !fault {
			g.leader = len(g.reports)
		}
	}
	g.seen[sig] = true
}
