package pci

import (
	"context"
	"encoding/binary"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sysfs(t *testing.T) *fs.Dir {
	t.Helper()
	return fs.NewDir(t, "root", fs.WithDir("sys", fs.WithDir("bus", fs.WithDir("pci",
		fs.WithDir("devices",
			fs.WithDir("0000:00:1f.2", fs.WithSymlink("driver", "../../drivers/ahci"), fs.WithFile("driver_override", "")),
			fs.WithDir("0000:01:00.0", fs.WithFile("driver_override", ""), fs.WithFile("rescan", ""),
				fs.WithFile("enable", ""), fs.WithSymlink("iommu_group", "../../../../kernel/iommu_groups/12"))),
		fs.WithDir("drivers",
			fs.WithDir("ahci", fs.WithFile("bind", ""), fs.WithFile("unbind", "")),
			fs.WithDir("vfio-pci", fs.WithFile("bind", "")))))))
}

func contents(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	assert.NilError(t, err)
	return string(text)
}

func TestDevices(t *testing.T) {
	dir := sysfs(t)
	bus := NewBus(dir.Path())
	devs, err := bus.Devices()
	assert.NilError(t, err)
	assert.Equal(t, len(devs), 2)
	ahci, edu := devs[0], devs[1]

	driver, err := ahci.Driver()
	assert.NilError(t, err)
	assert.Equal(t, driver, "ahci")
	driver, err = edu.Driver()
	assert.NilError(t, err)
	assert.Equal(t, driver, "")

	group, err := edu.Group()
	assert.NilError(t, err)
	assert.Equal(t, group, 12)
	_, err = ahci.Group()
	assert.Error(t, err, "pci 0000:00:1f.2: in no IOMMU group")
}

func TestBinding(t *testing.T) {
	dir := sysfs(t)
	bus := NewBus(dir.Path())
	edu := bus.Device("0000:01:00.0")
	assert.NilError(t, edu.Settle())
	assert.Equal(t, contents(t, dir.Join("sys/bus/pci/devices/0000:01:00.0/rescan")), "1")

	assert.NilError(t, edu.Bind("vfio-pci"))
	assert.Equal(t, contents(t, dir.Join("sys/bus/pci/devices/0000:01:00.0/driver_override")), "vfio-pci")
	assert.Equal(t, contents(t, dir.Join("sys/bus/pci/drivers/vfio-pci/bind")), "0000:01:00.0")

	ahci := bus.Device("0000:00:1f.2")
	assert.NilError(t, ahci.Unbind())
	assert.Equal(t, contents(t, dir.Join("sys/bus/pci/drivers/ahci/unbind")), "0000:00:1f.2")
	assert.Equal(t, contents(t, dir.Join("sys/bus/pci/devices/0000:00:1f.2/driver_override")), "\n")

	assert.ErrorContains(t, bus.Device("0000:09:00.0").Bind("vfio-pci"), "pci 0000:09:00.0: ")
	assert.ErrorContains(t, edu.Unbind(), "driver/unbind", "a device without a driver")
}

func TestMapBAR(t *testing.T) {
	dir := sysfs(t)
	resource := make([]byte, 4096)
	binary.LittleEndian.PutUint32(resource[8:], 0xcafe)
	assert.NilError(t, os.WriteFile(dir.Join("sys/bus/pci/devices/0000:01:00.0/resource0"), resource, 0o600))
	dev := NewBus(dir.Path()).Device("0000:01:00.0")

	bar, err := dev.MapBAR(0, 4096)
	assert.NilError(t, err)
	assert.Equal(t, contents(t, dir.Join("sys/bus/pci/devices/0000:01:00.0/enable")), "1")
	got, err := bar.Read32(8)
	assert.NilError(t, err)
	assert.Equal(t, got, uint32(0xcafe))
	assert.NilError(t, bar.Write32(12, 7))
	_, err = bar.Read32(6)
	assert.ErrorContains(t, err, "register 0x6")
	assert.ErrorContains(t, bar.Write32(4096, 1), "register 0x1000 of 0x1000")
	assert.NilError(t, bar.Close())
	assert.Equal(t, contents(t, dir.Join("sys/bus/pci/devices/0000:01:00.0/enable")), "0")
	assert.Equal(t, contents(t, dir.Join("sys/bus/pci/devices/0000:01:00.0/resource0"))[12], byte(7))

	_, err = dev.MapBAR(5, 4096)
	assert.ErrorContains(t, err, "map BAR 5")
}

// fake is an edu as far as its registers go.
type fake struct {
	id      uint32
	invert  bool
	regs    map[uint64]uint32
	running int // reads of the command register until a transfer ends; below 0: never
	moved   []transfer
}

type transfer struct{ from, to, n, cmd uint32 }

func (f *fake) Read32(at uint64) (uint32, error) {
	switch at {
	case 0x00:
		return f.id, nil
	case 0x04:
		if f.invert {
			return ^f.regs[4], nil
		}
	case 0x98:
		if f.running--; f.running == 0 {
			f.regs[0x98] &^= 1
		}
	}
	return f.regs[at], nil
}

func (f *fake) Write32(at uint64, v uint32) error {
	f.regs[at] = v
	if at == 0x98 {
		f.moved = append(f.moved, transfer{f.regs[0x80], f.regs[0x88], f.regs[0x90], v})
	}
	return nil
}

func TestEDUAlive(t *testing.T) {
	assert.NilError(t, EDU{&fake{id: 0x010000ed, invert: true, regs: map[uint64]uint32{}}}.Alive())
	// After a snapshot's restore everything reads as zero, without a BAR as ones.
	assert.Error(t, EDU{&fake{regs: map[uint64]uint32{}}}.Alive(), "edu: id register reads 0x0")
	assert.Error(t, EDU{&fake{id: 0xffffffff, regs: map[uint64]uint32{}}}.Alive(), "edu: id register reads 0xffffffff")
	assert.ErrorContains(t, EDU{&fake{id: 0x010000ed, regs: map[uint64]uint32{}}}.Alive(), "inverting register")
}

func TestEDUTransfers(t *testing.T) {
	f := &fake{regs: map[uint64]uint32{}, running: 2}
	assert.NilError(t, EDU{f}.FromMemory(t.Context(), 0x100000, 4095))
	f.running = 1
	assert.NilError(t, EDU{f}.ToMemory(t.Context(), 0x200000, 16))
	assert.Assert(t, len(f.moved) == 2)
	assert.Equal(t, f.moved[0], transfer{0x100000, 0x40000, 4095, 1})
	assert.Equal(t, f.moved[1], transfer{0x40000, 0x200000, 16, 3})

	assert.ErrorContains(t, EDU{f}.ToMemory(t.Context(), 0, 4096), "4096 bytes")

	f.running = -1
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, EDU{f}.ToMemory(ctx, 0, 16), context.DeadlineExceeded)
}
