package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/kmod"
	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/guestagent/uevent"
	"github.com/nestbed/nestbed/results/record"
)

// Env is where a scenario runs.
type Env struct {
	In      io.Reader // the host's answers, record.Input lines
	Out     io.Writer // records
	Variant string
	Scale   float64 // how slow this guest is, 1 being the reference
	Self    string  // the agent's own executable, for children
	Root    string  // put before every path; empty outside tests
}

// Execute runs one scenario from hello to done and returns an error when the host could not be told how it
// went. Claims that turned out false are not an error.
//
// When the scenario's time is up, evidence is recorded and the heartbeat ends; Execute still waits, because
// a verb that hangs in the kernel cannot be called back and one that is only slow will finish. To wait no
// longer is the host's decision.
func Execute(s Scenario, env Env) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	release := unix.ByteSliceToString(uts.Release[:])
	t := &T{env: env, scenario: s, stream: newStream(env.In, env.Out)}
	t.stream.write(record.Record{Kind: record.KindHello, Hello: &record.Hello{
		Schema:    record.Schema,
		Scenario:  s.Name,
		Variant:   env.Variant,
		Catalogue: Catalogue(),
		Kernel:    release,
		Machine:   unix.ByteSliceToString(uts.Machine[:]),
		PID:       os.Getpid(),
	}})
	stopBeat := t.stream.beat()
	defer stopBeat()

	defer t.unwatch()
	if err := t.prepare(release); err != nil {
		t.stream.broken(err.Error())
		stopBeat()
		return t.stream.done()
	}
	defer t.events.socket.Close()

	// The modules are in; loading them is the guest's business, not the scenario's.
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(float64(s.Timeout)*env.Scale))
	defer cancel()
	t.ctx = ctx
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t.scenarioAndCleanups()
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		stopBeat()
		t.stream.log(fmt.Sprintf("the scenario's time is up: %v\n%s", s.Timeout, stuck(env.Root)))
		<-ended
	}
	t.settle()
	stopBeat()
	return t.stream.done()
}

// prepare loads what the scenario needs and takes the baseline.
func (t *T) prepare(release string) error {
	known := func(v Variant) bool { return v.Name == t.env.Variant }
	if t.env.Variant != "" && !slices.ContainsFunc(t.scenario.Variants, known) {
		return fmt.Errorf("scenario %s has no variant %q", t.scenario.Name, t.env.Variant)
	}
	var err error
	if t.kernel, err = parseVersion(release); err != nil {
		return err
	}
	t.bus = pci.NewBus(t.env.Root)
	if t.mods, err = kmod.Open(t.env.Root, kmod.Dir); err != nil {
		return err
	}
	if err := t.arrange(); err != nil {
		return err
	}
	if t.regime, err = findRegime(t.mods, t.kernel); err != nil {
		return err
	}
	t.stream.log("regime " + t.regime.String())
	// Opened after the modules are in: their loading is hundreds of events that nobody asks about.
	socket, err := uevent.Listen()
	if err != nil {
		return err
	}
	t.events = &watcher{socket: socket}
	t.baseline, err = t.observe()
	if err == nil {
		t.around, err = t.survey()
	}
	if err == nil {
		err = t.allocs.start()
	}
	if err != nil {
		socket.Close()
		return fmt.Errorf("baseline: %w", err)
	}
	t.idle = t.baseline
	t.allocs.keepUp()
	return nil
}

// arrange puts the traces in place and loads the modules, as far as that was not done before the guest was saved.
func (t *T) arrange() error {
	done, err := t.takeUp()
	if err == nil && !done {
		err = t.setUp()
	}
	if err != nil {
		return err
	}
	if t.refs.why != "" {
		t.stream.log("module references are not traced: " + t.refs.why)
	}
	return nil
}

// setUp puts the traces in place and loads the modules.
func (t *T) setUp() (err error) {
	normal := hurry(t.env.Root)
	defer func() { err = errors.Join(err, normal()) }()
	// What is traced is in place before what is traced by it.
	t.allocs = watchAllocs(t.env.Root, t.kernel)
	if err := t.loadNeeds(); err != nil {
		return err
	}
	t.refs = watchRefs(t.env.Root, t.scenario.Name == ExecName)
	return nil
}

// unwatch ends the watch. The trace instances stay: to remove them takes half a second on 6.1, which nearly
// every guest would spend right before its own end. Where there is a next scenario it replaces them.
func (t *T) unwatch() {
	if t.allocs != nil {
		_ = t.allocs.close() // the verdict is in
	}
}

// hurry has the kernel wait less (synchronize_rcu, which is most of what enabling an event or loading a module
// takes in an idle guest) until the returned function is called. It is for the set-up alone: what is under
// test runs as the kernel has it by itself.
func hurry(root string) (stop func() error) {
	path := filepath.Join(root, "/sys/kernel/rcu_expedited")
	was, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte("1"), 0)
	}
	if err != nil { // CONFIG_TINY_RCU: then there is nothing to wait for
		return func() error { return nil }
	}
	return func() error { return os.WriteFile(path, was, 0) }
}

// scenarioAndCleanups runs Run, which may end anywhere by runtime.Goexit or a panic, and then every
// cleanup, the last registered first.
func (t *T) scenarioAndCleanups() {
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		defer t.recovered("the scenario")
		t.scenario.Run(t)
	}()
	<-ran
	// A cleanup may register another: unloading a module in one of them would.
	for len(t.cleanups) > 0 {
		last := t.cleanups[len(t.cleanups)-1]
		t.cleanups = t.cleanups[:len(t.cleanups)-1]
		t.clean(last)
	}
}

func (t *T) clean(c cleanup) {
	defer t.recovered(c.what)
	if err := c.undo(); err != nil {
		t.stream.check(record.Check{Claim: "cleanup succeeds: " + c.what, Want: "success", Got: err.Error()})
	}
}

// recovered turns a panic of ours into a record. runtime.Goexit is no panic.
func (t *T) recovered(what string) {
	if p := recover(); p != nil {
		t.stream.broken(fmt.Sprintf("%s panicked: %v\n%s", what, p, debug.Stack()))
	}
}

// stuck shows where the agent is: its goroutines, and its threads inside the kernel.
func stuck(root string) string {
	var b strings.Builder
	tasks, err := os.ReadDir(filepath.Join(root, "/proc/self/task"))
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	for _, task := range tasks {
		stack, err := os.ReadFile(filepath.Join(root, "/proc/self/task", task.Name(), "stack"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintln(&b, err)
		}
		fmt.Fprintf(&b, "thread %s\n%s", task.Name(), stack)
	}
	buf := make([]byte, 4<<10)
	b.Write(buf[:runtime.Stack(buf, true)])
	return b.String()
}
