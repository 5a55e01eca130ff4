package pci

import (
	"os"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"
)

func TestSlot(t *testing.T) {
	root := fs.NewDir(t, "root", fs.WithDir("sys", fs.WithDir("bus", fs.WithDir("pci",
		fs.WithDir("devices", fs.WithDir("0000:02:00.0", fs.WithFile("sriov_numvfs", "0\n"),
			fs.WithSymlink("virtfn0", "../0000:02:00.1"), fs.WithSymlink("virtfn1", "../0000:02:00.2"))),
		fs.WithDir("slots",
			fs.WithDir("1", fs.WithFile("address", "0000:01:00\n"), fs.WithFile("power", "1\n")),
			fs.WithDir("2", fs.WithFile("address", "0000:02:00\n"), fs.WithFile("power", "1\n"))))),
		fs.WithDir("class", fs.WithDir("pci_bus", fs.WithDir("0000:02", fs.WithFile("rescan", ""))))))
	bus := NewBus(root.Path())
	dev := bus.Device("0000:02:00.0")
	assert.Assert(t, dev.Present())
	assert.Assert(t, !bus.Device("0000:03:00.0").Present())

	slot, err := dev.Slot()
	assert.NilError(t, err)
	assert.Equal(t, slot.Name, "2")
	assert.NilError(t, slot.SetPower(false))
	on, err := slot.Power()
	assert.NilError(t, err)
	assert.Assert(t, !on)
	_, err = bus.Device("0000:03:00.0").Slot()
	assert.ErrorIs(t, err, ErrNoSlot)
	assert.Error(t, err, "pci 0000:03:00.0: no slot")

	vfs, err := dev.VFs()
	assert.NilError(t, err)
	assert.Equal(t, len(vfs), 2)
	assert.Equal(t, vfs[1].Address, "0000:02:00.2")
	assert.NilError(t, dev.SetVFs(2))
	assert.Equal(t, content(t, root.Join("sys/bus/pci/devices/0000:02:00.0/sriov_numvfs")), "2")
	assert.NilError(t, bus.Rescan("0000:02"))
	assert.Equal(t, content(t, root.Join("sys/class/pci_bus/0000:02/rescan")), "1")
	assert.ErrorContains(t, bus.Rescan("0000:09"), "pci bus 0000:09: ")
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	assert.NilError(t, err)
	return string(text)
}
