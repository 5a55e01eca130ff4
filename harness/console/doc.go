// Package console finds kernel reports (oops, WARN, KASAN, lockdep, hung tasks ...) in what a guest
// prints: in a finished log, in /dev/kmsg records, and in a serial log while QEMU still writes it.
//
// It owns the shape of kernel messages: stamps, callers, stack frames, titles, signatures, and what of it
// may reach a terminal. It does not own how a report is judged (package results), who ends the guest
// (harness/runner) or what a person sees (results/render).
//
// # Titles
//
// Titles are worded as syzbot words them, "WARNING in kvm_put_kvm", so that they can be searched for on
// the list. The function is the first frame that does more than report, lock, copy or allocate: a NULL
// dereference inside down_write is a bug of its caller.
//
// # Groups
//
// A kernel that has reported one bug is not to be trusted about the next: the first report of a log leads,
// the later ones are its Followers, repeats are dropped. An IOMMU fault leads nothing, because it says
// nothing about the kernel's health.
package console
