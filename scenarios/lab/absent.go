package lab

import (
	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// AbsentPage is a page of memory that is not there: whoever touches it sleeps until it is given, the kernel on
// behalf of a system call among them, with whatever locks it holds. Its Mem is for system calls: to look at it here
// would be to wait.
type AbsentPage struct {
	*Page
	t     *T
	fault uapi.Desc
}

// NewAbsentPage maps one. It is given at the scenario's end at the latest.
func (t *T) NewAbsentPage() *AbsentPage {
	mem, err := unix.Mmap(-1, 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	t.mustHost("map a page", err)
	t.atEnd("unmap the absent page", func() error { return unix.Munmap(mem) })
	p := &AbsentPage{Page: &Page{mem}, t: t}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		t.mustHost("userfaultfd", errno)
	}
	p.fault = uapi.Own(int(fd), "userfaultfd")
	t.atEnd("give the absent page", p.fault.Close)
	_, err = uapi.IoctlPtr(int(fd), "userfaultfd", uapi.UFFDAPI, &uapi.UFFDAPIArgs{API: uapi.UFFDVersion})
	t.mustHost("userfaultfd", err)
	_, err = uapi.IoctlPtr(int(fd), "userfaultfd", uapi.UFFDRegister,
		&uapi.UFFDRegisterArgs{Start: uint64(p.Address()), Len: PageSize, Mode: uapi.UFFDMissing})
	t.mustHost("userfaultfd", err)
	return p
}

// Give makes it an ordinary page of zeros. Whoever waits goes on.
func (p *AbsentPage) Give() { p.t.mustHost("give a page", p.fault.Close()) }
