package vfio

import (
	"os"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// A file that is cut under a mapping does what a BAR does whose memory was disabled.
func TestMappingFaults(t *testing.T) {
	const page = 4096
	d, path := device(t, "....\x78\x56\x34\x12"+strings.Repeat(".", 2*page-8))
	r := &Region{dev: d, name: "0000:01:00.0 region 0", size: 2 * page}
	m, err := r.Mmap()
	assert.NilError(t, err)
	v, err := m.Read32(4)
	assert.NilError(t, err)
	assert.Equal(t, v, uint32(0x12345678))
	assert.NilError(t, m.Write32(page, 7))

	assert.NilError(t, os.Truncate(path, page))
	_, err = m.Read32(page)
	assert.ErrorIs(t, err, ErrSIGBUS)
	assert.ErrorContains(t, err, "read 0000:01:00.0 region 0 at 0x1000")
	assert.ErrorIs(t, m.Write32(page, 7), ErrSIGBUS)
	v, err = m.Read32(4)
	assert.NilError(t, err, "the other page is as it was")
	assert.Equal(t, v, uint32(0x12345678))

	_, err = m.Read32(2 * page)
	assert.Error(t, err, "read 0000:01:00.0 region 0: register 0x2000 of 0x2000 mapped")
	assert.NilError(t, m.Close())
	assert.NilError(t, m.Close(), "twice")
	_, err = m.Read32(0)
	assert.ErrorContains(t, err, "of 0x0 mapped")
}

func TestMmapRefused(t *testing.T) {
	d, _ := device(t, "")
	assert.NilError(t, d.Close())
	_, err := (&Region{dev: d, name: "0000:01:00.0 region 0", size: 4096}).Mmap()
	assert.Error(t, err, "mmap 0000:01:00.0 region 0: bad file descriptor")
}
