package scenarios

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// An open file of a VM's statistics in debugfs (/sys/kernel/debug/kvm/PID-FD/exits) holds the VM like a
// descriptor of its own: kvm_debugfs_open takes a reference, and kvm_debugfs_release may be what destroys the
// VM. The vendor module must stay for as long.
//
// Up to 6.6 each VM pins the module until kvm_destroy_vm is over (5f6de5cbebee). From 6.7 on only files do
// (087e15206d6a), and stat_fops_per_vm names kvm.ko as its owner. The module leaves with the VM alive, and
// takes the very directory along that the open file is in.
var _ = lab.Register(lab.Scenario{
	Name:    "unload-vendor-debugfs-file",
	Summary: "an open statistics file in debugfs pins the KVM vendor module after its VM is closed",
	Area:    lab.Unload,
	Needs: lab.Needs{
		Modules: []string{"kvm"},
		Options: []string{"CONFIG_KVM", "CONFIG_MODULE_UNLOAD", "CONFIG_DEBUG_FS"},
	},
	Timeout: 30 * time.Second,
	Run: func(t *lab.T) {
		vendor := t.Module(lab.KVMVendor)
		t.WantErr(vendor.Unload(), nil, "the vendor module may leave while nothing uses it")
		vendor.Load()
		vm := t.NewVM()

		t.Step("open a file, close the VM")
		file := vm.OpenDebugFile("exits")
		vm.Close()
		t.Check(!vm.Destroyed(), "the file keeps the VM alive")
		t.WantErr(vendor.Unload(), unix.EWOULDBLOCK, "the vendor module stays while the file is open")
		t.Check(file.Readable(), "the file can still be read")

		t.Step("close the file")
		file.Close()
		t.Check(vm.Destroyed(), "the VM is destroyed with the last close")
		t.WantInt(vendor.Held(), 0, "the vendor module's references are back")
		t.WantErr(vendor.Unload(), nil, "the vendor module may leave now")
	},
})
