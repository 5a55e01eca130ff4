package console

import "strings"

// A report is named after one function of its stack trace. The innermost one is often a messenger: it
// prints, checks, locks, copies, counts, allocates or frees for somebody else, whose bug it is.

// pick says how a report's kind chooses among the frames.
type pick uint8

const (
	pickFirst  pick = iota // the first frame that is no messenger
	pickBefore             // the last one before work was dispatched: where in a loop a CPU was caught is chance
	pickSleep              // the first one that is no part of going to sleep, unless it waits for what all wait for
)

// guilty gives the function that a report is named after, "" when there is none, and its place in frames,
// -1 when it is not in there. skip are further messengers of the report's kind: fragments of names, with ^
// and $ for their ends.
func (p pick) guilty(frames []frame, skip []string) (string, int) {
	switch p {
	case pickSleep:
		for i, f := range frames {
			switch {
			case f.inline:
			case strings.Contains(f.name, "rtnl_lock"):
				return f.name, i
			case strings.Contains(f.name, "synchronize_rcu"), strings.Contains(f.name, "synchronize_srcu"), strings.Contains(f.name, "synchronize_net"):
				return "synchronize_rcu", i // whoever waits for a grace period is a victim
			}
		}
		skip = sleeps
	case pickBefore:
		before := -1
		for i, f := range frames {
			if messenger(f, skip) {
				continue
			}
			if dispatches(f) {
				if strings.Contains(f.name, "smp_call_function") {
					return "smp_call_function", i
				}
				if before < 0 {
					before = i
				}
				return withoutSyscall(frames[before].name), before
			}
			before = i
		}
	}
	for i, f := range frames {
		if !messenger(f, skip) {
			return withoutSyscall(f.name), i
		}
	}
	if p == pickFirst { // a trace of helpers alone: the innermost of them has to stand for it
		for i, f := range frames {
			if !f.inline && !matches(f.name, reporters) && !matches(f.name, skip) {
				return withoutSyscall(f.name), i
			}
		}
	}
	return "", -1
}

func dispatches(f frame) bool { return matches(withoutSyscall(f.name), dispatchers) }

func messenger(f frame, skip []string) bool {
	return f.inline || onlyReports(f.name) || matches(f.name, skip)
}

// matches reports whether a name holds one of the fragments.
func matches(name string, fragments []string) bool {
	for _, p := range fragments {
		start, end := false, false
		if p[0] == '^' {
			start, p = true, p[1:]
		}
		if p[len(p)-1] == '$' {
			end, p = true, p[:len(p)-1]
		}
		switch {
		case start && end && name == p, start && !end && strings.HasPrefix(name, p),
			end && !start && strings.HasSuffix(name, p), !start && !end && strings.Contains(name, p):
			return true
		}
	}
	return false
}

// withoutSyscall drops what an architecture puts before the name of a system call.
func withoutSyscall(name string) string {
	for _, p := range []string{"compat_SYSC_", "compat_SyS_", "SYSC_", "SyS_", "sys_", "__x64_", "__ia32_", "__arm64_", "__se_sys_", "__se_", "__do_sys_", "____sys_", "___sys_", "__sys_", "ksys_"} {
		if rest, ok := strings.CutPrefix(name, p); ok && rest != "" {
			return rest
		}
	}
	return name
}

// onlyReports reports whether a function cannot be the one that a bug is named after.
func onlyReports(name string) bool { return matches(name, reporters) || matches(name, helpers) }

// Frames that find and print what others did.
var reporters = words(`
	panic ^die$ ^__die ^die_ ^oops_ __warn ^warn_ handle_bug fixup_bug report_bug invalid_op ^exc_ ^asm_exc_ do_error
	^do_trap _trap$ page_fault_oops ^no_context$ ^bad_area ^__bad_area mm_fault_error do_user_addr_fault do_kern_addr_fault
	^do_page_fault ^__do_page_fault ^async_page_fault$ ^page_fault$ ^general_protection$ ^error_entry$
	do_kernel_fault ^do_translation_fault ^do_mem_abort ^el1_abort ^el1_ ^el1h_64_ ^brk_handler ^bug_handler ^ex_handler_ ^fixup_exception$ ^refcount_error_report$ ^do_debug_exception ^program_check
	^__show_regs$ ^show_regs ^sched_show_task$ ^show_state_filter$ show_stack dump_stack dump_page ^dump_backtrace show_trace_log walk_stack stack_trace_ ^arch_stack_walk unwind_next_frame ^arc_unwind_core$
	^print_ ^report_ ^__report_ printk va_format snprintf scnprintf kasprintf ^string$ ^string_ ^pointer$ ^hex_string$
	^ip_addr_string$ ^ip4_addr_string ^ip6_addr_string ^ip4_string$ ^ip6_string$ ^ip6_compressed_string$ ^mac_address_string$ ^uuid_string$ hex_dump ^dev_err ^dev_warn
	^dev_info ^get_taint$

	rust_begin_unwind ^core::panicking:: ^core::option:: ^core::result:: ^core::slice:: ^core::str::

	kasan ^__asan ^__hwasan hwasan ^__sanitizer ^kfence_report ^kfence_handle_page_fault$ kmsan ^__msan ^__tsan kcsan ^kcsan check_memory_region ubsan read_word_at_a_time ^__read_once_word
	kmemleak ^object_err ^slab_ ^__slab_ ^___slab_ slab_err check_slab check_object ^free_debug_ ^alloc_debug_ free_to_partial_list
	^___cache_free allocate_slab ^new_slab kmem_cache fortify ^usercopy_ check_heap_object ^__check_object_size
	debug_object debug_check_no_obj debug_print_object is_static_object ^add_dma_entry$ ^check_unmap$ ^debug_dma_ ^dma_map_ ^dma_unmap_

	lockdep lock_acquire lock_release lock_class ^lock_contended$ ^validate_chain$ mark_lock mark_held_locks reacquire_held_locks ^check_prev ^check_noncircular$
	^check_deadlock$ ^check_irq_usage$ ^check_usage ^check_wait_context$ ^valid_state$ ^assign_lock_key$ ^debug_check_no_locks imbalance_bug
	^check_preemption_disabled$
`)

// Frames that do what anybody asks of them.
var helpers = words(`
	trace_hardirq trace_softirq ^__bh_enable ^__local_bh local_bh_enable local_bh_disable ^_local_bh

	fs_reclaim_acquire ^_atomic_dec_and_ spin_lock spin_trylock spin_unlock ^do_raw_ ^queued_ ^native_queued_ raw_spin_rq read_lock read_trylock read_unlock write_lock write_trylock
	write_unlock ^down$ ^down_ ^__down ^up_ ^__up_ ^percpu_down ^percpu_up ^__percpu_down ^rwsem_ ^mutex_ ^__mutex_ ^rt_mutex ^__rt_mutex
	^ww_mutex ^rtlock_ ^rwbase_ ^rust_helper_ osq_lock osq_unlock owner_on_cpu ^complete$ ^__wake_up wait_for_completion ^__wait_for_common$ ^do_wait_for_common$ ^wait_for_common$ ^finish_wait$

	^refcount_ ^__refcount ^kref_ ref_tracker ^atomic_ ^atomic64_ ^arch_atomic ^__list_add ^__list_del ^list_add ^list_del ^list_move ^list_replace
	^list_splice ^__list_splice ^klist_ ^rb_ ^__rb_ ^hlist_ ^set_bit$ ^clear_bit$ ^test_bit$ ^change_bit$ ^__set_bit$ ^__clear_bit$ ^test_and_ ^__test_and_

	memcpy memset memmove memcmp memchr memdup strlen strnlen strcmp strncmp strcpy strncpy strlcpy strscpy strchr strrchr strnchr strstr strnstr strspn strcspn strpbrk strsep strcat strncat strlcat strcasecmp strncasecmp strdup strndup rep_movs rep_stos
	copy_to_user copy_from_user ^__copy_user copy_user_generic copy_to_iter copy_from_iter copy_page_to_iter copy_page_from_iter get_user put_user
	__might_ ^___might ^might_ ^__phys_addr
	kmalloc kzalloc kcalloc kvmalloc kvzalloc vmalloc vzalloc krealloc alloc_page alloc_frozen_page folio_alloc ^kfree$ ^kvfree$ ^vfree$ ^kzfree$
	^kfree_sensitive$ ^free_large_kmalloc$ kfree_skb

	^schedule$ ^__schedule schedule_timeout ^schedule_preempt ^schedule_idle cond_resched io_schedule preempt_schedule ^context_switch$ ^__switch_to
	^dl_task_check_affinity$

	del_timer timer_delete ^sk_stop_timer lock_timer_base ^__mod_timer flush_work cancel_work cancel_delayed_work try_to_grab_pending drain_workqueue
	destroy_workqueue queue_work ^insert_work$ queue_delayed_work kthread_stop ^kobject_ ^add_uevent_var$ ^get_device_parent$ ^put_device$ ^device_add$
	^device_del$ ^device_unregister$ ^device_destroy$ ^device_release$ ^dpm_sysfs_remove$ ^i2c_del_adapter$ ^devres_release_all$ ^device_for_each_child$ sysfs_warn_dup ^sysfs_create_dir
	^sysfs_remove ^device_remove_file$ unregister_netdev ^rollback_registered ^hwrng_unregister$ usb_kill_urb usb_control_msg usb_hcd_submit_urb usb_submit_urb ^iput$ ^iput_final$ ^ihold$ dput
	^ida_free$ ^drop_nlink$ ^xas_start$ ^xas_load$ ^xas_find ^find_get_entr ^find_lock_entr ^ifs_free$ ^folio_unlock$ ^unlock_page$ ^truncate_cleanup_folio$ ^truncate_inode_ rhashtable_lookup cleanup_srcu_struct readb$ readw$ readl$ readq$ writeb$ writew$
	writel$ writeq$ ^crc_ ^crc16 ^crc32 ^crc64 ^crc7 ^crc8 _indirect_thunk_
`)

// What puts a task to sleep.
var sleeps = words(`^do_read_cache_ sched _lock _slowlock down rwsem completion kthread wait synchronize context_switch __switch_to rcu_barrier`)

// What calls whatever was registered with it. Below it in a trace nothing tells one bug from another.
var dispatchers = words(`
	process_one_work do_syscall_ do_fast_syscall_ invoke_syscall ret_fast_syscall system_call __do_syscall ^do_syscall$ do_trap_ecall handle_sys
	syscall_common ret_from_syscall el0_svc do_softirq handle_softirqs call_timer_fn run_timers
	run_timer_softirq hrtimer_run ksoftirqd smpboot_thread_fn ^kthread$ start_secondary cpu_startup_entry ret_from_fork netif_receive_skb
	vfs_write vfs_read vfs_iter_ do_iter_read do_iter_write call_read_iter call_write_iter new_sync_read new_sync_write vfs_ioctl ^compat_ioctl
	compat_sys_ioctl blkdev_ioctl ^call_mmap mmap_region do_mmap do_dentry_open vfs_open
	^sock_sendmsg ^sock_recvmsg ^sock_release ^__sock_release ^setsockopt$ kernel_setsockopt sock_common_setsockopt ^listen$ kernel_listen sk_common_release
	^sock_mmap ^accept$ kernel_accept ^sock_do_ioctl ^sock_ioctl ^compat_sock_ioctl ^nfnetlink_rcv_msg ^rtnetlink_rcv_msg ^netlink_dump
	^sys_socketpair ^socketpair ^sys_connect ^connect ^sys_ioctl ^ioctl
	__do_fault do_page_fault ^page_fault$ __fput task_work_run exit_to_usermode smp_call_function tasklet_action tasklet_hi_action
`)

// Further messengers of one kind of report.
var (
	skipFree      = words(`slab_ kfree vunmap vfree`)
	skipKMSAN     = words(`alloc_skb netlink_ack netlink_rcv_skb usb_start_wait_urb usb_bulk_msg usb_interrupt_msg _encrypt$ ^crypto_ ^cipher_ ^drbg_ ^rng_`)
	skipSpin      = words(`spin_ _lock _unlock`)
	skipPreempt   = words(`preempt debug_ processor_id this_cpu`)
	skipLeak      = words(`mmap kmem slab alloc create_object idr_get list_lru_init`)
	skipObject    = words(`debug_ rcu hrtimer_ timer_ work_ percpu_ vunmap vfree __free_`)
	skipUserCopy  = words(`usercopy __check`)
	skipKobject   = words(`kobject_`)
	skipRefcount  = words(`refcount kobject_`)
	skipProc      = words(`proc_`)
	skipSock      = words(`lock_sock release_sock`)
	skipURB       = words(`usb_start_wait_urb usb_bulk_msg usb_interrupt_msg`)
	skipWork      = words(`process_one_work flush_workqueue drain_workqueue destroy_workqueue`)
	skipRCU       = words(`rcu kmem slab`)
	skipKey       = words(`stack lock IRQ`)
	skipOverflow  = words(`overflow`)
	skipSKB       = words(`^skb_`)
	skipSchedule  = words(`schedule retint_kernel`)
	skipStack     = words(`stack_chk bad_stack`)
	skipTaking    = words(`^lock_ ^local_lock spin_ mutex_ _acquire ^down ^up_ ^rcu_`) // what takes a lock for somebody
	skipTimer     = words(`apic_timer_interrupt rcu`)
	skipPageOwner = words(`^bad_page$ free_hot_cold check_new_page prep_new_page ^tlb_ free_page put_page get_page update_page release_page free_unref ^folio ^__folio truncate_inode_pages page_frag_free filemap_ alloc vmap page_owner`)
)

func words(list string) []string { return strings.Fields(list) }

// interruptEntry reports whether a frame is the way into an interrupt: in a lockup, what stands above it is the watchdog at work.
func interruptEntry(name string) bool {
	switch name {
	case "apic_timer_interrupt", "call_function_interrupt", "call_function_single_interrupt", "reschedule_interrupt", "common_interrupt",
		"asm_common_interrupt", "ret_from_intr", "asm_exc_nmi", "end_repeat_nmi", // x86
		"el1h_64_irq", "el1_irq", "__irq_svc", // arm64, arm
		"ext_int_handler", "do_ext_irq", "decrementer_common", "decrementer_common_virt", // s390, powerpc
		"ret_from_exception", "handle_exception", "handle_vint", "do_vint", "handle_int": // riscv, loongarch, mips
		return true
	}
	return strings.HasPrefix(name, "asm_sysvec_")
}
