package console

import (
	"bytes"
	"strings"
)

// frame is one entry of a stack trace.
type frame struct {
	name   string // without offset and without the compiler's suffixes
	module string // "" for vmlinux
	sure   bool   // not marked with "?"
}

// maxName bounds a function's or module's name; the kernel's own limit for a symbol is 512.
const maxName = 160

// parseFrame reads "? func+0x1f/0x40 [module]" in the forms of the kernel, of decode_stacktrace.sh and of
// symbolized inline frames.
func parseFrame(text []byte) (frame, bool) {
	text = bytes.TrimSpace(text)
	f := frame{sure: true}
	if bytes.HasPrefix(text, []byte("[<")) { // up to 4.8: [<ffffffff811e0081>] func+0x...
		end := bytes.Index(text, []byte(">]"))
		if end < 0 {
			return f, false
		}
		text = bytes.TrimLeft(text[end+2:], " ")
	}
	if rest, ok := bytes.CutPrefix(text, []byte("? ")); ok {
		f.sure, text = false, bytes.TrimLeft(rest, " ")
	}
	n := symbol(text)
	if n == 0 || n == len(text) || n > maxName {
		return f, false
	}
	f.name = baseName(string(text[:n]))
	rest := text[n:]
	if off := offset(rest); off > 0 {
		f.module = moduleOf(rest[off:])
		return f, true
	}
	// func (virt/kvm/kvm_main.c:1234) kvm       from decode_stacktrace.sh
	if bytes.HasPrefix(rest, []byte(" (")) {
		end := bytes.LastIndexByte(rest, ')')
		if end > 0 && bytes.IndexByte(rest[:end], ':') > 0 {
			module := bytes.TrimSpace(rest[end+1:])
			if symbol(module) == len(module) {
				f.module = string(module)
			}
			return f, true
		}
		return f, false
	}
	// func mm/slub.c:1234 [inline]
	if bytes.HasSuffix(rest, []byte(" [inline]")) && bytes.IndexByte(rest, ':') > 0 {
		return f, true
	}
	return f, false
}

// symbol gives the length of the symbol at the start of s.
func symbol(s []byte) int {
	for i, c := range s {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '.' && c != '$') {
			return i
		}
	}
	return len(s)
}

// offset gives the length of "+0x1f/0x40" at the start of s.
func offset(s []byte) int {
	i := 0
	for _, lead := range []string{"+0x", "/0x"} {
		if !bytes.HasPrefix(s[i:], []byte(lead)) {
			return 0
		}
		i += len(lead)
		start := i
		for i < len(s) && hexDigit(s[i]) {
			i++
		}
		if i == start {
			return 0
		}
	}
	return i
}

func hexDigit(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }

// moduleOf reads "[kvm]", "[kvm(OE)]" or "[kvm 0123abcd]" (a build id).
func moduleOf(s []byte) string {
	open := bytes.IndexByte(s, '[')
	if open < 0 {
		return ""
	}
	s = s[open+1:]
	n := symbol(s)
	if n == 0 || n > maxName || n == len(s) || !bytes.ContainsRune([]byte("] (-"), rune(s[n])) || string(s[:n]) == "inline" {
		return ""
	}
	return string(s[:n])
}

// baseName drops what the compiler appended: .constprop.0, .isra.0, .part.0, .cold.
func baseName(name string) string {
	if i := strings.IndexByte(name, '.'); i > 0 {
		return name[:i]
	}
	return name
}

// onlyReports reports whether a function cannot be the one that a bug is named after: it reports, locks,
// copies, counts, allocates or frees for somebody else, or is the way into an exception.
func onlyReports(name string) bool {
	if reporters[name] {
		return true
	}
	for _, p := range reporterPrefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

var reporters = set(`
	panic vpanic die __die die_addr die_body oops_end oops_begin nmi_panic
	__warn __warn_printk warn_slowpath_null warn_slowpath_fmt handle_bug fixup_bug report_bug invalid_op
	do_error_trap do_trap do_invalid_op page_fault_oops no_context bad_area bad_area_nosemaphore
	__bad_area_nosemaphore bad_area_access_error mm_fault_error do_user_addr_fault do_kern_addr_fault
	do_page_fault __do_page_fault async_page_fault page_fault general_protection error_entry
	show_stack dump_stack dump_stack_lvl __dump_stack show_trace_log_lvl dump_page
	object_err slab_err __slab_err slab_bug slab_fix slab_pad_check check_slab check_object
	free_debug_processing alloc_debug_processing free_to_partial_list
	refcount_warn_saturate refcount_dec_and_test __refcount_add __refcount_inc refcount_inc refcount_add
	refcount_dec_not_one refcount_dec_and_mutex_lock refcount_dec_and_lock kref_get kref_put
	list_add list_add_tail list_del list_del_init __list_add __list_del_entry list_move
	fortify_panic usercopy_abort check_heap_object
	lock_acquire lock_release __lock_acquire validate_chain mark_lock mark_lock_irq check_prev_add
	check_noncircular check_deadlock check_irq_usage check_wait_context register_lock_class
	assign_lock_key debug_check_no_locks_freed
	add_dma_entry check_unmap
	memcpy memset memmove memcmp strlen strcpy strncpy strcmp strnlen kasan_report
	kfree kvfree vfree kzfree kfree_sensitive krealloc kmemdup kstrdup free_large_kmalloc
	kmalloc kzalloc kcalloc kvmalloc kvzalloc vmalloc vzalloc slab_free slab_alloc slab_alloc_node
	___slab_alloc __slab_alloc __slab_free ___cache_free allocate_slab new_slab
	copy_from_user copy_to_user _copy_from_user _copy_to_user
	schedule __schedule schedule_timeout schedule_preempt_disabled schedule_idle io_schedule
	__schedule_bug check_preemption_disabled sysfs_warn_dup sysfs_create_dir_ns
	io_schedule_timeout preempt_schedule preempt_schedule_common preempt_schedule_irq context_switch
	__switch_to __switch_to_asm __wait_for_common do_wait_for_common
	dl_task_check_affinity osq_lock
`)

var reporterPrefixes = []string{
	"print_", "exc_", "asm_exc_", "report_", "__report_",
	"kasan_", "__kasan_", "__asan_", "__hwasan_", "kfence_", "__kfence_", "kmsan_", "__msan_", "kcsan_", "__tsan_",
	"ubsan_", "__ubsan_", "check_memory_region", "lockdep_", "kmemleak_", "wait_for_completion", "__might_", "___might_",
	"debug_object_", "__debug_object_", "debug_print_object", "debug_check_no_obj", "__debug_check_no_obj",
	"kmem_cache_", "__kmem_cache_", "__kmalloc", "__kvmalloc", "__vmalloc", "__list_add_valid", "__list_del_entry_valid",
	"mutex_", "__mutex_", "rt_mutex_", "__rt_mutex_", "ww_mutex_", "down_read", "down_write", "up_read", "up_write", "__down_", "__up_",
	"rwsem_", "percpu_down_", "percpu_up_", "__percpu_down_", "_raw_spin_", "_raw_read_", "_raw_write_",
	"__raw_spin_", "do_raw_", "queued_spin_", "native_queued_spin_", "queued_read_", "queued_write_",
	"__copy_user", "copy_user_generic", "rep_movs", "__memcpy", "__memset", "__memmove", "memcpy_", "memset_",
}

// interrupts are the ways into an interrupt: in a lockup, what stands above one is the watchdog at work.
func interruptEntry(name string) bool {
	return strings.HasPrefix(name, "asm_sysvec_") || name == "apic_timer_interrupt" || name == "asm_common_interrupt" ||
		name == "asm_exc_nmi" || name == "end_repeat_nmi"
}

func set(words string) map[string]bool {
	out := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		out[w] = true
	}
	return out
}
