package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nestbed/nestbed/harness/console"
	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/harness/qmp"
	"github.com/nestbed/nestbed/images/layout"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

const (
	// referenceBoot is how long a stock 6.12 kernel takes to init's first word on an idle machine of the
	// kind that the scenarios' timeouts were written on (TCG, two cores). A guest that booted slower gets
	// proportionally more time for everything.
	referenceBoot = 3 * time.Second

	// referenceRestore is the same for a guest that is restored, to its SSH connection.
	referenceRestore = 400 * time.Millisecond

	// beatAllowance is how long the agent may be silent: it says something every second. It is longer than
	// the kernel's own watchdogs take to report a lockup or an RCU stall, which say more than silence.
	beatAllowance = 30 * time.Second

	// drainMore is for a QEMU that is on its way out.
	drainMore = 3 * time.Second

	// maxRecordBytes bounds what one agent may write to the host's disk.
	maxRecordBytes = 64 << 20

	// settling is what a scenario's agent needs besides the scenario: loading modules, plugging devices,
	// the closing invariant.
	settling = 20 * time.Second
)

// attempt is one try at one cell: it collects the facts that Judge needs, and judges nothing itself.
type attempt struct {
	runner *Runner
	worker int
	cell   plan.Cell
	number int // from 1; the second one boots, whatever the first one was
	dir    string
	in     results.Input
	timing results.Timing
	lap    time.Time // when what is timed began
}

// took is the time since the last call, in seconds.
func (a *attempt) took() float64 {
	now := time.Now()
	defer func() { a.lap = now }()
	return now.Sub(a.lap).Seconds()
}

// AgentPath is where the agent lies in a guest.
const AgentPath = layout.Path + "/agent"

// run boots a guest, lets the agent perform the scenario and ends the guest. Everything that happened is
// in a.in afterwards; what was said on the way is in a.dir.
func (a *attempt) run(ctx context.Context) {
	a.runner.Progress.Phase(a.worker, "boot")
	a.lap = time.Now()
	g, err := a.runner.Guests.Get(ctx, pool.Spec{
		Kernel: a.cell.Kernel, Machine: a.cell.Machine, Dir: a.dir,
		Boot: a.boots(), Prepare: a.preparation(),
	})
	if err != nil {
		a.bootFailed(ctx, err)
		return
	}
	a.in.Exit.Booted = true
	a.timing.Guest, a.timing.Restored = a.took(), g.Restored
	a.runner.booted(a.cell.Machine.Name)
	cut := a.converse(ctx, g)
	if ctx.Err() != nil {
		a.in.Exit.Cancelled = true
	}
	if cut == 0 {
		a.atEnd(g)
	}
	a.keep(ctx, g, cut)
	defer func() { a.timing.End, a.timing.CPU = a.timing.End+a.took(), g.QEMU.CPU().Seconds() }()
	if err := g.Close(); err != nil && a.in.Exit.HostError == "" && !a.in.Exit.QEMUExited {
		a.in.Exit.HostError = err.Error()
	}
	a.collect(cut)
}

// keep shows the guest to whoever wants to see one that ends badly.
func (a *attempt) keep(ctx context.Context, g *pool.Guest, cut int64) {
	if a.runner.Keep == nil || ctx.Err() != nil || closed(g.Gone()) {
		return
	}
	so := *a // facts that are final only when the guest has ended
	so.collect(cut)
	planned := Planned(a.cell)
	if a.runner.Known.Explain(planned, results.Judge(so.in)).Verdict.Bad() {
		a.runner.Keep(ctx, Kept{Cell: planned, Guest: g})
	}
}

func (a *attempt) bootFailed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		a.in.Exit.Cancelled = true
		return
	}
	var boot *pool.BootError
	if errors.As(err, &boot) {
		a.in.Exit.SilentAfter = boot.LastLine
		a.in.Exit.Panicked, a.in.Exit.Reset = boot.Panicked, boot.Reset
		a.in.Exit.QEMUExited, a.in.Exit.QEMUStatus = boot.QEMUExited, boot.QEMUStatus
		a.in.Exit.Starved = boot.Starved.Seconds()
		if boot.Ours() {
			a.in.Exit.HostError = boot.Err.Error()
		}
	} else {
		a.in.Exit.HostError = err.Error()
	}
	a.collect(0)
}

// converse pushes the agent, runs it and notes everything until there is nothing more to expect. It
// returns where the console log ends that counts: what evidence-taking provokes afterwards is not the
// kernel's fault. 0 is all of it.
func (a *attempt) converse(ctx context.Context, g *pool.Guest) (cut int64) {
	slow := slowness(g)
	starting, stop := watched(ctx, g, scaled(settling, slow))
	defer stop()
	if !g.Prepared {
		if err := g.SSH.Push(starting, AgentPath, 0o755, a.runner.Agent); err != nil {
			return a.lost(ctx, starting, g, fmt.Errorf("push the agent: %w", err))
		}
	}
	for _, f := range a.runner.Files {
		if err := g.SSH.Push(starting, f.Name, f.Mode, f.Data); err != nil {
			return a.lost(ctx, starting, g, err)
		}
	}
	sess, err := g.SSH.StartAgent(starting, guest.Command(append([]string{AgentPath}, a.words(slow)...)...))
	if err != nil {
		return a.lost(ctx, starting, g, fmt.Errorf("start the agent: %w", err))
	}
	stop()
	a.timing.Push = a.took()
	t := &talk{attempt: a, guest: g, session: sess, slow: slow, host: &host{
		process: g.QEMU, dir: a.dir, needs: a.cell.Needs(),
		ports: a.cell.Machine.RootPorts, plugged: map[string]bool{},
	}}
	return t.run(ctx)
}

// boots says whether the guest must boot: if the user or the scenario asks for it, and at the second attempt.
func (a *attempt) boots() bool {
	return a.runner.Boot || a.number > 1 || a.cell.Needs().FreshBoot != ""
}

// preparation is what a saved guest has that is restored for this cell: the agent, and what every cell begins
// with that needs the same modules.
func (a *attempt) preparation() *pool.Preparation {
	command := []string{AgentPath, "prepare"}
	if a.runner.Program != nil {
		command = append(command, "--exec")
	}
	modules := slices.Clone(a.cell.Needs().Modules)
	slices.Sort(modules)
	return &pool.Preparation{
		Files:   []guest.File{{Name: AgentPath, Mode: 0o755, Data: a.runner.Agent}},
		Command: append(command, slices.Compact(modules)...),
	}
}

// words are the agent's arguments.
func (a *attempt) words(slow float64) []string {
	if p := a.runner.Program; p != nil {
		return p.Words(slow)
	}
	words := []string{"run", "--scale", fmt.Sprintf("%.2f", slow)}
	if a.cell.Variant != "" {
		words = append(words, "--variant", a.cell.Variant)
	}
	return append(words, a.cell.Scenario.Name)
}

// Why a guest can no longer be expected to answer.
var (
	errGone   = errors.New("QEMU has ended")
	errDied   = errors.New("the kernel has died")
	errStuck  = errors.New("QEMU stopped the guest: it cannot go on")
	errSilent = errors.New("no answer from the guest")
	errFlood  = errors.New("the guest flooded its console: the log is at its limit")
)

// watched is ctx until the guest cannot be expected to answer any more; its cause says why.
func watched(ctx context.Context, g *pool.Guest, limit time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		patience := g.Patience(limit)
		defer patience.Stop()
		for {
			select {
			case <-ctx.Done():
			case <-g.Gone():
				cancel(errGone)
			case <-g.Log.Fatal():
				<-g.Drained()
				cancel(errDied)
			case <-g.QEMU.Panicked():
				<-g.Drained()
				cancel(errDied)
			case <-g.Stopped():
				cancel(errStuck)
			case <-g.Log.Full():
				cancel(errFlood)
			case <-patience.C:
				if !patience.Over() {
					continue
				}
				cancel(errSilent)
			}
			return
		}
	}()
	return ctx, func() { cancel(nil) }
}

// lost notes that something needed for the conversation failed: the end of the guest explains it, if it has
// ended, and a guest that lives and does not answer is lost. It returns where the console ends that counts.
func (a *attempt) lost(ctx, starting context.Context, g *pool.Guest, err error) (cut int64) {
	if ctx.Err() != nil {
		return 0
	}
	switch cause := context.Cause(starting); {
	case errors.Is(cause, errSilent):
		return a.hung(ctx, g)
	case errors.Is(cause, errStuck), errors.Is(cause, errFlood):
		a.note(cause)
		return 0
	}
	parted(g)
	if closed(g.Gone()) || closed(g.Log.Fatal()) || closed(g.QEMU.Panicked()) {
		return 0
	}
	probe, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, gone := g.SSH.Output(probe, "uname"); gone != nil {
		a.in.Exit.AgentLost = true
		return 0
	}
	a.note(err)
	return 0
}

// parted waits for the word of QEMU and of the kernel after a connection was lost: either may have taken it
// along, and both say so within moments.
func parted(g *pool.Guest) {
	<-g.Drained()
	select {
	case <-g.Gone():
	case <-time.After(drainMore): // only a QEMU that lives is waited for so long
	}
}

// atEnd takes what only a guest that still is there can tell.
func (a *attempt) atEnd(g *pool.Guest) {
	ends := g.Ends()
	a.in.Exit.Panicked, a.in.Exit.Reset = ends.Panicked, ends.Reset
	a.in.Exit.QEMUExited, a.in.Exit.QEMUStatus = ends.QEMUExited, ends.QEMUStatus
	a.in.Exit.Starved = ends.Starved.Seconds()
	if a.in.Exit.TimedOut || a.in.Exit.AgentLost || a.in.Exit.AgentSignal != "" {
		a.in.Exit.SilentAfter = g.Log.State().LastLine
	}
}

// collect reads what QEMU wrote.
func (a *attempt) collect(cut int64) {
	serial, err := readLog(filepath.Join(a.dir, machine.ConsoleLog))
	if err != nil {
		a.note(err)
		return
	}
	kmsg, err := readLog(filepath.Join(a.dir, machine.KmsgLog))
	if err != nil {
		a.note(err)
		return
	}
	if cut > 0 {
		serial = serial[:min(cut, int64(len(serial)))]
		kmsg = nil // it has the provoked lines too, and no mark where they begin
	}
	a.in.Exit.Tail = console.Tail(serial)
	a.in.Reports = console.Merge(serial, kmsg)
	if a.in.Faults, err = pool.Faults(a.dir); err != nil {
		a.note(err)
	}
}

func (a *attempt) note(err error) {
	if a.in.Exit.HostError == "" {
		a.in.Exit.HostError = err.Error()
	}
}

// readLog reads a log that may not exist.
func readLog(name string) ([]byte, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// slowness is the factor by which this guest is slower than the reference, at least 1. Of one that booted, its own
// clock says best how long its kernel took, but it is the guest's word: it cannot have been longer than the host saw.
// Of one that was restored only the host knows how long it took now.
func slowness(g *pool.Guest) float64 {
	slow := float64(min(g.Timing.Ready, g.Timing.SSH)) / float64(referenceBoot)
	if g.Restored {
		slow = float64(g.Timing.SSH) / float64(referenceRestore)
	}
	return min(max(1, slow), 20)
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func scaled(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }

// talk is the conversation with a running agent.
type talk struct {
	*attempt
	guest   *pool.Guest
	session *guest.Session
	host    *host
	slow    float64
}

// run notes records, answers calls and watches the guest until the conversation is over.
func (t *talk) run(ctx context.Context) (cut int64) {
	log, err := results.NewRecordLog(t.dir)
	if err != nil {
		t.note(err)
		t.session.Kill()
		return 0
	}
	defer func() {
		if err := log.Close(); err != nil {
			t.note(err)
		}
	}()

	deadline := t.guest.Patience(scaled(t.cell.Scenario.Timeout+settling, t.slow))
	defer deadline.Stop()
	beat := t.guest.Patience(scaled(beatAllowance, t.slow))
	defer beat.Stop()
	// While nobody looks (this process was stopped, its terminal or its disk is stuck) no time passes for the
	// guest: the agent's words wait to be read.
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	looked := time.Now()
	stalled := func() bool {
		t.guest.QEMU.Starved() // a QEMU that ends takes it along
		gap := time.Since(looked)
		looked = time.Now()
		if gap < 3*time.Second {
			return false
		}
		beat.Forgive(gap)
		deadline.Forgive(gap)
		return true
	}
	fatal, panicked := t.guest.Log.Fatal(), t.guest.QEMU.Panicked()
	var drained <-chan struct{}

	for {
		select {
		case rec, open := <-t.session.Records():
			if !open {
				// A guest that ends the agent's output and never says how it ended is given up.
				late := time.AfterFunc(scaled(beatAllowance, t.slow), t.session.Kill)
				exit := t.session.Wait()
				t.timing.Agent = t.took()
				t.ended(ctx, exit)
				late.Stop()
				return 0
			}
			beat.Renew()
			if err := t.heard(ctx, rec, log); err != nil {
				t.note(err)
				t.session.Kill()
				return 0
			}
		case <-tick.C:
			stalled()
			if err := t.guest.Room(); err != nil {
				t.note(err)
				t.session.Kill()
				return 0
			}
		case ev := <-t.guest.Events():
			ev = t.host.heard(ev)
			// A guest that is gone does not read it; its end is seen elsewhere.
			_ = t.session.Send(record.Input{Event: &ev})
		case <-fatal:
			fatal = nil
			drained = t.guest.Drained()
		case <-panicked:
			panicked = nil
			drained = t.guest.Drained()
		case <-t.guest.Stopped():
			t.note(errStuck)
			t.session.Kill()
			return 0
		case <-t.guest.Log.Full():
			t.note(errFlood)
			t.session.Kill()
			return 0
		case <-drained:
			t.session.Kill()
			return 0
		case <-t.guest.Gone():
			t.rest(ctx, log)
			t.session.Kill()
			return 0
		case <-beat.C:
			if !stalled() && beat.Over() {
				defer t.session.Kill()
				return t.hung(ctx, t.guest)
			}
		case <-deadline.C:
			if !stalled() && deadline.Over() {
				defer t.session.Kill()
				return t.hung(ctx, t.guest)
			}
		case <-ctx.Done():
			t.in.Exit.Cancelled = true
			t.session.Kill()
			return 0
		}
	}
}

// heard keeps a record and answers it if it is a call.
func (t *talk) heard(ctx context.Context, rec record.Record, log *results.RecordLog) error {
	if rec.Kind != record.KindLog && rec.Kind != record.KindBeat { // evidence, no facts
		t.in.Records = append(t.in.Records, rec)
	}
	if err := log.Append(rec); err != nil {
		return err
	}
	if log.Bytes() > maxRecordBytes {
		return fmt.Errorf("the agent sent more than %d MB of records", maxRecordBytes>>20)
	}
	if rec.Hello != nil {
		return checkHello(*rec.Hello, t.cell)
	}
	if rec.Skip != nil {
		t.in.SkipRefuted = plan.Refute(t.cell, t.runner.QEMU, *rec.Skip)
	}
	if rec.Step != nil {
		t.runner.Progress.Phase(t.worker, rec.Step.Text)
	}
	if rec.Call == nil {
		return nil
	}
	reply := t.host.answer(ctx, *rec.Call)
	_ = t.session.Send(record.Input{Reply: &reply}) // as above
	return nil
}

// rest keeps what the agent had said before the guest went. With QEMU the connection ends, and so do the
// records.
func (t *talk) rest(ctx context.Context, log *results.RecordLog) {
	for rec := range t.session.Records() {
		if rec.Call != nil {
			continue // there is nobody to answer for
		}
		if err := t.heard(ctx, rec, log); err != nil {
			t.note(err)
			return
		}
	}
}

// ended notes how the agent ended by itself.
func (t *talk) ended(ctx context.Context, x guest.Exit) {
	t.in.Exit.AgentCode, t.in.Exit.AgentSignal, t.in.Exit.AgentLost = x.Code, x.Signal, x.Lost
	t.in.Exit.AgentStderr = strings.TrimSpace(x.Stderr)
	if x.Err != nil {
		t.in.Exit.Protocol = x.Err.Error()
	}
	if x.Lost {
		parted(t.guest)
		return
	}
	// What the kernel still has to say about an exit comes right after it.
	t.guest.Quiesce(ctx)
}

// hung takes evidence of a guest that makes no progress: by SysRq the kernel names its blocked tasks, if it
// still takes interrupts, and by NMI it shows what every CPU does, and then panics. It returns where the
// console ended before.
func (a *attempt) hung(ctx context.Context, g *pool.Guest) (cut int64) {
	a.in.Exit.TimedOut = true
	a.atEnd(g) // what follows is provoked
	// At least 1: 0 means that nothing is cut.
	cut = max(1, g.Log.State().Bytes)
	asking, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	asks := []func(context.Context) error{func(ctx context.Context) error { return g.QEMU.SysRq(ctx, "w") }, g.QEMU.NMI}
	if a.runner.Keep != nil {
		asks = asks[:1] // the NMI ends the guest, which somebody wants to see
	}
	for _, ask := range asks {
		if err := ask(asking); err != nil {
			if ctx.Err() == nil && !errors.As(err, new(*qmp.CommandError)) {
				// Not even QEMU answers: nothing is known of the kernel.
				a.in.Exit.TimedOut = false
				a.note(fmt.Errorf("QEMU does not answer its monitor: %w", err))
			}
			return cut
		}
		select {
		case <-g.Drained():
		case <-asking.Done():
			return cut
		}
	}
	return cut
}
