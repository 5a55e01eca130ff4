package pool

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/nestbed/nestbed/harness/console"
	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/images/control"
	"github.com/nestbed/nestbed/results/record"
)

const (
	// quiet is how long a console says nothing more before what it said is taken as complete.
	quiet = 300 * time.Millisecond
	// drainLimit bounds the wait for quiet: a kernel can report for ever.
	drainLimit = 3 * time.Second
)

// Guest is a booted guest. Its parts are for the taker to use; Close ends them all.
type Guest struct {
	SSH    *guest.Guest
	QEMU   *qemu.Process
	Log    *console.Follower
	Timing Timing

	Restored bool // it was saved, and has not booted for its taker
	Prepared bool // it has what Spec.Prepare asks for

	marks   chan string     // what Quiesce had the kernel print, as it is seen
	began   time.Time       // when QEMU was started
	dir     string          // where the logs are
	ctx     context.Context // the taker's
	events  chan record.Event
	stopped chan struct{}
	stop    context.CancelFunc
	pumped  chan struct{}
}

// Ends are the facts about how a guest ended, or has ended so far.
type Ends struct {
	Panicked   bool
	Reset      bool
	QEMUExited bool
	QEMUStatus string
	Starved    time.Duration // QEMU waited so long for a CPU of the host
}

func newGuest(ctx context.Context, process *qemu.Process, follower *console.Follower, marks chan string, dir string) *Guest {
	watching, stop := context.WithCancel(context.Background())
	g := &Guest{
		QEMU: process, Log: follower, marks: marks, dir: dir, ctx: ctx,
		events: make(chan record.Event), stopped: make(chan struct{}), stop: stop, pumped: make(chan struct{}),
	}
	incoming := process.QMP().Subscribe(watching)
	go func() {
		defer close(g.pumped)
		for e := range incoming {
			switch e.Event {
			case "STOP":
				if !g.Stuck() {
					close(g.stopped)
				}
			case "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR":
				select {
				case g.events <- event(e.Event, e.Data):
				case <-watching.Done():
				}
			}
		}
	}()
	return g
}

// Room checks that the guest's logs can still be written.
func (g *Guest) Room() error { return Room(g.dir) }

// Events are those of QEMU that a scenario may wait for.
func (g *Guest) Events() <-chan record.Event { return g.events }

// Stopped is closed when QEMU has stopped the vCPUs of its own accord: an instruction that the host's KVM
// cannot emulate, a disk that is full.
func (g *Guest) Stopped() <-chan struct{} { return g.stopped }

// Stuck says whether Stopped is closed.
func (g *Guest) Stuck() bool {
	select {
	case <-g.stopped:
		return true
	default:
		return false
	}
}

// Gone is closed when QEMU has ended.
func (g *Guest) Gone() <-chan struct{} { return g.QEMU.Done() }

// Ends says what is known about the guest's end. Called before Close it tells what happened by itself.
func (g *Guest) Ends() Ends {
	state := g.QEMU.ExitState()
	e := Ends{Panicked: state.Panicked, Reset: state.Shutdown == "guest-reset", Starved: g.QEMU.Starved()}
	select {
	case <-g.QEMU.Done():
		e.QEMUExited, e.QEMUStatus = true, state.String()
		if text := g.QEMU.Stderr(); text != "" {
			e.QEMUStatus += ": " + text
		}
	default:
	}
	return e
}

// Drained returns a channel that is closed when the console has said nothing for a short while, the guest
// is gone, or it has gone on for too long.
func (g *Guest) Drained() <-chan struct{} {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		g.settle()
	}()
	return drained
}

// Quiesce returns when the kernel has said all that it has to say about what has just ended. A guest that still
// takes commands is asked; of any other the console's silence has to tell, as Drained does.
func (g *Guest) Quiesce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	word := rand.Text()
	// A guest that cannot do so is no news here.
	if _, err := g.SSH.Output(ctx, "quiesce "+word); err != nil {
		g.settle()
		return
	}
	// The kernel may print behind the back of who asked it to, but it does print.
	late := time.NewTimer(quiet)
	defer late.Stop()
	for {
		select {
		case mark := <-g.marks:
			if mark == word {
				return
			}
		case <-late.C:
			g.settle()
			return
		case <-g.Gone():
			return
		case <-ctx.Done():
			return
		}
	}
}

// marker begins the line that Quiesce waits for.
const marker = "nestbed: quiet "

// watchMarks gives a console's line to whoever waits in Quiesce.
func watchMarks() (marks chan string, line func(string)) {
	marks = make(chan string, 1)
	return marks, func(text string) {
		_, word, ok := strings.Cut(text, marker)
		if !ok {
			return
		}
		select {
		case <-marks: // nobody waits for that one any more
		default:
		}
		marks <- word
	}
}

func (g *Guest) settle() {
	since := time.Now()
	end := time.NewTimer(drainLimit)
	defer end.Stop()
	wait := time.NewTimer(quiet)
	defer wait.Stop()
	for {
		select {
		case <-end.C:
			return
		case <-g.Gone():
			return
		case <-g.ctx.Done():
			return
		case <-wait.C:
			last := g.Log.State().LastByte
			if last.Before(since) {
				last = since
			}
			left := quiet - time.Since(last)
			if left <= 0 {
				return
			}
			wait.Reset(left)
		}
	}
}

// Shell gives a person's terminal to a shell, or to command if it is not empty, until that ends. A guest
// has one connection for it: it can be called once.
func (g *Guest) Shell(ctx context.Context, tty guest.Terminal, command string) (int, error) {
	return g.SSH.Shell(ctx, g.QEMU.Conn(control.PortShell), tty, command)
}

// Close ends the guest and releases everything. What the console said is complete afterwards.
func (g *Guest) Close() error {
	g.stop()
	<-g.pumped
	if g.SSH != nil {
		// Fails when the guest is gone already, which is no news.
		_ = g.SSH.Close()
	}
	err := g.QEMU.Close()
	if logErr := g.Log.Close(); logErr != nil {
		return multierror.Append(err, logErr)
	}
	return err
}
