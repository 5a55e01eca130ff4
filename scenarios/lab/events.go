package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/guestagent/uevent"
)

// watcher turns the kernel's uevents into what scenarios ask about: which VMs live, which PCI devices came.
//
// KVM's create and destroy events are the oracle for a VM's life. They come from within the system call
// that makes or ends the VM; the directory in debugfs does not always exist (a second VM with the same pid
// and descriptor number has none).
type watcher struct {
	socket  *uevent.Socket
	live    []vmKey // oldest first
	created int
	strays  int      // destroy events of no VM that lives: one was destroyed twice
	added   []string // addresses of PCI devices, with their ids
	removed []string // addresses of PCI devices that are not there any more
}

// vmKey is what KVM says of a VM when it is created and again when it is destroyed.
type vmKey struct {
	pid  string // of the thread that created it
	path string // its directory in debugfs, "" without one
	nth  int    // the nth VM since the watcher began; 0 in what an event says
}

func (k vmKey) String() string { return fmt.Sprintf("VM %d (pid %s, %s)", k.nth, k.pid, k.path) }

// pump takes in what has arrived. A lost event makes every count a lie.
func (w *watcher) pump() error {
	events, err := w.socket.Pending()
	for _, ev := range events {
		w.take(ev)
	}
	return err
}

func (w *watcher) take(ev uevent.Event) {
	switch {
	case ev["SUBSYSTEM"] == "pci" && ev["ACTION"] == "add":
		w.added = append(w.added, ev["PCI_ID"]+" "+ev["PCI_SLOT_NAME"])
		w.removed = slices.DeleteFunc(w.removed, func(a string) bool { return a == ev["PCI_SLOT_NAME"] })
	case ev["SUBSYSTEM"] == "pci" && ev["ACTION"] == "remove":
		w.removed = append(w.removed, ev["PCI_SLOT_NAME"])
	case strings.HasSuffix(ev["DEVPATH"], "/misc/kvm"):
		key := vmKey{pid: ev["PID"], path: ev["STATS_PATH"]}
		switch ev["EVENT"] {
		case "create":
			w.created++
			key.nth = w.created
			w.live = append(w.live, key)
		case "destroy":
			if i := w.match(key); i >= 0 {
				w.live = slices.Delete(w.live, i, i+1)
			} else if w.created > 0 {
				w.strays++
			}
		}
	}
}

// match finds the VM that a destroy event speaks of. The path decides; without one, the oldest of the pid
// that has none either.
func (w *watcher) match(key vmKey) int {
	return slices.IndexFunc(w.live, func(k vmKey) bool { return k.pid == key.pid && k.path == key.path })
}

// lives reports whether the nth VM still exists.
func (w *watcher) lives(nth int) bool {
	return slices.ContainsFunc(w.live, func(k vmKey) bool { return k.nth == nth })
}

// waitPCI waits for a device with this id to be announced, and returns its address.
func (w *watcher) waitPCI(ctx context.Context, id pci.ID) (string, error) {
	want := strings.ToUpper(id.String()) + " "
	for {
		if err := w.pump(); err != nil {
			return "", err
		}
		if i := slices.IndexFunc(w.added, func(s string) bool { return strings.HasPrefix(strings.ToUpper(s), want) }); i >= 0 {
			address := w.added[i][len(want):]
			w.added = slices.Delete(w.added, i, i+1)
			return address, nil
		}
		if err := w.socket.Wait(ctx); err != nil {
			return "", fmt.Errorf("PCI device %s not announced: %w", id, err)
		}
	}
}

// waitRemoved waits for the word that the device at this address has no driver any more and is going.
func (w *watcher) waitRemoved(ctx context.Context, address string) error {
	for {
		if err := w.pump(); err != nil {
			return err
		}
		if slices.Contains(w.removed, address) {
			return nil
		}
		if err := w.socket.Wait(ctx); err != nil {
			return fmt.Errorf("PCI device %s not removed: %w", address, err)
		}
	}
}
