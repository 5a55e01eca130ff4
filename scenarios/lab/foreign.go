package lab

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// Descriptor is a descriptor that is no verb's.
type Descriptor struct {
	uapi.Desc
	t *T
}

// Close closes the descriptor, which the scenario's end does otherwise.
func (d *Descriptor) Close() { d.t.must(d.Desc.Close()) }

func (t *T) own(fd int, name string) *Descriptor {
	d := &Descriptor{uapi.Own(fd, name), t}
	t.atEnd("close the "+name, d.Desc.Close)
	return d
}

// Foreign is a descriptor that is neither KVM's nor VFIO's.
func (t *T) Foreign() *Descriptor {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	t.mustHost("eventfd", err)
	return t.own(fd, "eventfd")
}

// Dup is another descriptor of the same open file.
func (t *T) Dup(fd int) *Descriptor {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	t.mustHost("dup", err)
	return t.own(dup, "duplicate")
}

// Mem is the page's bytes, for calls that take an address.
func (p *Page) Mem() []byte { return p.mem }

// SetModuleParameter writes a parameter of a module. At the end it has its old value back.
func (t *T) SetModuleParameter(module, parameter, value string) {
	path := filepath.Join(t.env.Root, "/sys/module", module, "parameters", parameter)
	before, err := os.ReadFile(path)
	t.mustHost("parameter "+parameter, err)
	t.mustHost("parameter "+parameter, t.mods.SetParameter(module, parameter, value))
	t.atEnd("parameter "+parameter+" as before", func() error {
		return t.mods.SetParameter(module, parameter, strings.TrimSpace(string(before)))
	})
}
