package scenarios

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// The kernel's own crash test module (drivers/misc/lkdtm) commits a crime for each word that is written to it, in
// the writer's context. Each trigger of which some kernel reports something is a variant, in a guest of its own: the
// report must be found, under the title that syzbot gives it, and no other with it.
//
// What a kernel notices depends on how it was built. Where one notices nothing the plan says which option it
// lacks; where two notice the same crime differently (a pointer to nothing is a page fault, and with KASAN a
// general protection fault of its shadow) the table says so. No flavour that nestbed builds has VMAP_STACK,
// FORTIFY_SOURCE, HARDENED_USERCOPY, SLAB_FREELIST_HARDENED, KFENCE, UBSAN_BOUNDS or a compiler for checked memset and
// counted_by: what is said of kernels with these is after the kernel's sources, and was not seen yet.
//
// These are left out, because no kernel on these machines has anything to report: HARDLOCKUP (one CPU that takes no
// interrupt, and no performance counter to raise an NMI: silence, which is a hang), SMP_CALL_LOCKUP (needs a second
// CPU), LOOP (can be preempted), DOUBLE_FAULT (32 bit), CORRUPT_PAC (arm64), WRITE_OPD and PPC_SLB_MULTIHIT (powerpc),
// OVERFLOW_SIGNED and OVERFLOW_UNSIGNED (wrap, by -fno-strict-overflow), EFI_RUNTIME_CRASH (no EFI), UNALIGNED_LOAD_STORE_WRITE (allowed),
// CFI_FORWARD_PROTO and CFI_BACKWARD (need clang), the timings and statistics, and what tests that memory is
// initialised, which lkdtm judges itself.
var _ = lab.Register(lab.Scenario{
	Name:     "detect-lkdtm",
	Summary:  "what the kernel's crash test module provokes is found, and titled as syzbot does",
	Area:     lab.Detect,
	Needs:    lab.Needs{Modules: []string{"lkdtm"}, Options: []string{"CONFIG_DEBUG_FS"}},
	Timeout:  60 * time.Second,
	Variants: crimeVariants(),
	Run: func(t *lab.T) {
		c := crimes[slices.IndexFunc(crimes, func(c crime) bool { return c.variant() == t.Variant() })]
		reports := slices.DeleteFunc(slices.Clone(c.reports), func(r lkdtmReport) bool { return !r.by.isSo(t) })
		if len(reports) == 0 {
			t.Broken("the table has no report of " + c.trigger + " for this kernel")
		}
		switch last := reports[len(reports)-1]; last.class { // what a busy host makes late is no report elsewhere
		case record.ClassLockup:
			t.Sysctl("kernel/watchdog_thresh", "2")
		case record.ClassHung:
			t.Sysctl("kernel/hung_task_timeout_secs", "2")
		}
		t.Step("have lkdtm do " + c.trigger)
		for _, r := range reports[:len(reports)-1] {
			t.Expect(r.expect(c.trigger))
		}
		t.Provoke(reports[len(reports)-1].expect(c.trigger), 30*time.Second, lkdtm, c.words()...)
	},
})

// lkdtm writes its arguments, one after the other, with a sleep in between. Between a first that leaves a spin lock
// taken and the second that waits for it nothing may fault or take a signal: the kernel thinks this task atomic.
var lkdtm = lab.RegisterChild("lkdtm", func(c *lab.C) error {
	fd, err := unix.Open("/sys/kernel/debug/provoke-crash/DIRECT", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	runtime.LockOSThread() // never unlocked: the thread is the kernel's to end
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, nil); err != nil {
		return err
	}
	pause := &unix.Timespec{Nsec: 20_000_000} // long enough not to be over before it begins
	for _, trigger := range c.Args {
		text := []byte(trigger)
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(text))), uintptr(len(text)))
		if errno != 0 {
			return errno
		}
		unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(pause)), 0, 0)
	}
	return nil
})

// crime is a trigger and what the kernel must report of it, in this order: all of it where there is more than one.
type crime struct {
	trigger string
	needs   lab.Needs
	reports []lkdtmReport
}

// lkdtmReport is one report, of some kernels.
type lkdtmReport struct {
	title string // a regular expression for all of it; @ is the trigger's function
	class record.Class
	ends  bool // the kernel
	by    fact
}

// fact tells kernels apart by a function that they have, or have not with a "!" before it. "" is all of them.
type fact string

// The facts.
const (
	kasan       fact = "kasan_report"
	noKASAN     fact = "!kasan_report"
	protector   fact = "__stack_chk_fail"
	noProtector fact = "!__stack_chk_fail"
	lockdep     fact = "lockdep_sys_exit"
)

func (f fact) isSo(t *lab.T) bool {
	name, not := strings.CutPrefix(string(f), "!")
	return f == "" || t.HasSymbol(name) != not
}

func (c crime) variant() string { return strings.ToLower(strings.ReplaceAll(c.trigger, "_", "-")) }

func (c crime) words() []string {
	if c.trigger == "SPINLOCKUP" { // the first one takes the lock
		return []string{c.trigger, c.trigger}
	}
	return []string{c.trigger}
}

func (r lkdtmReport) expect(trigger string) record.Expect {
	return record.Expect{
		Title: "^" + strings.ReplaceAll(r.title, "@", "lkdtm_"+trigger) + "$", Class: r.class, Fatal: r.ends,
		Why: fmt.Sprintf("lkdtm's %s", trigger),
	}
}

func crimeVariants() []lab.Variant {
	var list []lab.Variant
	for _, c := range crimes {
		list = append(list, lab.Variant{Name: c.variant(), Needs: c.needs})
	}
	return list
}

// checkedMemset is the option of kernels whose compiler (GCC 13) has KASAN check the memset of a module.
const checkedMemset = "CONFIG_CC_HAS_KASAN_MEMINTRINSIC_PREFIX"

func with(options ...string) lab.Needs { return lab.Needs{Options: options} }

// Reports that several triggers end in.
func warns(title string) []lkdtmReport    { return []lkdtmReport{{title, record.ClassWarn, false, ""}} }
func bug(title string) []lkdtmReport      { return []lkdtmReport{{title, record.ClassBug, true, ""}} }
func panics(title string) []lkdtmReport   { return []lkdtmReport{{title, record.ClassPanic, true, ""}} }
func oopses(title string) []lkdtmReport   { return []lkdtmReport{{title, record.ClassOops, true, ""}} }
func kasans(title string) []lkdtmReport   { return []lkdtmReport{{title, record.ClassKASAN, false, ""}} }
func ubsan(title string) []lkdtmReport    { return []lkdtmReport{{title, record.ClassUBSAN, false, ""}} }
func corrupts(title string) []lkdtmReport { return []lkdtmReport{{title, record.ClassList, false, ""}} }

// nothing is what a pointer to nothing ends in: KASAN looks up its shadow first, at an address that is none.
func nothing(function string) []lkdtmReport {
	return []lkdtmReport{
		{"BUG: unable to handle kernel NULL pointer dereference in " + function, record.ClassOops, true, noKASAN},
		{"general protection fault in " + function, record.ClassOops, true, kasan},
	}
}

var (
	refcountBug = []lkdtmReport{{"WARNING: refcount bug in @", record.ClassRefcount, false, ""}}
	pagingFault = oopses("BUG: unable to handle kernel paging request in @")
	// The processor is where nothing has a name, and the unwinder believes nothing above it.
	unnamed = oopses("BUG: unable to handle kernel paging request in corrupted")
	// The same in a module's data, which has a name with CONFIG_KALLSYMS_ALL, and up to 6.1 that of the function in
	// front of it.
	inModule    = oopses(`BUG: unable to handle kernel paging request in (corrupted|data_area|lkdtm_\w+)`)
	usercopyBug = []lkdtmReport{{"BUG: bad usercopy in @", record.ClassBug, true, ""}}
	// With a stack protector the canary is found to be gone, without one the return address is.
	corruptStack = []lkdtmReport{
		{"kernel panic: stack is corrupted in @", record.ClassPanic, true, protector},
		{"BUG: unable to handle kernel paging request in corrupted", record.ClassOops, true, noProtector},
	}
	fortifyPanic = bug("kernel BUG in @")
)

var crimes = []crime{
	{"PANIC", lab.Needs{}, panics("kernel panic: dumptest")},
	{"PANIC_STOP_IRQOFF", lab.Needs{MinKernel: "6.12"}, panics("kernel panic: panic stop irqoff test")},
	{"PANIC_IN_HARDIRQ", lab.Needs{MinKernel: "7.3"}, panics("kernel panic: from hard IRQ context")},
	{"BUG", lab.Needs{}, bug("kernel BUG in @")},
	{"BUG_IN_HARDIRQ", lab.Needs{MinKernel: "7.3"}, bug("kernel BUG in bug_in_hardirq")},
	{"WARNING", lab.Needs{}, warns("WARNING in @")},
	{"WARNING_MESSAGE", lab.Needs{}, warns("WARNING in @")},
	{"EXCEPTION", lab.Needs{}, nothing("@")},
	{"EXHAUST_STACK", with("CONFIG_VMAP_STACK"), oopses("BUG: stack guard page was hit in recursive_loop")},
	{"CORRUPT_STACK", lab.Needs{}, corruptStack},
	{"CORRUPT_STACK_STRONG", lab.Needs{}, corruptStack},
	{"SOFTLOCKUP", with("CONFIG_SOFTLOCKUP_DETECTOR"), []lkdtmReport{
		{`BUG: soft lockup in full_proxy_write\w*`, record.ClassLockup, true, ""},
	}},
	{"SPINLOCKUP", with("CONFIG_SOFTLOCKUP_DETECTOR"), []lkdtmReport{
		{"WARNING: lock held when returning to user space in lkdtm_do_action", record.ClassLockdep, false, lockdep},
		// The tick that comes first makes one of the other, by putting the count of preemption back.
		{`BUG: (sleeping function called from invalid context|scheduling while atomic) in \w+`, record.ClassBug, false, ""},
		{`BUG: soft lockup in full_proxy_write\w*`, record.ClassLockup, true, ""},
	}},
	{"HUNG_TASK", with("CONFIG_DETECT_HUNG_TASK"), []lkdtmReport{
		{"INFO: task hung in (@|direct_entry)", record.ClassHung, false, ""}, // on 6.1 its last call is a jump
	}},
	{"ARRAY_BOUNDS", with("CONFIG_UBSAN_BOUNDS"), ubsan("UBSAN: array-index-out-of-bounds in @")},
	{"FAM_BOUNDS", with("CONFIG_UBSAN_BOUNDS", "CONFIG_CC_HAS_COUNTED_BY"), ubsan("UBSAN: array-index-out-of-bounds in @")},
	{"PTR_BOUNDS", lab.Needs{MinKernel: "7.3", Options: []string{"CONFIG_KASAN"}}, kasans("KASAN: slab-out-of-bounds Read in @")},
	{"CORRUPT_LIST_ADD", with("CONFIG_DEBUG_LIST"), corrupts("WARNING: corrupted list in @")},
	{"CORRUPT_LIST_DEL", with("CONFIG_DEBUG_LIST"), corrupts("WARNING: corrupted list in @")},
	{"STACK_GUARD_PAGE_LEADING", with("CONFIG_VMAP_STACK"), oopses("BUG: stack guard page was hit in @")},
	{"STACK_GUARD_PAGE_TRAILING", with("CONFIG_VMAP_STACK"), oopses("BUG: stack guard page was hit in @")},
	{"UNSET_SMEP", lab.Needs{}, warns("WARNING in native_write_cr4")},
	{"FORTIFY_STR_OBJECT", lab.Needs{MaxKernel: "7.2", Options: []string{"CONFIG_FORTIFY_SOURCE"}}, fortifyPanic},
	{"FORTIFY_STR_MEMBER", with("CONFIG_FORTIFY_SOURCE"), fortifyPanic},
	{"FORTIFY_MEM_OBJECT", with("CONFIG_FORTIFY_SOURCE"), fortifyPanic},
	{"FORTIFY_MEM_MEMBER", with("CONFIG_FORTIFY_SOURCE"), warns("WARNING in @")},
	{"FORTIFY_STRSCPY", lab.Needs{Options: []string{"CONFIG_KASAN"}, Without: []string{"CONFIG_FORTIFY_SOURCE"}},
		kasans("KASAN: stack-out-of-bounds Write in @")}, // with it, the write is not reached

	{"SLAB_LINEAR_OVERFLOW", with("CONFIG_KASAN"), kasans("KASAN: slab-out-of-bounds Write in @")},
	{"VMALLOC_LINEAR_OVERFLOW", lab.Needs{Without: []string{checkedMemset}}, pagingFault},
	{"WRITE_AFTER_FREE", with("CONFIG_KASAN"), kasans("KASAN: slab-use-after-free Write in @")},
	{"READ_AFTER_FREE", with("CONFIG_KASAN"), kasans("KASAN: slab-use-after-free Read in @")},
	{"KFENCE_READ_AFTER_FREE", with("CONFIG_KFENCE"), kasans("KFENCE: use-after-free in @")},
	{"WRITE_BUDDY_AFTER_FREE", with("CONFIG_KASAN", checkedMemset), kasans("KASAN: use-after-free Write in @")},
	{"READ_BUDDY_AFTER_FREE", with("CONFIG_KASAN"), kasans("KASAN: use-after-free Read in @")},
	{"SLAB_FREE_DOUBLE", with("CONFIG_KASAN"), kasans("KASAN: invalid-free in (@|lkdtm_do_action)")}, // its last call may be a jump
	{"SLAB_FREE_CROSS", with("CONFIG_SLAB_FREELIST_HARDENED"), warns("WARNING in @")},
	{"SLAB_FREE_PAGE", with("CONFIG_SLAB_FREELIST_HARDENED"), warns("WARNING in @")},

	{"WRITE_RO", lab.Needs{}, pagingFault},
	{"WRITE_RO_AFTER_INIT", lab.Needs{}, pagingFault},
	{"WRITE_KERN", lab.Needs{}, pagingFault},
	{"EXEC_DATA", lab.Needs{}, inModule},
	{"EXEC_STACK", lab.Needs{}, unnamed},
	{"EXEC_KMALLOC", lab.Needs{}, unnamed},
	{"EXEC_VMALLOC", lab.Needs{}, unnamed},
	{"EXEC_RODATA", lab.Needs{}, inModule},
	{"EXEC_USERSPACE", lab.Needs{}, unnamed},
	{"EXEC_NULL", lab.Needs{}, oopses("BUG: unable to handle kernel NULL pointer dereference in execute_location")},
	{"ACCESS_USERSPACE", lab.Needs{}, []lkdtmReport{
		{"BUG: unable to handle kernel paging request in @", record.ClassOops, true, noKASAN},
		{"general protection fault in @", record.ClassOops, true, kasan},
	}},
	{"ACCESS_NULL", lab.Needs{}, nothing("@")},

	{"REFCOUNT_INC_OVERFLOW", lab.Needs{}, refcountBug},
	{"REFCOUNT_ADD_OVERFLOW", lab.Needs{}, refcountBug},
	{"REFCOUNT_INC_NOT_ZERO_OVERFLOW", lab.Needs{}, refcountBug},
	{"REFCOUNT_ADD_NOT_ZERO_OVERFLOW", lab.Needs{}, refcountBug},
	{"REFCOUNT_DEC_ZERO", lab.Needs{}, refcountBug},
	{"REFCOUNT_DEC_NEGATIVE", lab.Needs{}, refcountBug},
	{"REFCOUNT_DEC_AND_TEST_NEGATIVE", lab.Needs{}, refcountBug},
	{"REFCOUNT_SUB_AND_TEST_NEGATIVE", lab.Needs{}, refcountBug},
	{"REFCOUNT_SUB_AND_TEST_ZERO", lab.Needs{MinKernel: "6.12"}, refcountBug},
	{"REFCOUNT_INC_ZERO", lab.Needs{}, refcountBug},
	{"REFCOUNT_ADD_ZERO", lab.Needs{}, refcountBug},
	{"REFCOUNT_INC_SATURATED", lab.Needs{}, refcountBug},
	{"REFCOUNT_DEC_SATURATED", lab.Needs{}, refcountBug},
	{"REFCOUNT_ADD_SATURATED", lab.Needs{}, refcountBug},
	{"REFCOUNT_INC_NOT_ZERO_SATURATED", lab.Needs{}, refcountBug},
	{"REFCOUNT_ADD_NOT_ZERO_SATURATED", lab.Needs{}, refcountBug},
	{"REFCOUNT_DEC_AND_TEST_SATURATED", lab.Needs{}, refcountBug},
	{"REFCOUNT_SUB_AND_TEST_SATURATED", lab.Needs{}, refcountBug},

	{"USERCOPY_SLAB_SIZE_TO", with("CONFIG_HARDENED_USERCOPY"), usercopyBug},
	{"USERCOPY_SLAB_SIZE_FROM", with("CONFIG_HARDENED_USERCOPY"), usercopyBug},
	{"USERCOPY_SLAB_WHITELIST_TO", with("CONFIG_HARDENED_USERCOPY"), usercopyBug},
	{"USERCOPY_SLAB_WHITELIST_FROM", with("CONFIG_HARDENED_USERCOPY"), usercopyBug},
	{"USERCOPY_STACK_FRAME_TO", with("CONFIG_HARDENED_USERCOPY"), usercopyBug},
	{"USERCOPY_STACK_FRAME_FROM", with("CONFIG_HARDENED_USERCOPY"), usercopyBug},
	{"USERCOPY_STACK_BEYOND", with("CONFIG_HARDENED_USERCOPY"), usercopyBug},
	{"USERCOPY_VMALLOC", with("CONFIG_HARDENED_USERCOPY"), usercopyBug},
	{"USERCOPY_FOLIO", with("CONFIG_HARDENED_USERCOPY"), usercopyBug},
	{"USERCOPY_KERNEL", with("CONFIG_HARDENED_USERCOPY"), usercopyBug},
}
