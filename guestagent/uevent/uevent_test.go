package uevent

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	msg := "add@/devices/pci0000:00/0000:01:00.0\x00ACTION=add\x00DEVPATH=/devices/pci0000:00/0000:01:00.0\x00" +
		"SUBSYSTEM=pci\x00PCI_ID=1234:11E8\x00PCI_SLOT_NAME=0000:01:00.0\x00MODALIAS=a=b\x00"
	ev, ok := parse([]byte(msg))
	assert.Assert(t, ok)
	assert.DeepEqual(t, ev, Event{
		"ACTION": "add", "DEVPATH": "/devices/pci0000:00/0000:01:00.0", "SUBSYSTEM": "pci",
		"PCI_ID": "1234:11E8", "PCI_SLOT_NAME": "0000:01:00.0", "MODALIAS": "a=b",
	})

	for name, bad := range map[string]string{
		"empty":          "",
		"no fields":      "add@/devices/x",
		"udev's message": "libudev\x00\xfe\xed\xca\xfe",
		"no action":      "add@/devices/x\x00SUBSYSTEM=pci\x00",
	} {
		_, ok := parse([]byte(bad))
		assert.Assert(t, !ok, name)
	}
}

// TestSocket sends what only the kernel may send: another sender's message is not taken.
func TestSocket(t *testing.T) {
	s, err := Listen()
	assert.NilError(t, err)
	defer s.Close()

	out, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	assert.NilError(t, err)
	defer unix.Close(out)
	forged := []byte("add@/devices/forged\x00ACTION=add\x00DEVPATH=/devices/forged\x00SUBSYSTEM=pci\x00")
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}
	if err := unix.Sendto(out, forged, 0, to); err != nil && err != unix.EPERM && err != unix.ECONNREFUSED {
		t.Fatalf("send: %v", err)
	}
	events, err := s.Pending()
	assert.NilError(t, err)
	for _, ev := range events {
		assert.Assert(t, ev["DEVPATH"] != "/devices/forged", "a forged event was believed")
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err = s.Wait(ctx)
	assert.Assert(t, err == nil || err == context.DeadlineExceeded, "%v", err)
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"add@/devices/virtual/misc/kvm\x00ACTION=add\x00SEQNUM=7\x00", "change@x\x00ACTION=change\x00EVENT=create\x00COUNT=1\x00PID=\x00",
		"libudev\x00\xfe\xed\xca\xfe", "@\x00ACTION=", "add@x", "\x00", "x@y\x00=\x00==\x00ACTION=a=b",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		ev, ok := parse(msg)
		assert.Equal(t, ok, ev["ACTION"] != "")
		for key, value := range ev {
			assert.Assert(t, !strings.ContainsAny(key, "\x00=") && !strings.Contains(value, "\x00"), "%q=%q", key, value)
		}
	})
}
