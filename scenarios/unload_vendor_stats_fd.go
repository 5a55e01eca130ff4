package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// A descriptor of a VM's statistics (KVM_GET_STATS_FD) holds the VM: closing it may be what destroys the VM,
// which runs the vendor module's code. The vendor module must stay for as long.
//
// Up to 6.6 each VM pins the module until kvm_destroy_vm is over (5f6de5cbebee). From 6.7 on only files do
// (087e15206d6a), and kvm_vm_stats_fops names kvm.ko as its owner, not the vendor module: "stats files do not
// call back into vendor code", but their release is kvm_put_kvm. The module leaves, and the last close runs
// kvm_destroy_vm over what kvm_exit freed.
var _ = lab.Register(lab.Scenario{
	Name:    "unload-vendor-stats-fd",
	Summary: "an open statistics descriptor pins the KVM vendor module after its VM is closed",
	Area:    lab.Unload,
	Needs: lab.Needs{
		Modules:   []string{"kvm"},
		MinKernel: "5.14",
		Options:   []string{"CONFIG_KVM", "CONFIG_MODULE_UNLOAD"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		vendor := t.Module(lab.KVMVendor)
		t.WantErr(vendor.Unload(), nil, "the vendor module may leave while nothing uses it")
		vendor.Load()
		vm := t.NewVM()

		t.Step("open the statistics, close the VM")
		stats := vm.NewStats()
		id := stats.ID()
		t.WantErr(vendor.Unload(), unix.EWOULDBLOCK, "the vendor module stays while the VM is open")
		vm.Close()
		t.Check(!vm.Destroyed(), "the statistics keep the VM alive")
		t.WantErr(vendor.Unload(), unix.EWOULDBLOCK, "the vendor module stays while the statistics are open")
		t.Check(stats.ID() == id, "the statistics are still the VM's")

		t.Step("close the statistics")
		stats.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the last close")
		t.WantInt(vendor.Held(), 0, "the vendor module's references are back")
		t.WantErr(vendor.Unload(), nil, "the vendor module may leave now")
	},
})
