package lab

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"

	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/results/record"
)

// What QEMU deleted is told by slots: another slot's event, an event of no slot and one from before the device
// came end no wait.
func TestWaitDeleted(t *testing.T) {
	root := guestRoot(t).Path()
	synctest.Test(t, func(t *testing.T) {
		list := host(t, root, scenario(func(t *T) {
			events := &t.stream.events
			events.add(record.Event{Name: "DEVICE_DELETED", Slot: 2})
			d := &VFIODevice{t: t, slot: 2, pci: t.bus.Device("0000:01:00.0"), deleted: 1, refs: map[string]int{"kvm": 1}}
			t.Check(!d.Deleted(), "the last one of the slot is not this one")
			go func() {
				events.add(record.Event{Name: "DEVICE_DELETED", Slot: 1})
				events.add(record.Event{Name: "DEVICE_DELETED"})
				time.Sleep(time.Second)
				events.add(record.Event{Name: "DEVICE_DELETED", Slot: 2})
			}()
			start := time.Now()
			d.WaitDeleted(5 * time.Second)
			t.Check(d.Deleted() && time.Since(start) == time.Second, "it is deleted when its event comes")
			_, there := t.baseline.drivers["0000:01:00.0"]
			t.Check(!there, "the closing invariant does not look for it")
			t.WantInt(t.idle.refs["kvm"], 0, "nor WantIdle for its references")
			t.idle.refs["kvm"]++
			t.baseline.drivers["0000:01:00.0"] = ""
			d.deleted = 2
			d.WaitDeleted(time.Second)
		}), nil)
		assert.DeepEqual(t, own(list), []string{
			"ok the last one of the slot is not this one", "ok it is deleted when its event comes",
			"ok the closing invariant does not look for it", "ok nor WantIdle for its references",
			"FALSE no error: unplug 0000:01:00.0: QEMU has not deleted it within 1s",
		})
	})
}

func TestWantGone(t *testing.T) {
	root := guestRoot(t)
	fs.Apply(t, root, fs.WithDir("dev", fs.WithDir("vfio", fs.WithFile("7", ""))))
	list := host(t, root.Path(), scenario(func(t *T) {
		d := &VFIODevice{t: t, pci: t.bus.Device("0000:01:00.0"), number: 7}
		d.WantGone()
		for _, path := range []string{"/dev/vfio/7", "/sys/bus/pci/devices/0000:01:00.0"} {
			if err := os.Remove(root.Join(path)); err != nil {
				t.Broken(err.Error())
			}
		}
		d.WantGone()
	}), nil)
	assert.DeepEqual(t, own(list), []string{"FALSE nothing is left of 0000:01:00.0", "ok nothing is left of 0000:01:00.0"})
	for _, r := range list {
		if r.Check != nil && !r.Check.OK && !r.Check.Invariant {
			assert.Equal(t, r.Check.Got, "/sys/bus/pci/devices/0000:01:00.0, /dev/vfio/7")
		}
	}
}

// The kernel's word that a device left is for the device of that address, until one comes there again.
func TestRemovedEvents(t *testing.T) {
	w := &watcher{}
	event := func(action, address string) map[string]string {
		return map[string]string{"SUBSYSTEM": "pci", "ACTION": action, "PCI_SLOT_NAME": address, "PCI_ID": "1234:11E8"}
	}
	w.take(event("remove", "0000:01:00.0"))
	w.take(event("remove", "0000:02:00.0"))
	w.take(event("add", "0000:01:00.0"))
	assert.DeepEqual(t, w.removed, []string{"0000:02:00.0"})
}

func TestTasksIn(t *testing.T) {
	root := fs.NewDir(t, "root", fs.WithDir("proc",
		fs.WithDir("12", fs.WithFile("comm", "kworker/u2:1\n"), fs.WithFile("stack", "[<0>] vfio_unregister_group_dev+0x1/0x2\n[<0>] pci_stop_bus_device+0x1/0x2\n")),
		fs.WithDir("13", fs.WithFile("comm", "agent\n"), fs.WithFile("stack", "[<0>] futex_wait+0x1/0x2\n"))))
	assert.Equal(t, tasksIn(root.Path(), "pci"),
		"task 12 kworker/u2:1\n[<0>] vfio_unregister_group_dev+0x1/0x2\n[<0>] pci_stop_bus_device+0x1/0x2\n")
	assert.Assert(t, tasksIn(root.Path(), "nvme") != "")
}

// A device that was plugged in and is still there keeps its group; one that is gone has none.
func TestGroupsOfPluggedDevices(t *testing.T) {
	d := &VFIODevice{t: &T{}, pci: pci.NewBus("").Device("0000:01:00.0"), number: 9}
	at := func(groups map[string]string) string {
		t.Helper()
		for _, c := range d.t.around.compare(surroundings{groups: groups}) {
			if c.Claim == "IOMMU groups are back" && !c.OK {
				return "want " + c.Want + ", got " + c.Got
			}
		}
		return ""
	}
	d.t.around.groups = map[string]string{"0000:00:03.0": "4", "0000:01:00.0": "9"}
	assert.Equal(t, at(map[string]string{"0000:00:03.0": "4", "0000:01:00.0": "9"}), "")
	assert.Equal(t, at(map[string]string{"0000:00:03.0": "4"}), "want 0000:01:00.0: 9, got ")
	d.forget()
	assert.Equal(t, at(map[string]string{"0000:00:03.0": "4"}), "")
	assert.Equal(t, at(map[string]string{"0000:00:03.0": "4", "0000:01:00.0": "9"}), "want , got 0000:01:00.0: 9")
	assert.Equal(t, at(map[string]string{"0000:00:03.0": "4", "group 9": "no device"}), "want , got group 9: no device")
}
