package pci

import (
	"io/fs"
	"os"
	"testing"

	"gotest.tools/v3/assert"
)

func TestConfig(t *testing.T) {
	dir := sysfs(t)
	space := make([]byte, 256)
	space[status] = statusCaps
	space[firstCap] = 0x40
	copy(space[0x40:], []byte{CapPM, 0x60})
	copy(space[0x60:], []byte{CapExpress, 0})
	space[0x67] = 0x10
	copy(space[Command:], []byte{6, 1})
	config := dir.Join("sys/bus/pci/devices/0000:01:00.0/config")
	assert.NilError(t, os.WriteFile(config, space, 0o600))
	dev := NewBus(dir.Path()).Device("0000:01:00.0")
	c := dev.Config()

	command, err := c.Read16(Command)
	assert.NilError(t, err)
	assert.Equal(t, command, uint16(0x106))
	at, err := c.Capability(CapPM)
	assert.NilError(t, err)
	assert.Equal(t, at, int64(0x40))
	at, err = c.Capability(CapMSI)
	assert.NilError(t, err)
	assert.Equal(t, at, int64(0))
	resets, err := c.FunctionReset()
	assert.NilError(t, err)
	assert.Assert(t, resets)
	assert.NilError(t, c.Write32(FirstBAR, 0xfe000000))
	bar, err := c.Read32(FirstBAR)
	assert.NilError(t, err)
	assert.Equal(t, bar, uint32(0xfe000000))
	_, err = c.Read32(254)
	assert.ErrorContains(t, err, "pci 0000:01:00.0: read config at 0xfe")

	// A list that runs in a circle, as a device that is gone has none that ends.
	space[0x61] = 0x40
	assert.NilError(t, os.WriteFile(config, space, 0o600))
	_, err = c.Capability(CapMSI)
	assert.Error(t, err, "pci 0000:01:00.0: the list of capabilities has no end")

	space[status] = 0
	assert.NilError(t, os.WriteFile(config, space, 0o600))
	resets, err = c.FunctionReset()
	assert.NilError(t, err)
	assert.Assert(t, !resets)
}

func TestAttributes(t *testing.T) {
	dir := sysfs(t)
	dev := NewBus(dir.Path()).Device("0000:01:00.0")
	methods, err := dev.ResetMethods()
	assert.NilError(t, err, "before 5.15")
	assert.Equal(t, methods, "")
	assert.NilError(t, os.WriteFile(dir.Join("sys/bus/pci/devices/0000:01:00.0/reset_method"), []byte("flr bus\n"), 0o600))
	methods, err = dev.ResetMethods()
	assert.NilError(t, err)
	assert.Equal(t, methods, "flr bus")
	_, err = dev.Attribute("power_state")
	assert.ErrorIs(t, err, fs.ErrNotExist)
}
