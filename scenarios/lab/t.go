package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/nestbed/nestbed/guestagent/kmod"
	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/results/record"
)

// T is a scenario's hand on the guest. Its verbs act on the kernel under test; one that the kernel refuses
// records a false check and ends the scenario, whose cleanups and closing invariant follow all the same.
// Methods that return an error leave the judgement to the scenario. T belongs to the goroutine of Run.
type T struct {
	ctx      context.Context // done when the scenario's time is up
	env      Env
	scenario Scenario
	stream   *stream
	mods     *kmod.Set
	bus      pci.Bus
	events   *watcher
	regime   Regime
	kernel   version
	vendor   string       // kvm_amd or kvm_intel, "" when the scenario needs no KVM
	baseline state        // before the scenario, for the closing invariant
	idle     state        // the same, but with the devices bound that the scenario has bound so far
	around   surroundings // the same, of what is too dear to look at twice
	allocs   *allocs
	refs     *moduleTrace
	asked    []string // modules whose counts the scenario has asked for since its last claim
	slots    int      // root ports that hold a device under test
	cleanups []cleanup
}

type cleanup struct {
	what string
	undo func() error
}

// atEnd registers what undoes an acquisition. The last acquired goes first; all run, whatever happens.
func (t *T) atEnd(what string, undo func() error) {
	t.cleanups = append(t.cleanups, cleanup{what, undo})
}

// Variant is the one of the scenario's variants that runs, "" when it has none.
func (t *T) Variant() string { return t.env.Variant }

// Step opens a section; what follows belongs to it.
func (t *T) Step(text string) {
	t.stream.write(record.Record{Kind: record.KindStep, Step: &record.Step{Text: record.Cut(text)}})
}

// Log adds evidence.
func (t *T) Log(text string) { t.stream.log(text) }

// Check claims that something holds. The scenario goes on when it does not.
func (t *T) Check(ok bool, claim string) {
	t.claim(record.Check{OK: ok, Claim: claim, Site: site(1)})
}

// claim makes a claim of the scenario's. The arguments of the verb that makes it have been evaluated: when it
// is false, the modules asked for since the last one are those that it is about.
func (t *T) claim(c record.Check) {
	asked := t.asked
	t.asked = nil
	t.stream.check(c)
	if !c.OK {
		t.explain(asked)
	}
}

// WantInt claims a number.
func (t *T) WantInt(got, want int, claim string) { t.wantInt(got, want, claim, site(1)) }

func (t *T) wantInt(got, want int, claim, at string) {
	t.claim(record.Check{OK: got == want, Claim: claim, Want: fmt.Sprint(want), Got: fmt.Sprint(got), Site: at})
}

// WantErr claims the outcome of an operation: an errno, or nil for success.
func (t *T) WantErr(got, want error, claim string) {
	c := record.Check{
		OK: errors.Is(got, want), Claim: claim, Want: uapi.ErrnoName(want), Got: uapi.ErrnoName(got), Site: site(1),
	}
	if e, ok := errors.AsType[*uapi.Error](got); ok {
		c.Op = e.Op + " " + e.Object
	}
	t.claim(c)
}

// Expect declares a kernel report or an IOMMU fault that the scenario is about to provoke, from here to its end.
func (t *T) Expect(e record.Expect) {
	t.stream.write(record.Record{Kind: record.KindExpect, Expect: &e})
}

// SkipConfig ends the scenario: it needs what a kernel without an option ("CONFIG_X") does not have. The host
// looks the option up, and a kernel that has it fails.
func (t *T) SkipConfig(option, reason string) {
	t.skip(record.SkipReason{Kind: record.SkipConfig, Option: option, Reason: reason, Remedy: "a kernel with " + option})
}

// SkipBuiltIn ends the scenario: it asks for the reference count of a module, or to unload it, and what is built
// into the kernel has none and stays. A kernel that came with the module fails.
func (t *T) SkipBuiltIn(module string) {
	t.skip(record.SkipReason{
		Kind: record.SkipConfig, BuiltIn: module,
		Reason: module + " is built into this kernel and has no reference count", Remedy: "a kernel that builds it as a module",
	})
}

// SkipBefore ends the scenario: it needs what kernels have since a version ("5.7"). From that one on a kernel
// that lacks it fails.
func (t *T) SkipBefore(since, reason string) {
	t.skip(record.SkipReason{Kind: record.SkipVersion, Since: since, Reason: reason, Remedy: "a kernel of " + since + " or newer"})
}

// SkipMachine ends the scenario: this machine cannot show what it is about. On a machine that is not known for
// the limit the kernel fails.
func (t *T) SkipMachine(limit record.MachineLimit, reason, remedy string) {
	t.skip(record.SkipReason{Kind: record.SkipMachine, Limit: limit, Reason: reason, Remedy: remedy})
}

func (t *T) skip(s record.SkipReason) {
	t.stream.write(record.Record{Kind: record.KindSkip, Skip: &s})
	runtime.Goexit()
}

// Broken ends the scenario: the guest's set-up failed, which says nothing about the kernel.
func (t *T) Broken(reason string) {
	t.stream.broken(reason)
	runtime.Goexit()
}

// must ends the scenario with a false check when a verb's operation failed.
func (t *T) must(err error) {
	if err == nil {
		return
	}
	c := record.Check{Want: "success", Got: uapi.ErrnoName(err), Site: callerOutside()}
	if e, ok := errors.AsType[*uapi.Error](err); ok {
		c.Op = e.Op + " " + e.Object
		c.Claim = c.Op + " succeeds"
	} else {
		c.Claim = "no error: " + err.Error()
	}
	t.stream.check(c)
	runtime.Goexit()
}

// mustHost ends the scenario when the host or the guest's set-up failed it.
func (t *T) mustHost(what string, err error) {
	if err != nil {
		t.Broken(what + ": " + err.Error())
	}
}

// mustDevice ends the scenario when a device could not be used: with a false check when the kernel refused
// its registers, and as ours when the device does not answer in time.
func (t *T) mustDevice(what string, err error) {
	if _, refused := errors.AsType[*uapi.Error](err); refused {
		t.must(err)
	}
	t.mustHost(what, err)
}

// patience bounds a wait for something that takes a moment, and scales it to this guest.
func (t *T) patience(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.ctx, time.Duration(float64(d)*t.env.Scale))
}

// Faults asks the host how many IOMMU faults QEMU has seen since boot, of whatever IOMMU.
func (t *T) Faults() int {
	ctx, cancel := t.patience(10 * time.Second)
	defer cancel()
	reply, err := t.stream.call(ctx, record.Call{Verb: record.VerbFaults})
	t.mustHost("count IOMMU faults", err)
	return reply.Faults
}

func site(skip int) string {
	_, file, line, ok := runtime.Caller(skip + 1)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s:%d", filepath.Base(file), line)
}

// callerOutside is the line of the scenario that called a verb, however deep the verb is.
func callerOutside() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if !strings.Contains(f.Function, "/scenarios/lab.") {
			return fmt.Sprintf("%s:%d", filepath.Base(f.File), f.Line)
		}
		if !more {
			return ""
		}
	}
}
