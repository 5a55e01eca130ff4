package pool

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/snapshot"
	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/kernels"
)

// stock is a pool with a store of its own, and a spec of the stock kernel.
func stock(t *testing.T, machineName string) (*Pool, Spec, *[]string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs QEMU and a kernel; -short leaves it out")
	}
	program := filepath.Join(t.TempDir(), "init")
	assert.NilError(t, images.BuildProgram(t.Context(), "../..", "./images/init", program))
	init, err := os.ReadFile(program)
	assert.NilError(t, err)
	caches, err := os.UserCacheDir()
	assert.NilError(t, err)
	cache, err := kernels.Open(filepath.Join(caches, "nestbed", "v1", "kernels"))
	assert.NilError(t, err)
	kernel, err := cache.Resolve(t.Context(), "debian:6.12", func(s string) { t.Log(s) })
	assert.NilError(t, err)
	m, err := machine.Named(machineName)
	assert.NilError(t, err)
	var mu sync.Mutex
	said := new([]string)
	p := &Pool{
		BootFiles: t.TempDir(), Init: init, Snapshots: &snapshot.Store{Dir: t.TempDir(), Limit: 1 << 30},
		Say: func(s string) {
			mu.Lock()
			defer mu.Unlock()
			*said = append(*said, s)
		},
	}
	return p, Spec{Kernel: kernel, Machine: m}, said
}

func get(t *testing.T, p *Pool, spec Spec) *Guest {
	t.Helper()
	spec.Dir = t.TempDir()
	g, err := p.Get(t.Context(), spec)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, g.Close()) })
	return g
}

func output(t *testing.T, g *Guest, command string) string {
	t.Helper()
	out, err := g.SSH.Output(t.Context(), command)
	assert.NilError(t, err)
	return out
}

// Guests that are restored from one another's state share nothing that must not be shared, know the time, and
// their judge hears what the kernel said while it booted.
func TestRestoredGuests(t *testing.T) {
	p, spec, said := stock(t, "intel")
	spec.Prepare = &Preparation{
		Files:   []guest.File{{Name: "/run/word", Mode: 0o600, Data: []byte("prepared\n")}},
		Command: []string{"/init", "--no-such-flag"}, // init refuses to be anything but PID 1
	}
	// A preparation that fails is left to the taker, who is told so.
	g := get(t, p, spec)
	assert.Check(t, g.Restored && !g.Prepared)
	spec.Prepare.Command = nil
	first, second := get(t, p, spec), get(t, p, spec)
	words := map[string]bool{}
	for _, g := range []*Guest{first, second} {
		assert.Check(t, g.Restored && g.Prepared)
		assert.Equal(t, output(t, g, "cat /run/word"), "prepared\n")
		words[output(t, g, "cat /proc/sys/kernel/random/uuid")] = true

		var uptime float64
		_, err := fmt.Sscan(output(t, g, "cat /proc/uptime"), &uptime)
		assert.NilError(t, err)
		_, after, _ := strings.Cut(output(t, g, "cat /proc/stat"), "btime ")
		var boot int64
		_, err = fmt.Sscan(after, &boot)
		assert.NilError(t, err)
		off := time.Since(time.Unix(boot, 0).Add(time.Duration(uptime * float64(time.Second))))
		assert.Check(t, off.Abs() < 10*time.Second, "the guest's clock is off by %v", off)

		log, err := os.ReadFile(filepath.Join(g.dir, machine.ConsoleLog))
		assert.NilError(t, err)
		assert.Equal(t, strings.Count(string(log), "Linux version "), 1)
		g.Quiesce(t.Context())
		log, err = os.ReadFile(filepath.Join(g.dir, machine.ConsoleLog))
		assert.NilError(t, err)
		assert.Check(t, strings.Contains(string(log), marker), "the kernel has not said all")
	}
	assert.Equal(t, len(words), 2, "one word of two random number generators: %v", words)

	spec.Boot = true
	g = get(t, p, spec)
	assert.Check(t, !g.Restored && !g.Prepared)
	assert.Equal(t, len(*said), 0, "%q", *said)
}

// What QEMU cannot save boots, and so does what cannot be restored; that is said once.
func TestNotRestored(t *testing.T) {
	t.Run("unsavable", func(t *testing.T) {
		p, spec, said := stock(t, "amd")
		for range 2 {
			g := get(t, p, spec)
			if g.Restored {
				t.Skip("this QEMU can save amd-iommu")
			}
			assert.Equal(t, output(t, g, "echo here"), "here\n")
		}
		assert.Equal(t, len(*said), 1, "%q", *said)
		assert.Check(t, strings.Contains((*said)[0], "on amd boots for every cell: save the guest: "), "%q", *said)
	})
	t.Run("state of another machine", func(t *testing.T) {
		p, spec, said := stock(t, "intel")
		m, err := p.machine(t.Context(), spec)
		assert.NilError(t, err)
		key, err := p.key(t.Context(), spec, m)
		assert.NilError(t, err)
		other := m
		other.RootPorts++
		snap, err := p.snapshot(t.Context(), spec, other, key)
		assert.NilError(t, err)
		snap.Close()
		g := get(t, p, spec)
		assert.Check(t, !g.Restored)
		assert.Equal(t, output(t, g, "echo here"), "here\n")
		log, err := os.ReadFile(filepath.Join(g.dir, machine.ConsoleLog))
		assert.NilError(t, err)
		assert.Equal(t, strings.Count(string(log), "Linux version "), 1, "of the boot alone")
		assert.Equal(t, len(*said), 1, "%q", *said)
	})
}

// A key names all that goes into a guest, and nothing else.
func TestKey(t *testing.T) {
	p, spec, _ := stock(t, "intel")
	key := func(change func(*Spec, *machine.Machine)) string {
		s := spec
		m, err := p.machine(t.Context(), s)
		assert.NilError(t, err)
		change(&s, &m)
		key, err := p.key(t.Context(), s, m)
		assert.NilError(t, err)
		return key
	}
	same := func(*Spec, *machine.Machine) {}
	plain := key(same)
	assert.Equal(t, key(same), plain)
	assert.Equal(t, key(func(s *Spec, m *machine.Machine) { m.Kernel, s.Dir = "/elsewhere/vmlinux", "/tmp" }), plain)
	for what, change := range map[string]func(*Spec, *machine.Machine){
		"kernel":      func(s *Spec, _ *machine.Machine) { s.Kernel.Hash = "other" },
		"initramfs":   func(_ *Spec, m *machine.Machine) { m.Initrd = "/cache/other.cpio" },
		"memory":      func(_ *Spec, m *machine.Machine) { m.MemoryMB = 1024 },
		"root ports":  func(_ *Spec, m *machine.Machine) { m.RootPorts++ },
		"kernel word": func(_ *Spec, m *machine.Machine) { m.Cmdline = []string{"quiet"} },
		"IOMMU":       func(_ *Spec, m *machine.Machine) { m.IOMMU = machine.VirtioIOMMU },
		"accelerator": func(_ *Spec, m *machine.Machine) { m.Accel = machine.KVM },
	} {
		assert.Check(t, key(change) != plain, what)
	}
	prep := Preparation{Files: []guest.File{{Name: "/bin/agent", Mode: 0o755, Data: []byte("1")}}, Command: []string{"/bin/agent", "prepare", "kvm"}}
	prepared := preparedKey(plain, prep)
	other := prep
	other.Command = []string{"/bin/agent", "prepare", "kvm", "vfio"}
	assert.Check(t, preparedKey(plain, other) != prepared)
	other = prep
	other.Files = []guest.File{{Name: "/bin/agent", Mode: 0o755, Data: []byte("2")}}
	assert.Check(t, preparedKey(plain, other) != prepared)
}
