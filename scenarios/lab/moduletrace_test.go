package lab

import (
	"os"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// The traces are of one attach and detach on stock kernels: /dev/kvm, a VM, container and group, SET_IOMMU,
// kvm-vfio, a vCPU, the device, MSI, and all closed, the VM first.
func TestModuleTrace(t *testing.T) {
	for _, c := range []struct {
		kernel, module string
		want           []string
		not            string
	}{
		{"5.10", "kvm_amd", []string{
			"references of kvm_amd since the baseline, by module_get and module_put:",
			"open files: 3 got, 3 put",
			"  got 1: misc_open",
			"  got 1: anon_inode_getfile < kvm_dev_ioctl",
			"  got 1: anon_inode_getfile < kvm_vm_ioctl",
			"others: 1 got, 1 put",
			"  got 1: kvm_dev_ioctl [kvm]",
			"  put 1: kvm_vm_release [kvm]",
			"the last 8:",
		}, "WITHOUT"},
		{"6.1", "vfio", []string{
			"open files: 4 got, 4 put",
			"  got 1: chrdev_open",
			"  got 1: exact_lock",
			"symbol_get and symbol_put: 4 got, 4 put",
			"  got 1: __symbol_get < kvm_vfio_update_coherency",
		}, "TOO OFTEN"},
		// Of two symbols VFIO keeps one while the device is open.
		{"6.12", "kvm", []string{
			"symbol_get and symbol_put: 2 got, 2 put",
			"  got 2: __symbol_get < vfio_device_get_kvm_safe",
			"  put 1: __symbol_put < vfio_device_get_kvm_safe",
			"  put 1: __symbol_put < vfio_device_put_kvm",
			"module_get: kvm call_site=__symbol_get refcnt=3\n",
		}, "WITHOUT"},
		// The device is bound when the trace ends: VFIO's own mount stays for as long.
		{"7.3", "vfio", []string{"file systems: 2 got, 1 put, 1 WITHOUT COUNTERPART", "open files: 4 got, 4 put"}, "TOO OFTEN"},
		{"7.3", "vfio_pci", []string{"  got 1: vfio_df_open [vfio]", "  put 1: vfio_df_close [vfio]"}, "WITHOUT"},
		{"7.3", "iommufd", []string{"nobody took or dropped one"}, "the last"},
	} {
		text, err := os.ReadFile("testdata/module-trace-" + c.kernel + ".txt")
		assert.NilError(t, err)
		events, note := parseModuleTrace(string(text))
		assert.Equal(t, note, "")
		got := sumUp(c.module, events)
		for _, want := range c.want {
			assert.Check(t, strings.Contains(got, want), "%s, %s: %q is not in\n%s", c.kernel, c.module, want, got)
		}
		assert.Check(t, !strings.Contains(got, c.not), "%s, %s:\n%s", c.kernel, c.module, got)
	}
}

func TestModuleTraceIsIncomplete(t *testing.T) {
	_, note := parseModuleTrace("# entries-in-buffer/entries-written: 39/4000   #P:1\n")
	assert.Equal(t, note, "\nthe buffer kept 39 of 4000 entries")
	for _, text := range []string{"", "=> frame of nothing", "a: module_get: kvm", "a: module_get: kvm call_site= refcnt=1", "<stack trace>\n => x"} {
		events, _ := parseModuleTrace(text)
		assert.Equal(t, len(events), 0, "%q", text)
	}
	events, _ := parseModuleTrace("a: module_put: kvm call_site=__fput refcnt=1\na: module_put: kvm call_site=__fput refcnt=0\n")
	loaded, _ := parseModuleTrace("a: module_put: kvm call_site=do_init_module refcnt=1\n")
	assert.Assert(t, !strings.Contains(sumUp("kvm", loaded), "TOO OFTEN"))
	assert.Assert(t, strings.Contains(sumUp("kvm", events), "open files: 0 got, 2 put, 2 PUT TOO OFTEN"))
}
