package runner

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// stillborn makes guests that never come up: each attempt leaves a console and an error.
type stillborn struct {
	console string
	err     error
	asked   int
}

func (s *stillborn) Get(_ context.Context, spec pool.Spec) (*pool.Guest, error) {
	s.asked++
	return nil, errors.Join(os.WriteFile(filepath.Join(spec.Dir, machine.ConsoleLog), []byte(s.console), 0o600), s.err)
}

type silentProgress struct{}

func (silentProgress) Begin(int, string)     {}
func (silentProgress) Phase(int, string)     {}
func (silentProgress) End(int, results.Cell) {}

// born runs two cells whose guests are made by s.
func born(t *testing.T, s *stillborn, room func(string) error) (*results.Run, error) {
	t.Helper()
	m, err := machine.Named("intel")
	assert.NilError(t, err)
	k := kernels.Kernel{Release: "6.12.0-test"}
	cells := []plan.Cell{
		{Scenario: lab.Scenario{Name: "first"}, Kernel: k, Machine: m},
		{Scenario: lab.Scenario{Name: "second"}, Kernel: k, Machine: m},
	}
	h := results.Header{Cells: []results.Planned{Planned(cells[0]), Planned(cells[1])}}
	run, err := results.Create(t.TempDir(), h)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, run.Close()) })
	r := &Runner{Guests: s, Run: run, Progress: silentProgress{}, Workers: 1, BootProven: map[string]bool{"intel": true}, room: room}
	return run, r.Go(t.Context(), NewLocal(cells, run.Append))
}

func TestAKernelThatNeverComesUp(t *testing.T) {
	const words = "[    0.000000] Linux version 6.12.0-test\n[    0.500000] ACPI: \x1b[2J Core revision\n"
	for name, c := range map[string]struct {
		err     error
		verdict record.Verdict
		title   string
		asked   int
	}{
		"silent":   {&pool.BootError{Silent: true, LastLine: "ACPI", Err: errors.New("no progress")}, record.Hang, `silent after "ACPI"`, 2},
		"reset":    {&pool.BootError{Reset: true, QEMUExited: true, Err: errors.New("QEMU ended")}, record.Crash, "the guest reset itself", 4},
		"panicked": {&pool.BootError{Panicked: true, Err: errors.New("the kernel died")}, record.Crash, "kernel panic", 4},
		"our own":  {unix.EROFS, record.Error, "read-only file system", 4},
	} {
		t.Run(name, func(t *testing.T) {
			s := &stillborn{console: words, err: c.err}
			run, err := born(t, s, nil)
			assert.NilError(t, err)
			cells, err := run.Cells()
			assert.NilError(t, err)
			assert.Equal(t, len(cells), 2)
			assert.Check(t, cmp.Equal(cells[0].Verdict, c.verdict))
			assert.Check(t, cmp.Equal(cells[0].Title, c.title))
			assert.Check(t, cmp.Equal(s.asked, c.asked))
			o, err := run.Outcome(cells[0])
			assert.NilError(t, err)
			assert.DeepEqual(t, o.Tail, []string{"Linux version 6.12.0-test", `ACPI: \x1b[2J Core revision`})
		})
	}
}

// A full disk ends the run: what was seen on it is no verdict, except a crash that was written down.
func TestAFullDiskEndsTheRun(t *testing.T) {
	full := func(dir string) error { return &pool.FullError{Dir: dir, Err: unix.ENOSPC} }
	s := &stillborn{err: &pool.BootError{Silent: true, Err: errors.New("no progress")}}
	run, err := born(t, s, full)
	assert.ErrorIs(t, err, unix.ENOSPC)
	assert.ErrorContains(t, err, "first/6.12.0-test/intel: no room for a guest's logs in "+run.Dir())
	assert.Equal(t, s.asked, 1)
	left, err := run.Unfinished()
	assert.NilError(t, err)
	assert.Equal(t, len(left), 2)

	s = &stillborn{err: s.err, console: "[    1.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000\n" +
		"[    1.000001] RIP: 0010:kvm_put_kvm+0x1/0x2 [kvm]\n[    1.000002] ---[ end trace 0000000000000000 ]---\n"}
	run, err = born(t, s, full)
	assert.NilError(t, err)
	cells, err := run.Cells()
	assert.NilError(t, err)
	assert.Equal(t, len(cells), 2)
	assert.Equal(t, cells[0].Verdict, record.Crash)
}

// The guest's word on how slow it is counts as far as the host has seen it.
func TestSlownessIsNotTheGuestsAlone(t *testing.T) {
	for _, c := range []struct {
		ready, host time.Duration
		restored    bool
		want        float64
	}{
		{time.Second, 2 * time.Second, false, 1},
		{6 * time.Second, 8 * time.Second, false, 2},
		{1e6 * time.Second, 6 * time.Second, false, 2},
		{1e6 * time.Second, 1e6 * time.Second, false, 20},
		// What a restored one says of its boot is no news.
		{time.Second, 300 * time.Millisecond, true, 1},
		{time.Second, 800 * time.Millisecond, true, 2},
		{1e6 * time.Second, 800 * time.Millisecond, true, 2},
	} {
		assert.Equal(t, slowness(&pool.Guest{Timing: pool.Timing{Ready: c.ready, SSH: c.host}, Restored: c.restored}), c.want)
	}
}
