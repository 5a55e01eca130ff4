package vfio

import (
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

func TestMapping(t *testing.T) {
	fd, err := unix.MemfdCreate("a region", unix.MFD_CLOEXEC)
	assert.NilError(t, err)
	d := &Device{uapi.Own(fd, "0000:01:00.0")}
	assert.NilError(t, unix.Ftruncate(fd, 8192))
	_, err = unix.Pwrite(fd, []byte{0xed, 0, 0, 1}, 4096+8)
	assert.NilError(t, err)
	m, err := (&Region{dev: d, name: "0000:01:00.0 region 0", size: 4096, offset: 4096}).Map()
	assert.NilError(t, err)
	assert.NilError(t, d.Close())

	value, err := m.Read32(8)
	assert.NilError(t, err)
	assert.Equal(t, value, uint32(0x10000ed))
	_, err = m.Read32(4096)
	assert.Error(t, err, "0000:01:00.0 region 0: register 0x1000 of 0x1000 mapped bytes")
	assert.NilError(t, m.Close())
	assert.NilError(t, m.Close())
	_, err = m.Read32(0)
	assert.ErrorContains(t, err, "of 0x0 mapped bytes")
	_, err = (&Region{dev: d, name: "0000:01:00.0 region 0"}).Map()
	assert.ErrorIs(t, err, unix.EBADF)
}

func TestUnsetContainerOfAClosedGroup(t *testing.T) {
	assert.Error(t, (&Group{uapi.Own(-1, "group 7")}).UnsetContainer(), "VFIO_GROUP_UNSET_CONTAINER group 7: bad file descriptor")
}
