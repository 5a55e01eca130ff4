package pool

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

func TestRoom(t *testing.T) {
	assert.NilError(t, Room(t.TempDir()))
	assert.ErrorIs(t, Room("/no/such/folder"), unix.ENOENT)
	// procfs has no free block, like a full disk.
	var full *FullError
	err := Room("/proc")
	assert.Assert(t, errors.As(err, &full), "%v", err)
	assert.ErrorIs(t, err, unix.ENOSPC)
	assert.Error(t, err, "no room for a guest's logs in /proc: no space left on device")

	var limit unix.Rlimit
	assert.NilError(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &limit))
	small := unix.Rlimit{Cur: 1 << 20, Max: limit.Max}
	assert.NilError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &small))
	err = Room(t.TempDir())
	assert.NilError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limit))
	assert.ErrorIs(t, err, unix.EFBIG)
}
