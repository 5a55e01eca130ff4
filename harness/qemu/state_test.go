package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/machine"
)

// alphabet prints the letters from a to z, slowly and for ever.
var alphabet = []byte{
	0xb0, 'a', // mov al, 'a'
	0xee,             // out dx, al
	0xb9, 0xff, 0xff, // mov cx, ffff
	0xe2, 0xfe, // loop to itself
	0xfe, 0xc0, // inc al
	0x3c, 'z' + 1, // cmp al, 'z' + 1
	0x75, 0xf4, // jne out
	0xeb, 0xf0, // jmp mov al, 'a'
}

// inFile is a machine with its memory in a new file.
func inFile(t *testing.T, name string, code ...[]byte) machine.Machine {
	m := small(t, name, code...)
	m.Memory.File = filepath.Join(t.TempDir(), "ram")
	f, err := os.Create(m.Memory.File)
	assert.NilError(t, err)
	assert.NilError(t, f.Truncate(int64(m.MemoryMB)<<20))
	assert.NilError(t, f.Close())
	return m
}

func sum(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	assert.NilError(t, err)
	h := sha256.Sum256(data)
	return string(h[:])
}

// A guest that was saved goes on where it was, in several QEMUs at once, and none of them writes into the saved
// memory.
func TestSaveAndRestore(t *testing.T) {
	for _, name := range []string{"intel", "virtio", "none"} {
		t.Run(name, func(t *testing.T) {
			m := inFile(t, name, alphabet)
			p, dir := start(t, m)
			awaitText(t, filepath.Join(dir, machine.ConsoleLog), "xyz")
			var state bytes.Buffer
			assert.NilError(t, p.Save(soon(t), &state))
			assert.NilError(t, p.Close())
			assert.Check(t, state.Len() > 10<<10 && state.Len() < 10<<20, "%d bytes", state.Len())
			before, err := os.ReadFile(filepath.Join(dir, machine.ConsoleLog))
			assert.NilError(t, err)
			memory := sum(t, m.Memory.File)

			m.Memory.Private, m.Incoming = true, true
			for range 2 {
				dir := t.TempDir()
				log := filepath.Join(dir, machine.ConsoleLog)
				assert.NilError(t, os.WriteFile(log, before, 0o644))
				p, err := Start(t.Context(), Config{Machine: m, Dir: dir})
				assert.NilError(t, err)
				defer func() { assert.Check(t, p.Close()) }()
				assert.NilError(t, p.Restore(soon(t), bytes.NewReader(state.Bytes())))
				want := string(before)
				for range 2 * 26 {
					next := byte('a')
					if last := want[len(want)-1]; last >= 'a' && last < 'z' && !strings.HasSuffix(want, line) {
						next = last + 1
					}
					want += string(next)
				}
				awaitText(t, log, want)
			}
			assert.Equal(t, sum(t, m.Memory.File), memory)
		})
	}
}

// QEMU 7.2 cannot save amd-iommu, and says so.
func TestUnsavable(t *testing.T) {
	needQEMU(t)
	if _, version, err := Find(""); err != nil || !strings.HasPrefix(version, "7.") {
		t.Skipf("QEMU %s may be able to save amd-iommu", version)
	}
	p, _ := start(t, inFile(t, "amd", halt))
	err := p.Save(soon(t), io.Discard)
	var refused *UnsavableError
	assert.Assert(t, errors.As(err, &refused), "%v", err)
	assert.ErrorContains(t, err, "non-migratable")
}

func TestRestoreFails(t *testing.T) {
	t.Run("garbage", func(t *testing.T) {
		m := inFile(t, "none", halt)
		m.Incoming = true
		p, _ := start(t, m)
		err := p.Restore(soon(t), strings.NewReader(strings.Repeat("garbage!", 100)))
		assert.ErrorContains(t, err, "restore the guest: migrate-incoming: ")
		assert.ErrorContains(t, err, "Not a migration stream")
	})
	t.Run("endless", func(t *testing.T) {
		m := inFile(t, "none", halt)
		m.Incoming = true
		p, _ := start(t, m)
		r, w := io.Pipe() // nothing ever comes
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		defer context.AfterFunc(ctx, func() { w.Close() })()
		assert.ErrorIs(t, p.Restore(ctx, r), context.DeadlineExceeded)
		await(t, "end of QEMU", p.Done())
	})
}

// A disk that is full while the state is written is an error, and QEMU ends.
func TestSaveFails(t *testing.T) {
	p, _ := start(t, inFile(t, "none", halt))
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	assert.NilError(t, err)
	defer full.Close()
	assert.ErrorContains(t, p.Save(soon(t), full), "no space left on device")
}

func TestFiles(t *testing.T) {
	needQEMU(t)
	files, err := Files(t.Context(), "")
	assert.NilError(t, err)
	assert.Check(t, len(files) > 3, "%q", files)
	assert.Equal(t, filepath.Base(files[0]), DefaultBinary)
	_, err = Files(t.Context(), "/nowhere")
	assert.Assert(t, errors.As(err, new(*MissingError)), "%v", err)
}
