package qemu

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/machine"
)

func TestMain(m *testing.M) {
	if os.Getenv(harnessEnv) != "" {
		beHarness()
	}
	goleak.VerifyTestMain(m)
}

// needQEMU skips a test that starts QEMU only when short tests were asked for.
func needQEMU(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts QEMU; run without -short")
	}
	_, err := exec.LookPath(DefaultBinary)
	assert.NilError(t, err, "tests need QEMU: apt-get install qemu-system-x86")
}

// What the small kernel below does once it has printed its line.
var (
	halt     = []byte{0xf4, 0xeb, 0xfd}                               // hlt; again
	powerOff = []byte{0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4} // ACPI PM1a control: sleep
	reset    = []byte{0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4}       // reset control register
	tell     = []byte{0xba, 0x05, 0x05, 0xb0, 0x01, 0xee}             // pvpanic: panicked
	flood    = []byte{0xb9, 0xff, 0xff, 0xb0, 'x', 0xee, 0xe2, 0xfd}  // 65535 bytes on the console's port
)

// line is what the small kernel prints.
const line = "the small kernel runs\n"

// kernel writes a bzImage of a few bytes: it prints line on the first serial port, then runs the code. So
// QEMU's part is tested without a Linux kernel.
func kernel(t *testing.T, code ...[]byte) string {
	t.Helper()
	image := make([]byte, 8192)
	put := func(at int, b ...byte) int { return at + copy(image[at:], b) }
	const text = 0x300
	put(0x1f1, 4)                         // sectors of the set-up part
	put(0x1fe, 0x55, 0xaa)                // boot sector
	put(0x200, 0xeb, 0x66)                // jump over the header
	put(0x202, []byte("HdrS\x06\x02")...) // protocol 2.6
	put(0x211, 1)                         // loaded high
	put(0x214, 0x00, 0x00, 0x10)          // at 1 MB
	at := put(0x268,
		0xfc,             // cld
		0xba, 0xf8, 0x03, // mov dx, 3f8
		0xbe, text&0xff, text>>8, // mov si, text
		0xac,       // lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x03, // jz out
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp lodsb
	)
	for _, c := range code {
		at = put(at, c...)
	}
	put(text, []byte(line)...)
	name := filepath.Join(t.TempDir(), "bzImage")
	assert.NilError(t, os.WriteFile(name, image, 0o644))
	return name
}

// small is a named machine with the small kernel.
func small(t *testing.T, name string, code ...[]byte) machine.Machine {
	t.Helper()
	m, err := machine.Named(name)
	assert.NilError(t, err)
	m.MemoryMB = 64
	m.Kernel = kernel(t, code...)
	return m
}

// start starts a machine that is closed with the test.
func start(t *testing.T, m machine.Machine) (*Process, string) {
	t.Helper()
	needQEMU(t)
	dir := t.TempDir()
	p, err := Start(t.Context(), Config{Machine: m, Dir: dir})
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, p.Close()) })
	return p, dir
}

// soon is a context for what takes a second or two.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, context.DeadlineExceeded)
	t.Cleanup(cancel)
	return ctx
}

// await waits for the end of a channel's use.
func await(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-soon(t).Done():
		t.Fatalf("no %s within a minute", what)
	}
}

// awaitText waits until a file holds text.
func awaitText(t *testing.T, file, text string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		data, _ := os.ReadFile(file)
		if strings.Contains(string(data), text) {
			return
		}
		select {
		case <-tick.C:
		case <-soon(t).Done():
			t.Fatalf("%s never held %q: %q", file, text, data)
		}
	}
}
