package symbols

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/console"
	"github.com/nestbed/nestbed/results/record"
)

// A kernel's file and a module's, in small: a function with two inlined into it, one inside the other, and one
// of the same name in another section, so that their addresses would be the same.
const source = `const char linux_banner[] = "Linux version 6.12.117 (builder) #1";
const char info[] __attribute__((section(".modinfo"), used)) = "license=GPL\0vermagic=6.12.117 SMP mod_unload ";
volatile int sink;
static inline __attribute__((always_inline)) void put_ref(int n)
{
	sink = n * 3;
	__asm__ volatile("nop; nop; nop; nop; nop; nop; nop; nop");
}
static inline __attribute__((always_inline)) void put_last(int n)
{
	put_ref(n + 1);
}
__attribute__((noinline)) void kvm_put_kvm(int n)
{
	sink = n;
	put_last(n);
	sink = n + 2;
}
__attribute__((noinline, section(".init.text"))) int kvm_init(int n)
{
	sink = n + 7;
	kvm_put_kvm(n);
	return sink;
}
void _start(void) { kvm_init(1); for (;;); }
`

// build compiles the source into vmlinux and a module, and gives their folder.
func build(t *testing.T, flags ...string) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc: apt-get install gcc")
	}
	dir := t.TempDir()
	assert.NilError(t, os.MkdirAll(filepath.Join(dir, "virt/kvm"), 0o755))
	assert.NilError(t, os.MkdirAll(filepath.Join(dir, "lib/kernel"), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "virt/kvm/kvm_main.c"), []byte(source), 0o644))
	for _, args := range [][]string{
		{"-static", "-nostdlib", "-no-pie", "-Wl,--build-id", "-o", "vmlinux"},
		{"-c", "-o", "lib/kernel/kvm-intel.ko"},
	} {
		args = append(append(append([]string{"-g", "-O2", "-fno-pic", "-w"}, flags...), args...), "virt/kvm/kvm_main.c")
		cmd := exec.Command("gcc", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		assert.NilError(t, err, "%s", out)
	}
	return dir
}

// size gives a function's size and the offset of its first nop, which stands inside what was inlined.
func size(t *testing.T, name, fn string) (size, nop uint64) {
	t.Helper()
	f, err := elf.Open(name)
	assert.NilError(t, err)
	defer f.Close()
	symbols, err := f.Symbols()
	assert.NilError(t, err)
	for _, s := range symbols {
		if s.Name == fn {
			section := f.Sections[s.Section]
			text, err := section.Data()
			assert.NilError(t, err)
			start := s.Value - section.Addr
			at := strings.Index(string(text[start:start+s.Size]), "\x90\x90\x90\x90\x90\x90\x90\x90")
			return s.Size, uint64(max(at, 0))
		}
	}
	t.Fatalf("%s has no %s", name, fn)
	return 0, 0
}

func text(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%s %s:%d\n", l.Func, l.File, l.Line)
	}
	return b.String()
}

const inlined = "put_ref virt/kvm/kvm_main.c:7\nput_last virt/kvm/kvm_main.c:11\nkvm_put_kvm virt/kvm/kvm_main.c:16\n"

func TestLines(t *testing.T) {
	for _, version := range []string{"-gdwarf-4", "-gdwarf-5"} {
		t.Run(version, func(t *testing.T) {
			dir := build(t, version)
			f, err := New(filepath.Join(dir, "vmlinux"), dir)
			assert.NilError(t, err)
			defer func() { assert.NilError(t, f.Close()) }()

			put, nop := size(t, filepath.Join(dir, "vmlinux"), "kvm_put_kvm")
			init, _ := size(t, filepath.Join(dir, "vmlinux"), "kvm_init")
			log := fmt.Sprintf(`[   12.000000] Oops: divide error: 0000 [#1] SMP
[   12.000000] CPU: 0 UID: 0 PID: 87 Comm: agent Not tainted 6.12.117 #1
[   12.000000] RIP: 0010:kvm_put_kvm+%#x/%#x
[   12.000000] Call Trace:
[   12.000000]  kvm_init+%#x/%#x [kvm_intel]
[   12.000000]  kvm_put_kvm+%#x/%#x [kvm_intel]
[   12.000000]  kvm_put_kvm+0x1/0x9000
[   12.000000]  vfio_init+0x1/0x20 [vfio]
[   12.000000]  no_such+0x1/0x20
[   12.000000] ---[ end trace 0000000000000000 ]---
`, nop, put+3, init-1, init, nop+4, put)
			r := console.Parse([]byte(log))[0]
			got, err := f.Lines(r)
			assert.NilError(t, err)
			assert.Equal(t, len(got), 6)
			assert.Equal(t, text(got[0]), inlined)
			assert.Equal(t, text(got[1]), "kvm_init virt/kvm/kvm_main.c:23\n") // before the return: .init.text begins at 0 as .text does
			assert.Equal(t, text(got[2]), inlined)
			assert.Equal(t, text(got[3])+text(got[4])+text(got[5]), "")
			assert.DeepEqual(t, f.Doubts(), []string{
				"kvm_put_kvm has another size there than in the log: files of another build?", "module vfio: no vfio.ko in " + dir,
			})
		})
	}
}

func TestFilesOfAnotherKernelAreDoubted(t *testing.T) {
	dir := build(t)
	f, err := New(filepath.Join(dir, "vmlinux"), dir)
	assert.NilError(t, err)
	defer f.Close()
	id := f.vmlinux.buildID
	assert.Equal(t, len(id), 40)
	log := func(release, id string) record.Report {
		return console.Parse(fmt.Appendf(nil, `[   12.000000] Oops: divide error: 0000 [#1] SMP
[   12.000000] CPU: 0 PID: 87 Comm: agent Tainted: G        W          %s #1 %s
[   12.000000] RIP: 0010:vfio_init+0x1/0x20
[   12.000000] Call Trace:
[   12.000000]  vfio_init+0x1/0x20 [kvm_intel 0123456789abcdef0123456789abcdef01234567]
`, release, id))[0]
	}
	for _, r := range []record.Report{log("6.12.117", ""), log("6.12.118", id)} {
		_, err = f.Lines(r)
		assert.NilError(t, err)
	}
	assert.DeepEqual(t, f.Doubts(), []string{"module kvm_intel is of kernel 6.12.117, the log of 6.12.118"})
	_, err = f.Lines(log("6.12.118", strings.Repeat("ab", 20)))
	assert.NilError(t, err)
	assert.Equal(t, f.Doubts()[1], "vmlinux has build id "+id+", in the log it has "+strings.Repeat("ab", 20))
}

func TestUnusableFiles(t *testing.T) {
	dir := build(t, "-g0")
	_, err := New(filepath.Join(dir, "vmlinux"), "")
	assert.ErrorContains(t, err, "vmlinux: no debug information")
	_, err = New(filepath.Join(dir, "virt/kvm/kvm_main.c"), "")
	assert.ErrorContains(t, err, "kvm_main.c: no ELF file")
	_, err = New(filepath.Join(dir, "none"), "")
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = New(filepath.Join(dir, "vmlinux"), filepath.Join(dir, "none"))
	assert.ErrorContains(t, err, "look for modules")
}
