package runner

import (
	"context"
	"fmt"
	"time"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/results/record"
	"github.com/nestbed/nestbed/scenarios/lab"
)

// callTimeout bounds one host action. QEMU answers within milliseconds unless its main loop is stuck.
const callTimeout = 20 * time.Second

// host does what a scenario's agent asks for with call records. It never passes anything on to QEMU that
// the scenario's Needs did not name: a guest's words choose among prepared actions, no more.
type host struct {
	process *qemu.Process
	dir     string
	needs   lab.Needs
	ports   int
	plugged map[string]bool // device ids that QEMU has
}

// answer carries out one call and says how it went.
func (h *host) answer(ctx context.Context, c record.Call) record.Reply {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply := record.Reply{ID: c.ID}
	var err error
	switch c.Verb {
	case record.VerbPlug:
		err = h.plug(ctx, c)
	case record.VerbUnplug:
		err = h.unplug(ctx, c)
	case record.VerbFaults:
		reply.Faults, err = qemu.Faults(h.dir)
	case record.VerbNMI:
		err = h.process.NMI(ctx)
	default:
		err = fmt.Errorf("unknown verb %.32q", c.Verb)
	}
	if err != nil {
		reply.Error = err.Error()
	}
	return reply
}

func (h *host) plug(ctx context.Context, c record.Call) error {
	dev, err := h.device(c.Device)
	if err != nil {
		return err
	}
	if c.Slot < 1 || c.Slot > h.ports {
		return fmt.Errorf("plug %s: slot %d, the machine has 1 to %d", c.Device, c.Slot, h.ports)
	}
	id := deviceID(c)
	if h.plugged[id] {
		return fmt.Errorf("plug %s: slot %d has it already", c.Device, c.Slot)
	}
	if err := h.process.Plug(ctx, dev, id, c.Slot); err != nil {
		return err
	}
	h.plugged[id] = true
	return nil
}

func (h *host) unplug(ctx context.Context, c record.Call) error {
	if _, err := h.device(c.Device); err != nil {
		return err
	}
	if id := deviceID(c); h.plugged[id] {
		return h.process.Unplug(ctx, id)
	}
	return fmt.Errorf("unplug %s: slot %d does not have it", c.Device, c.Slot)
}

// heard takes in an event and adds what the agent can make sense of. A slot is free for the next device once
// QEMU has deleted the last one: before that it refuses a second of that id.
func (h *host) heard(ev record.Event) record.Event {
	for slot := 1; slot <= h.ports; slot++ {
		if ev.Device == deviceID(record.Call{Slot: slot}) {
			ev.Slot = slot
		}
	}
	if ev.Name == "DEVICE_DELETED" {
		delete(h.plugged, ev.Device)
	}
	return ev
}

// device is the one that the scenario's Needs name so.
func (h *host) device(name string) (machine.Device, error) {
	for _, d := range h.needs.Devices {
		if d.Name == name {
			return machine.DeviceNamed(name)
		}
	}
	return machine.Device{}, fmt.Errorf("the scenario's needs name no device %.32q", name)
}

// deviceID is QEMU's name for the device in a slot.
func deviceID(c record.Call) string { return fmt.Sprintf("dut%d", c.Slot) }
