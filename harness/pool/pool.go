// Package pool hands out guests with clean kernel state: restored from one that was saved, or booted for the
// caller, with their console followed, their agent's connection up and empty root ports.
//
// It owns the way from a kernel and a machine to a guest that answers, and the facts about how a guest
// ended or why it never came up. What is done with a guest is its taker's matter (harness/runner); how a
// guest's parts work is harness/qemu's, harness/guest's and harness/console's; where saved guests lie is
// harness/snapshot's.
//
// # Saved guests
//
// A guest is saved when its init has said that it runs and waits for the host's word. Nothing in it is anybody's
// yet: the time, the seed of its random numbers and its keys come with that word, to each restored guest its own.
// Its key hashes QEMU's arguments with the contents of files in the place of their names, QEMU and its firmware.
// From this guest a second one is made for each set of modules, which has the agent, the modules and the traces of
// the closing invariant in place (agent prepare); its key adds the agent's bytes and its arguments. So a change of a
// scenario costs a restore and a preparation, no boot.
//
// Memory lies in a file of its own that each restored guest maps for itself, so that a restore reads what it touches
// and no more; the rest of the state is 300 kB. No device under test is ever saved: edu and nvme cannot be, and are
// hot-added to a restored guest as to one that booted. The console's log of the boot comes before that of each
// restored guest, so that a report of the boot counts in every cell, as if each had booted.
//
// What QEMU cannot save (amd-iommu of 7.2), what did not come up while it was to be saved, and what does not come
// back boots, so that its own boot says what is wrong with it.
package pool

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/nestbed/nestbed/harness/console"
	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/harness/snapshot"
	"github.com/nestbed/nestbed/images/control"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results/record"
)

const (
	// silence is how long a booting kernel may print nothing, in the guest's own time; one that has paused for
	// long before gets pauses times its longest pause. A stock kernel under TCG on a busy host is never silent
	// for a second; unpacking an initramfs is the longest gap.
	silence = 10 * time.Second
	pauses  = 5
	// bootLimit bounds a boot that goes on printing.
	bootLimit = 3 * time.Minute
	// welcomeLimit bounds the way from init's first word to an SSH connection: 0.3 s on an idle machine.
	welcomeLimit = 30 * time.Second
)

// Pool makes guests. It is safe for use by several goroutines.
type Pool struct {
	Binary    string // QEMU; empty: the one in PATH
	BootFiles string // folder where initramfs files and unpacked kernels are kept, shared between processes
	Init      []byte // the guest's init program

	// ConsoleLimit is how many bytes of console make a guest one that floods it; 0: those of console.Options.
	ConsoleLimit int64

	Snapshots *snapshot.Store // of guests to restore; nil: every guest boots
	Say       func(string)    // hears once of each kind of guest that cannot be saved; may be nil

	mu   sync.Mutex
	cold map[string]bool // keys of guests that this process could not save or restore
	said map[string]bool // kernels and machines of which Say has heard

	programOnce sync.Once
	programHash string
	programErr  error
}

// Spec is a guest to be made.
type Spec struct {
	Kernel  kernels.Kernel
	Machine machine.Machine // without kernel, initramfs and channels: Get fills them in
	Dir     string          // the cell's folder; logs go there

	Boot    bool         // the guest is to boot, although a saved one would be at hand
	Prepare *Preparation // what a guest that is restored already has; one that boots has not
}

// Preparation is what is done to a guest before it is saved.
type Preparation struct {
	Files   []guest.File
	Command []string
}

// Timing says how long the parts of a start took, each counted from Get's start of QEMU.
type Timing struct {
	QEMU  time.Duration // QMP answers
	Ready time.Duration // init's first word, by the guest's own clock; of a restored guest, when it booted
	SSH   time.Duration // the connection stands
}

// BootError says that a guest never came up. Whether that is the kernel's fault is for Judge to say.
type BootError struct {
	LastLine   string // of the console; "" if it never printed anything
	Panicked   bool
	Reset      bool
	Silent     bool // it printed nothing for too long, rather than ending
	QEMUExited bool
	QEMUStatus string
	Stderr     string // the end of what QEMU printed
	Starved    time.Duration
	Err        error
}

func (e *BootError) Error() string {
	what := "boot"
	switch {
	case e.Ours():
		what = e.Err.Error()
	case e.Panicked:
		what = "boot: the kernel panicked"
	case e.Reset:
		what = "boot: the guest reset itself"
	case e.QEMUExited:
		what = "boot: QEMU ended: " + e.QEMUStatus
	case e.LastLine == "":
		what = "boot: not a word from the kernel"
	case e.Silent:
		what = "boot: silent"
	}
	if e.LastLine != "" {
		what += fmt.Sprintf(", last line %q", e.LastLine)
	}
	return what
}

func (e *BootError) Unwrap() error { return e.Err }

// Ours says that the boot failed for a reason that says nothing about the kernel.
func (e *BootError) Ours() bool {
	return errors.Is(e.Err, errStopped) || errors.Is(e.Err, errFlood) || errors.As(e.Err, new(*guest.ProtocolError)) || errors.As(e.Err, new(*FullError))
}

var (
	errStopped = errors.New("boot: QEMU stopped the guest: it cannot go on")
	errFlood   = errors.New("boot: the guest flooded its console: the log is at its limit")
)

// Get gives a guest: one that was saved, if there is or can be one of its kind, or one that boots. The caller closes
// it; when ctx is done the guest ends in any case. The error is a *BootError when the kernel did not come up, a
// *FullError when the disk holds no logs, and a *qemu.StartError or *qemu.MissingError when QEMU did not start.
func (p *Pool) Get(ctx context.Context, spec Spec) (*Guest, error) {
	if err := Room(spec.Dir); err != nil {
		return nil, err
	}
	m, err := p.machine(ctx, spec)
	if err != nil {
		return nil, err
	}
	if p.Snapshots != nil && !spec.Boot {
		g, err := p.restored(ctx, spec, m)
		if g != nil || ctx.Err() != nil {
			return g, err
		}
		p.bootsInstead(spec, err)
	}
	g, waiting, err := p.boot(ctx, m, spec.Dir)
	if err != nil {
		return nil, err
	}
	return g.welcome(ctx, waiting)
}

// machine is the spec's with all that the pool adds to it.
func (p *Pool) machine(ctx context.Context, spec Spec) (m machine.Machine, err error) {
	m = spec.Machine
	if m.Initrd, err = p.initrd(spec.Kernel); err != nil {
		return m, err
	}
	if m.Kernel, err = p.kernel(ctx, spec.Kernel); err != nil {
		return m, err
	}
	m.Channels = []string{control.PortControl, control.PortSSH, control.PortShell}
	return m, nil
}

// start starts QEMU and follows the console.
func (p *Pool) start(ctx context.Context, m machine.Machine, dir string) (*Guest, error) {
	marks, line := watchMarks()
	follower, err := console.Follow(filepath.Join(dir, machine.ConsoleLog), console.Options{Quiet: quiet, Limit: p.ConsoleLimit, Line: line})
	if err != nil {
		return nil, fmt.Errorf("follow the console: %w", err)
	}
	began := time.Now()
	process, err := qemu.Start(ctx, qemu.Config{Binary: p.Binary, Machine: m, Dir: dir})
	if err != nil {
		if closeErr := follower.Close(); closeErr != nil {
			err = multierror.Append(err, closeErr)
		}
		return nil, err
	}
	g := newGuest(ctx, process, follower, marks, dir)
	g.began, g.Timing.QEMU = began, time.Since(began)
	return g, nil
}

// boot boots a guest as far as init's first word. The guest is closed when it does not come so far.
func (p *Pool) boot(ctx context.Context, m machine.Machine, dir string) (*Guest, *guest.Waiting, error) {
	g, err := p.start(ctx, m, dir)
	if err != nil {
		return nil, nil, err
	}
	var waiting *guest.Waiting
	err = g.expect(ctx, bootLimit, true, func(ctx context.Context) (err error) {
		waiting, err = guest.Await(ctx, g.conns())
		return err
	})
	if err != nil {
		return nil, nil, g.failed(err)
	}
	g.Timing.Ready = time.Duration(waiting.Ready().Uptime * float64(time.Second))
	return g, waiting, nil
}

// welcome opens the SSH connection. The guest is closed when it does not come so far.
func (g *Guest) welcome(ctx context.Context, waiting *guest.Waiting) (*Guest, error) {
	err := g.expect(ctx, welcomeLimit, false, func(ctx context.Context) (err error) {
		g.SSH, err = waiting.Welcome(ctx)
		return err
	})
	if err != nil {
		return nil, g.failed(err)
	}
	g.Timing.SSH = time.Since(g.began)
	return g, nil
}

// conns are the ends of the guest's channels that package guest speaks on.
func (g *Guest) conns() guest.Conns {
	return guest.Conns{Control: g.QEMU.Conn(control.PortControl), SSH: g.QEMU.Conn(control.PortSSH)}
}

// failed closes the guest and gives the error that it failed of.
func (g *Guest) failed(err error) error {
	if closeErr := g.Close(); closeErr != nil {
		return multierror.Append(err, closeErr)
	}
	return err
}

// expect waits for a step of the conversation with a guest, unless the kernel dies before, takes too long or, if it
// is one that talks while it boots, falls silent.
func (g *Guest) expect(ctx context.Context, limit time.Duration, talks bool, step func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- step(ctx) }()
	fail := func(silent bool, cause error) error {
		cancel()
		<-result
		return g.bootError(silent, cause)
	}

	quietly, bytes, looks, longest := g.Patience(silence), int64(0), 0, 0
	defer quietly.Stop()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	whole := g.Patience(limit)
	defer whole.Stop()
	for {
		select {
		case err := <-result:
			if err != nil {
				// A guest that dies closes its connections: let it say why.
				g.settle()
				return g.bootError(false, err)
			}
			return nil
		case <-g.Log.Fatal():
			g.settle()
			return fail(false, errors.New("the kernel died"))
		case <-g.Log.Full():
			return fail(false, errFlood)
		case <-g.Gone():
			return fail(false, errors.New("QEMU ended"))
		case <-g.Stopped():
			return fail(false, errStopped)
		case <-whole.C:
			if whole.Over() {
				return fail(!talks, errors.New("the boot took too long"))
			}
		case <-look.C:
			if err := g.Room(); err != nil {
				return fail(false, err)
			}
			looks++
			if now := g.Log.State().Bytes; now != bytes {
				longest = max(longest, looks-1)
				bytes, looks = now, 0
				quietly.Grow(pauses * time.Duration(longest) * time.Second)
				quietly.Renew()
			} else if talks && quietly.Over() {
				return fail(true, errors.New("no progress"))
			}
		}
	}
}

func (g *Guest) bootError(silent bool, cause error) error {
	if context.Cause(g.ctx) != nil {
		return context.Cause(g.ctx)
	}
	// What looks like silence may be a console that could not be written.
	if err := g.Room(); err != nil {
		return err
	}
	ends := g.Ends()
	return &BootError{
		LastLine: g.Log.State().LastLine, Panicked: ends.Panicked, Reset: ends.Reset, Silent: silent,
		QEMUExited: ends.QEMUExited, QEMUStatus: ends.QEMUStatus, Stderr: g.QEMU.Stderr(), Starved: ends.Starved, Err: cause,
	}
}

// Faults counts the IOMMU faults that QEMU traced in a cell's folder.
func Faults(dir string) (int, error) { return qemu.Faults(dir) }

// event is a QMP event as an agent hears it.
func event(name string, data map[string]any) record.Event {
	id, _ := data["device"].(string)
	return record.Event{Name: name, Device: id}
}
