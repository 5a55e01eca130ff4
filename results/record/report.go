package record

// Class is the family of a kernel report.
type Class string

// The classes that harness/console tells apart.
const (
	ClassOops     Class = "oops"  // page fault, general protection, invalid opcode, divide error
	ClassBug      Class = "bug"   // BUG_ON, "kernel BUG at", and BUG: lines of slab and friends
	ClassWarn     Class = "warn"  // WARN, WARN_ONCE
	ClassKASAN    Class = "kasan" // KASAN, KFENCE, KMSAN, KCSAN
	ClassUBSAN    Class = "ubsan"
	ClassLockdep  Class = "lockdep"
	ClassRCU      Class = "rcu"      // RCU stalls, suspicious RCU usage
	ClassLockup   Class = "lockup"   // soft and hard lockups
	ClassHung     Class = "hung"     // hung tasks
	ClassRefcount Class = "refcount" // refcount_t
	ClassList     Class = "list"     // list corruption
	ClassLeak     Class = "leak"     // kmemleak
	ClassIOMMU    Class = "iommu"    // a DMA fault as the kernel prints it
	ClassPanic    Class = "panic"    // a panic that nothing above explains
	ClassMCE      Class = "mce"      // a machine check: the hardware's word
	ClassOOM      Class = "oom"      // a process was killed for want of memory: the guest's size, no bug of the kernel, and no crash to results.Judge
)

// Report is one bug that a kernel reported on its console.
type Report struct {
	Title     string   `json:"title"` // as syzbot words it: "WARNING in kvm_put_kvm"
	Class     Class    `json:"class"`
	Frames    []string `json:"frames,omitempty"`  // function names, innermost first, without offsets
	Modules   []string `json:"modules,omitempty"` // per frame, the module it lives in, "" for vmlinux
	CPU       int      `json:"cpu"`               // -1 when not said
	PID       int      `json:"pid"`               // 0 when not said
	Comm      string   `json:"comm,omitempty"`
	Tainted   string   `json:"tainted,omitempty"`
	Signature string   `json:"signature"`           // hash of title and top frames, stable over addresses and line numbers
	Line      int      `json:"line"`                // 1-based, first line in the log
	EndLine   int      `json:"end_line"`            // last line, inclusive
	Fatal     bool     `json:"fatal"`               // the kernel cannot be used after it: oops, BUG, panic, lockup
	Corrupted bool     `json:"corrupted,omitempty"` // parts are missing: the title may be another's
	Head      []string `json:"head,omitempty"`      // the lines that matter to a reader, cleaned, at most 25
	Followers []Report `json:"followers,omitempty"` // later reports that this one explains

	// What is known of a log that was just read, and not kept.
	Top     int    `json:"-"` // the frame from which on they tell this bug from another
	Sites   []Site `json:"-"` // per frame, for its source
	Release string `json:"-"` // of the kernel, "" when not said
	BuildID string `json:"-"` // of vmlinux, hexadecimal, "" when not said
}

// Site is a place in a compiled function, as a stack trace has it.
type Site struct {
	Symbol       string // with the compiler's suffixes, "" when the frame has no such place
	Offset, Size uint64 // in bytes
	BuildID      string // of the module, hexadecimal, "" when not said
	Exact        bool   // where the CPU was; else where a call returns to
}
