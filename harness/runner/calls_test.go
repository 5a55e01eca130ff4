package runner

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/harness/plan"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// What a guest asks for beyond its scenario's needs is refused before it comes near QEMU: there is none here.
func TestCallsBeyondTheNeedsAreRefused(t *testing.T) {
	h := &host{needs: lab.Needs{Devices: []lab.Device{lab.EDU}}, ports: 4, plugged: map[string]bool{"dut2": true}, dir: t.TempDir()}
	for _, c := range []struct {
		call record.Call
		want string
	}{
		{record.Call{Verb: "human-monitor-command"}, "unknown verb"},
		{record.Call{Verb: record.Verb(strings.Repeat("x", 1000))}, "unknown verb"},
		{record.Call{Verb: record.VerbPlug, Device: "nvme", Slot: 1}, "needs name no device"},
		{record.Call{Verb: record.VerbPlug, Device: "edu,id=x", Slot: 1}, "needs name no device"},
		{record.Call{Verb: record.VerbPlug, Device: "edu", Slot: 0}, "slot 0, the machine has 1 to 4"},
		{record.Call{Verb: record.VerbPlug, Device: "edu", Slot: 5}, "slot 5, the machine has 1 to 4"},
		{record.Call{Verb: record.VerbPlug, Device: "edu", Slot: 2}, "slot 2 has it already"},
		{record.Call{Verb: record.VerbUnplug, Device: "edu", Slot: 1}, "slot 1 does not have it"},
		{record.Call{Verb: record.VerbUnplug, Device: "qmp", Slot: 2}, "needs name no device"},
	} {
		c.call.ID = 7
		reply := h.answer(t.Context(), c.call)
		assert.Check(t, cmp.Equal(reply.ID, 7))
		assert.Check(t, cmp.Contains(reply.Error, c.want))
		assert.Check(t, len(reply.Error) < 200, "a guest's words are not passed on at length")
	}
	assert.Equal(t, h.answer(t.Context(), record.Call{Verb: record.VerbFaults}).Error, "")
}

// An event is told by the slot, because the agent does not know QEMU's names; a device that is deleted leaves
// its slot free.
func TestDeletedDeviceFreesItsSlot(t *testing.T) {
	h := &host{ports: 4, plugged: map[string]bool{"dut2": true, "dut3": true}}
	ev := h.heard(record.Event{Name: "DEVICE_DELETED", Device: "dut2"})
	assert.Equal(t, ev.Slot, 2)
	assert.DeepEqual(t, h.plugged, map[string]bool{"dut3": true})
	ev = h.heard(record.Event{Name: "DEVICE_UNPLUG_GUEST_ERROR", Device: "dut3"})
	assert.Equal(t, ev.Slot, 3)
	assert.Assert(t, h.plugged["dut3"])
	assert.Equal(t, h.heard(record.Event{Name: "DEVICE_DELETED"}).Slot, 0)
}

// The guest's word that it cannot run a scenario is held against what the host knows, from the record to the
// verdict.
func TestSkipOfTheGuestIsWeighed(t *testing.T) {
	for reported, want := range map[record.SkipReason]record.Verdict{
		{Kind: record.SkipVersion, Since: "5.7", Reason: "no count"}: record.Fail,
		{Kind: record.SkipVersion, Since: "9.9", Reason: "no count"}: record.Skip,
	} {
		log, err := results.NewRecordLog(t.TempDir())
		assert.NilError(t, err)
		talk := &talk{attempt: &attempt{runner: &Runner{QEMU: "7.2.22"}, cell: plan.Cell{Kernel: kernels.Kernel{Release: "6.1.192"}}}}
		talk.in.Exit.Booted = true
		assert.NilError(t, talk.heard(t.Context(), record.Record{Kind: record.KindSkip, Skip: &reported}, log))
		assert.NilError(t, log.Close())
		assert.Equal(t, results.Judge(talk.in).Verdict, want)
	}
}
