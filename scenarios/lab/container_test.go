package lab

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

// What type1 was told is told again at the end, however often it changed.
func TestAllowUnsafeInterrupts(t *testing.T) {
	root := guestRoot(t).Path()
	dir := filepath.Join(root, "sys/module/vfio_iommu_type1/parameters")
	assert.NilError(t, os.MkdirAll(dir, 0o755))
	parameter := filepath.Join(dir, unsafeInterrupts)
	assert.NilError(t, os.WriteFile(parameter, []byte("N\n"), 0o644))
	told := func() string {
		b, err := os.ReadFile(parameter)
		assert.NilError(t, err)
		return string(b)
	}
	list := host(t, root, scenario(func(t *T) {
		t.Check(!t.RemapsInterrupts(), "IO-APIC remaps nothing")
		t.AllowUnsafeInterrupts(true)
		t.Check(told() == "Y", "allowed")
		t.AllowUnsafeInterrupts(false)
		t.Check(told() == "N", "not allowed")
		t.AllowUnsafeInterrupts(true)
	}), nil)
	assert.DeepEqual(t, own(list), []string{"ok IO-APIC remaps nothing", "ok allowed", "ok not allowed"})
	assert.Equal(t, told(), "N")

	table := filepath.Join(root, "proc/interrupts")
	assert.NilError(t, os.WriteFile(table, []byte("           CPU0\n  4: 17 IR-IO-APIC 4-edge ttyS0\n"), 0o644))
	list = host(t, root, scenario(func(t *T) { t.Check(t.RemapsInterrupts(), "IR-IO-APIC does") }), nil)
	assert.DeepEqual(t, own(list), []string{"ok IR-IO-APIC does"})
}

// A VM's directory is found by being the only one.
func TestDebugDir(t *testing.T) {
	root := guestRoot(t).Path()
	dir := filepath.Join(root, "sys/kernel/debug/kvm")
	assert.NilError(t, os.MkdirAll(filepath.Join(dir, "77-9"), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "exits"), []byte("0\n"), 0o644))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "77-9/exits"), []byte("3\n"), 0o644))
	run := func(t *T) {
		f := (&VM{t: t}).OpenDebugFile("exits")
		t.Check(f.Readable(), "there is something to read")
		t.Check(!f.Readable(), "once")
		f.Close()
	}
	assert.DeepEqual(t, own(host(t, root, scenario(run), nil)), []string{"ok there is something to read", "ok once"})
	assert.NilError(t, os.Mkdir(filepath.Join(dir, "77-10"), 0o755))
	assert.DeepEqual(t, own(host(t, root, scenario(run), nil)), []string{"broken two VMs in debugfs, 77-10 and 77-9"})
}
