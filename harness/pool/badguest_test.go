package pool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/kernels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A guest that floods its console, and one that says random bytes on every port, are given up as soon as
// that is seen, with words of their own, and leave no QEMU behind. A real kernel carries the bytes.
func TestBadGuests(t *testing.T) {
	if testing.Short() {
		t.Skip("needs QEMU and a kernel; -short leaves it out")
	}
	program := filepath.Join(t.TempDir(), "badinit")
	assert.NilError(t, images.BuildProgram(t.Context(), "../..", "./harness/pool/testdata/badinit", program))
	init, err := os.ReadFile(program)
	assert.NilError(t, err)
	caches, err := os.UserCacheDir()
	assert.NilError(t, err)
	cache, err := kernels.Open(filepath.Join(caches, "nestbed", "v1", "kernels"))
	assert.NilError(t, err)
	kernel, err := cache.Resolve(t.Context(), "debian:6.12", func(s string) { t.Log(s) })
	assert.NilError(t, err)
	for _, how := range []string{"flood", "noise"} {
		t.Run(how, func(t *testing.T) {
			m, err := machine.Named("none")
			assert.NilError(t, err)
			dir := t.TempDir()
			p := &Pool{BootFiles: t.TempDir(), Init: append(init[:len(init):len(init)], how...), ConsoleLimit: 256 << 10}
			start := time.Now()
			_, err = p.Get(t.Context(), Spec{Kernel: kernel, Machine: m, Dir: dir})
			t.Logf("given up after %.1f s: %v", time.Since(start).Seconds(), err)
			var boot *BootError
			assert.Assert(t, errors.As(err, &boot), "%v", err)
			assert.Check(t, boot.Ours(), "says nothing about the kernel")
			assert.Check(t, !boot.Silent)
			assert.Check(t, time.Since(start) < bootLimit/2, "not the limit of the whole boot")
			if how == "flood" {
				assert.Check(t, errors.Is(err, errFlood))
				assert.Check(t, cmp.Contains(err.Error(), "the guest flooded its console"))
				// The limit cuts wherever it falls, in the middle of a line as well.
				assert.Check(t, boot.LastLine != "")
				assert.Check(t, strings.HasPrefix(`\x1b[2Jall work and no play`, boot.LastLine), "escaped: %s", boot.LastLine)
			} else {
				assert.Check(t, errors.As(err, new(*guest.ProtocolError)), "%v", boot.Err)
			}
			left, err := filepath.Glob("/proc/self/task/*/children")
			assert.NilError(t, err)
			for _, name := range left {
				data, _ := os.ReadFile(name) // a thread may end
				assert.Check(t, cmp.Equal(string(data), ""), "a child is left")
			}
		})
	}
}
