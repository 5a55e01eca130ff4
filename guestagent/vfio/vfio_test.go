package vfio

import (
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// device is a VFIO device whose descriptor is a file: regions are read and written by pread and pwrite.
func device(t *testing.T, content string) (*Device, string) {
	t.Helper()
	path := t.TempDir() + "/device"
	assert.NilError(t, os.WriteFile(path, []byte(content), 0o600))
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	assert.NilError(t, err)
	d := &Device{uapi.Own(fd, "0000:01:00.0")}
	t.Cleanup(func() { assert.NilError(t, d.Close()) })
	return d, path
}

func TestRegion(t *testing.T) {
	d, path := device(t, "....\x78\x56\x34\x12........")
	r := &Region{dev: d, name: "0000:01:00.0 region 0", size: 8, offset: 4}
	v, err := r.Read32(0)
	assert.NilError(t, err)
	assert.Equal(t, v, uint32(0x12345678))
	assert.NilError(t, r.Write32(4, 0x41424344))
	text, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Equal(t, string(text), "....\x78\x56\x34\x12DCBA....")

	// The region ends where the kernel said, whatever the file could still give.
	_, err = r.Read32(5)
	assert.Error(t, err, "pread 0000:01:00.0 region 0: 4 bytes at 0x5 of 0x8")
	assert.ErrorContains(t, r.Write32(1<<63, 0), "at 0x8000000000000000")
}

func TestRegionShortAndClosed(t *testing.T) {
	d, _ := device(t, "abc")
	r := &Region{dev: d, name: "0000:01:00.0 region 0", size: 8}
	_, err := r.Read32(0)
	assert.Error(t, err, "pread 0000:01:00.0 region 0 at 0x0: 3 of 4 bytes")
	assert.NilError(t, d.Close())
	assert.NilError(t, d.Close(), "twice")
	_, err = r.Read32(0)
	assert.Error(t, err, "pread 0000:01:00.0 region 0 at 0x0: bad file descriptor")
}

// Every call on a closed descriptor is refused by the kernel, by its own name.
func TestErrorsNameTheOperation(t *testing.T) {
	c := &Container{uapi.Own(-1, "container")}
	g := &Group{uapi.Own(-1, "group 7")}
	d := &Device{uapi.Own(-1, "0000:01:00.0")}
	_, unmap := c.Unmap(0, 4096)
	_, viable := g.Viable()
	_, open := g.Device("0000:01:00.0")
	_, info := d.Info()
	_, region := d.Region(0)
	for _, e := range []struct {
		err  error
		want string
	}{
		{c.SetIOMMU(3), "VFIO_SET_IOMMU container"},
		{c.Map(make([]byte, 1), 0), "VFIO_IOMMU_MAP_DMA container"},
		{unmap, "VFIO_IOMMU_UNMAP_DMA container"},
		{viable, "VFIO_GROUP_GET_STATUS group 7"},
		{g.SetContainer(c), "VFIO_GROUP_SET_CONTAINER group 7"},
		{open, "VFIO_GROUP_GET_DEVICE_FD group 7 0000:01:00.0"},
		{info, "VFIO_DEVICE_GET_INFO 0000:01:00.0"},
		{region, "VFIO_DEVICE_GET_REGION_INFO 0000:01:00.0"},
		{d.EnableMSI(-1), "VFIO_DEVICE_SET_IRQS 0000:01:00.0"},
		{d.EnableDMA(), "VFIO_DEVICE_GET_REGION_INFO 0000:01:00.0"},
	} {
		assert.Error(t, e.err, e.want+": bad file descriptor")
	}
	_, err := OpenGroup(-1)
	assert.Error(t, err, "open /dev/vfio/-1: no such file or directory")
}

func TestUnsetContainerOfAClosedGroup(t *testing.T) {
	assert.Error(t, (&Group{uapi.Own(-1, "group 7")}).UnsetContainer(), "VFIO_GROUP_UNSET_CONTAINER group 7: bad file descriptor")
}
