package pool

import (
	"encoding/binary"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/kernels"
)

// bare is an imported kernel without modules: the head of a bzImage is all there is of it.
func bare(t *testing.T) kernels.Kernel {
	t.Helper()
	image := make([]byte, 0x400)
	image[0x1f1] = 1
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x20e:], 0x100)
	copy(image[0x300:], "6.9.1 (a@b) #1\x00")
	dir := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "vmlinuz"), image, 0o600))
	cache, err := kernels.Open(t.TempDir())
	assert.NilError(t, err)
	k, err := cache.Resolve(t.Context(), dir, nil)
	assert.NilError(t, err)
	return k
}

// An initramfs that does not fit is an error and no file that a later run would boot.
func TestInitrdWithoutRoom(t *testing.T) {
	k := bare(t)
	p := &Pool{BootFiles: t.TempDir(), Init: make([]byte, 3<<20)}
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, syscall.SIGXFSZ) // else the Go runtime dies of it
	defer signal.Stop(ignored)
	var limit unix.Rlimit
	assert.NilError(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &limit))
	small := unix.Rlimit{Cur: 1 << 20, Max: limit.Max}
	assert.NilError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &small))
	_, err := p.initrd(k)
	assert.NilError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limit))
	assert.ErrorIs(t, err, unix.EFBIG)
	assert.ErrorContains(t, err, "initramfs of 6.9.1: ")
	left, err := os.ReadDir(p.BootFiles)
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)

	name, err := p.initrd(k)
	assert.NilError(t, err)
	info, err := os.Stat(name)
	assert.NilError(t, err)
	assert.Assert(t, info.Size() > 3<<20)
}

// A cache that cannot be written to is named, with the way out.
func TestInitrdWithoutAFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cache")
	assert.NilError(t, os.WriteFile(file, nil, 0o600))
	p := &Pool{BootFiles: filepath.Join(file, "boot")}
	_, err := p.initrd(bare(t))
	assert.ErrorContains(t, err, "initramfs of 6.9.1: stat "+p.BootFiles)
	p.BootFiles = "/proc/self/boot" // nobody makes a folder there
	_, err = p.initrd(bare(t))
	assert.ErrorContains(t, err, "initramfs of 6.9.1: mkdir /proc/self/boot: ")
	assert.ErrorContains(t, err, "XDG_CACHE_HOME names another place")
}
