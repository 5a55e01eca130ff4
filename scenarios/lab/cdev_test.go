package lab

import (
	"os"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"
)

// A device without a node of its own is a kernel without the option, which the host looks up. One that is there and
// cannot be opened is the kernel's fault.
func TestOpenCdev(t *testing.T) {
	root := guestRoot(t)
	open := func() []string {
		return own(host(t, root.Path(), scenario(func(t *T) {
			d := &VFIODevice{t: t, pci: t.bus.Device("0000:01:00.0")}
			t.Check(d.HasCdevNode(), "a node")
			d.OpenCdev()
		}), nil))
	}
	assert.DeepEqual(t, open(), []string{"FALSE a node", "skip config CONFIG_VFIO_DEVICE_CDEV: no node in /dev/vfio/devices for 0000:01:00.0"})
	assert.NilError(t, os.MkdirAll(root.Join("sys/bus/pci/devices/0000:01:00.0/vfio-dev/vfio987654"), 0o755))
	assert.DeepEqual(t, open(), []string{"FALSE a node", "skip config CONFIG_VFIO_DEVICE_CDEV: no node in /dev/vfio/devices for 0000:01:00.0"})
	fs.Apply(t, root, fs.WithDir("dev", fs.WithDir("vfio", fs.WithDir("devices", fs.WithFile("vfio987654", "")))))
	assert.DeepEqual(t, open(), []string{"ok a node", "FALSE open /dev/vfio/devices/vfio987654 succeeds"})
}
