// Package symbols finds where in the kernel's source the frames of a report are: in a vmlinux and in modules
// with debug information, inlined functions included.
//
// It owns the reading of ELF and DWARF. It does not own the frames (harness/console) nor how a place is shown
// (results/render). A stack trace names functions, not addresses, so a kernel's random base (KASLR) and the
// place to which a module was loaded make no difference to it.
package symbols
