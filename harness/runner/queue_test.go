package runner

import (
	"context"
	"errors"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

func TestLocalQueueLosesNoCell(t *testing.T) {
	var saved []string
	cells := []plan.Cell{{Scenario: lab.Scenario{Name: "a"}}, {Scenario: lab.Scenario{Name: "b"}}, {Scenario: lab.Scenario{Name: "c"}}}
	q := NewLocal(cells, func(c results.Cell) error { saved = append(saved, c.Scenario); return nil })
	ctx, cancel := context.WithCancel(t.Context())

	a, ok := q.Next(ctx)
	assert.Assert(t, ok)
	assert.NilError(t, q.Done(a, results.Cell{Scenario: a.Scenario.Name}))
	b, ok := q.Next(ctx)
	assert.Assert(t, ok)
	cancel()
	q.Fail(b)
	_, ok = q.Next(ctx)
	assert.Assert(t, !ok, "no more work once it is over")

	assert.DeepEqual(t, saved, []string{"a"})
	var left []string
	for _, c := range q.Unfinished() {
		left = append(left, c.Scenario.Name)
	}
	assert.DeepEqual(t, left, []string{"b", "c"})
}

func TestLocalQueueReportsADiskThatIsFull(t *testing.T) {
	full := errors.New("no space left on device")
	q := NewLocal(make([]plan.Cell, 1), func(results.Cell) error { return full })
	c, _ := q.Next(t.Context())
	assert.ErrorIs(t, q.Done(c, results.Cell{}), full)
}

func TestHelloOfAnotherAgentIsRefused(t *testing.T) {
	c := plan.Cell{Scenario: lab.Scenario{Name: "a"}}
	good := hello("a", "", lab.Catalogue())
	assert.NilError(t, checkHello(good, c))
	assert.ErrorContains(t, checkHello(hello("a", "", "0000"), c), "run make build")
	assert.ErrorContains(t, checkHello(hello("b", "", lab.Catalogue()), c), "asked for a@")
	assert.ErrorContains(t, checkHello(hello("a", "v", lab.Catalogue()), c), "asked for a@")
}

func TestWhatBoots(t *testing.T) {
	cell := plan.Cell{Scenario: lab.Scenario{Name: "a"}}
	asks := cell
	asks.Scenario.Needs.FreshBoot = "it measures the boot"
	assert.Check(t, !(&attempt{runner: &Runner{}, cell: cell, number: 1}).boots())
	assert.Check(t, (&attempt{runner: &Runner{Boot: true}, cell: cell, number: 1}).boots())
	assert.Check(t, (&attempt{runner: &Runner{}, cell: cell, number: 2}).boots())
	assert.Check(t, (&attempt{runner: &Runner{}, cell: asks, number: 1}).boots())
}

func hello(scenario, variant, catalogue string) record.Hello {
	return record.Hello{Scenario: scenario, Variant: variant, Catalogue: catalogue}
}

func TestOnlyOurFaultsAreTriedAgain(t *testing.T) {
	for _, c := range []struct {
		verdict record.Verdict
		booted  bool
		accel   machine.Accel
		want    bool
	}{
		{record.Error, true, machine.TCG, true},
		{record.Error, false, machine.KVM, true},
		{record.Crash, false, machine.TCG, true},
		{record.Crash, false, machine.KVM, false},
		{record.Crash, true, machine.TCG, false},
		{record.Hang, true, machine.TCG, false},
		{record.Hang, false, machine.TCG, false},
		{record.Fail, true, machine.TCG, false},
		{record.Pass, true, machine.TCG, false},
		{record.Invalid, false, machine.TCG, false},
	} {
		assert.Check(t, again(results.Outcome{Verdict: c.verdict}, c.booted, c.accel) == c.want, "%+v", c)
	}
}
