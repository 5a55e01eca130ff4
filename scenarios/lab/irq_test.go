package lab

import (
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"

	"github.com/nestbed/nestbed/guestagent/kvm"
	"github.com/nestbed/nestbed/guestagent/pci"
)

func TestEventFD(t *testing.T) {
	list := host(t, guestRoot(t).Path(), scenario(func(t *T) {
		e := t.NewEventFD()
		t.WantInt(e.Count(), 0, "nothing yet")
		t.Check(e.Quiet(), "quiet")
		t.Check(!e.Ready(time.Millisecond), "not ready")
		e.Signal()
		e.Signal()
		t.Check(e.Ready(time.Minute), "ready")
		t.WantInt(e.Wait(time.Minute), 2, "both are counted, once")
		t.WantInt(e.Count(), 0, "nothing again")
		e.Signal()
		t.Check(!e.Quiet(), "not quiet")
		e.Close()
	}), nil)
	for _, claim := range own(list) {
		assert.Assert(t, claim[:3] == "ok ", claim)
	}
	assert.Equal(t, len(own(list)), 7)
	assert.DeepEqual(t, falseInvariants(list), []string(nil))
}

func TestInterrupts(t *testing.T) {
	root := guestRoot(t)
	fs.Apply(t, root, fs.WithDir("proc", fs.WithFile("interrupts", `           CPU0       CPU1
  4:         17          0   IO-APIC   4-edge      ttyS0
 16:          3          2   IO-APIC  16-fasteoi   vfio-intx(0000:01:00.0)
 24:          4          0  PCI-MSI 524288-edge      vfio-msix[0](0000:01:00.0)
 25:          9          0  PCI-MSI 524289-edge      vfio-msix[1](0000:02:00.0)
NMI:          0          0   Non-maskable interrupts
`)))
	host(t, root.Path(), scenario(func(c *T) {
		d := &VFIODevice{t: c, pci: pci.Device{Address: "0000:01:00.0"}}
		assert.Check(t, d.Handled() == 9)
		assert.Check(t, len(d.Interrupts()) == 2)
		assert.Check(t, (&VFIODevice{t: c, pci: pci.Device{Address: "0000:03:00.0"}}).Handled() == 0)
	}), nil)
}

// The reference that a vector holds is read off the module.
func TestBypassRefs(t *testing.T) {
	for text, want := range map[string]int{"...\x00try_module_get\x00module_put\x00": 1, "...\x00mutex_lock\x00": 0} {
		root := guestRoot(t)
		fs.Apply(t, root, fs.WithDir("lib", fs.WithDir("nestbed",
			fs.WithFile("modules.json", `[{"name":"vfio","deps":[]},{"name":"irqbypass","deps":[]}]`),
			fs.WithDir("modules", fs.WithFile("vfio.ko", "."), fs.WithFile("irqbypass.ko", text)))))
		host(t, root.Path(), scenario(func(c *T) { assert.Check(t, c.BypassRefs() == want) }), nil)
	}
	list := host(t, guestRoot(t).Path(), scenario(func(c *T) { c.BypassRefs() }), nil)
	assert.DeepEqual(t, own(list), []string{"skip config irqbypass: irqbypass is built into this kernel and has no reference count"})
}

// So is whether a signal stays in its eventfd.
func TestLeftInEventFD(t *testing.T) {
	for text, want := range map[string]int{"...\x00eventfd_ctx_do_read\x00": 0, "...\x00eventfd_ctx_put\x00": 1} {
		root := guestRoot(t)
		fs.Apply(t, root, fs.WithDir("lib", fs.WithDir("nestbed", fs.WithDir("modules", fs.WithFile("vfio.ko", text)))))
		host(t, root.Path(), scenario(func(c *T) { assert.Check(t, c.LeftInEventFD() == want) }), nil)
	}
}

func TestGuestPage(t *testing.T) {
	page := GuestPage(0x41, []byte{0xf4}, []byte{0xcf})
	assert.DeepEqual(t, page[0x104:0x108], []byte{0x00, 0x05, 0, 0})
	assert.Equal(t, page[GuestEntry], byte(0xf4))
	assert.Equal(t, page[GuestHandler], byte(0xcf))
	assert.Equal(t, len(page), PageSize)
}

// A run that is over needs no stop, and a scenario that ends while one is on is not kept by it.
func TestRunningReturned(t *testing.T) {
	host(t, guestRoot(t).Path(), scenario(func(c *T) {
		r := &Running{Pending: c.Start("nothing", func() error { return nil }), exit: kvm.Exit{Reason: 5}}
		assert.Check(t, r.Returned(time.Minute))
		assert.Check(t, !r.Stop())
		assert.Check(t, r.Exit(time.Minute).Reason == 5)
		open := make(chan struct{})
		r = &Running{Pending: c.Start("something", func() error { <-open; return kvm.ErrStopped })}
		assert.Check(t, !r.Returned(time.Millisecond))
		close(open)
	}), nil)
}
