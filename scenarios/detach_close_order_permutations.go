package scenarios

import (
	"fmt"
	"strings"
	"time"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// Whatever the order in which user space closes what it has, each close gives back what it held and nothing
// else, the VM is destroyed exactly when its last holder goes, and nothing is left at the end.
//
// Of the seven descriptors of an attach five matter: VM, vCPU and kvm-vfio device each hold the VM; the
// kvm-vfio device holds the group's file too; the device holds the VM (6.2 to 7.3 by a reference of it and one
// of kvm.ko, later by its file) and vfio_pci; the group, as long as anything has its file, holds the container
// with its type1 IOMMU. /dev/kvm and the container hold nothing but their modules and are closed first. The
// device comes before its group in half of the orders, and after it in the others.
//
// Up to 6.1 the device holds nothing of the VM. 5.10's device and kvm-vfio device hold the group, not its file, and
// its kvm-vfio device lets go only when the VM is destroyed (kvm_device_ops.destroy; .release since 51cdc8bc120e).
// closeModel has the counts.
var _ = lab.Register(lab.Scenario{
	Name:    "detach-close-order-permutations",
	Summary: "all 120 orders of closing VM, vCPU, kvm-vfio, device and group give everything back, each close its own",
	Area:    lab.Detach,
	Needs: lab.Needs{
		Devices: []lab.Device{lab.EDU},
		IOMMU:   lab.AnyIOMMU,
		Modules: []string{"kvm", "vfio_pci", "vfio_iommu_type1"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	},
	Timeout: 60 * time.Second,
	Run: func(t *lab.T) {
		dev := t.BindVFIO(lab.EDU)
		model := closeModel(t)
		refs := t.RefCounter(t.Module(lab.KVMVendor), t.Module("kvm"), t.Module("vfio"), t.Module("vfio_pci"), t.Module("vfio_iommu_type1"))
		held := func(vm *lab.VM) counts {
			n := refs.Held()
			return counts{vendor: n[0], kvm: n[1], vfio: n[2], pci: n[3], type1: n[4], vm: !vm.Destroyed()}
		}

		t.Step("every order")
		for _, order := range permutations("VPDFG") {
			vm := t.NewVM()
			vm.NewVCPU()
			vm.AddVFIO(dev)
			dev.Open()
			vm.CloseSystem()
			dev.CloseContainer()

			open := "VPDFG"
			var off []string
			compare := func(when string) {
				if want, got := model(open), held(vm); got != want {
					off = append(off, fmt.Sprintf("%s: want %v, got %v", when, want, got))
				}
			}
			compare("all open")
			for _, fd := range order {
				switch fd {
				case 'V':
					vm.CloseVM()
				case 'P':
					vm.CloseVCPUs()
				case 'D':
					vm.CloseVFIO()
				case 'F':
					dev.CloseDevice()
				case 'G':
					dev.CloseGroup()
				}
				open = strings.ReplaceAll(open, string(fd), "")
				compare("after " + string(fd))
			}
			t.WantText(strings.Join(off, "; "), "", "order "+order+": every close gives back its own")
			dev.Close() // forgets what is closed
		}
		t.WantIdle("every reference is back")

		t.Step("the device still works")
		dev.Open()
		t.Check(dev.Info().PCI, "the device answers")
		dev.Close()
	},
})

// counts is what is held of the modules, and whether the VM lives.
type counts struct {
	vendor, kvm, vfio, pci, type1 int
	vm                            bool
}

func (c counts) String() string {
	return fmt.Sprintf("vendor %d kvm %d vfio %d vfio_pci %d type1 %d VM %t", c.vendor, c.kvm, c.vfio, c.pci, c.type1, c.vm)
}

// closeModel says what is held while some of V(M), vC(P)U, kvm-vfio (D)evice, VFIO device (F)ile and (G)roup are
// open, the VM having been told of the group before the device was opened.
func closeModel(t *lab.T) func(open string) counts {
	regime, fileOfGroup, owners := t.Regime(), t.Since(6, 1), t.Since(6, 7)
	pin := t.VendorPin()
	return func(open string) counts {
		all := func(fds string) (n int) {
			for _, fd := range fds {
				n += strings.Count(open, string(fd))
			}
			return n
		}
		some := func(fds string) int { return min(1, all(fds)) }
		c := counts{pci: all("F"), type1: some("DFG"), vm: all("VPD") > 0}
		if fileOfGroup {
			c.vfio = 2*some("DFG") + all("F") // a character device counts twice: cdev_get and fops_get
		} else {
			c.vfio = all("GF") // 5.10's group cdev has no owner, and nobody holds the group's file
			c.type1 = some("VPDFG")
		}
		switch {
		case regime == lab.RFILE: // by its source: none of these kernels has been here yet
			c.vendor, c.vm = some("VDF")+all("PD")+pin*some("VPDF"), all("VPDF") > 0
		case owners:
			c.vendor, c.kvm, c.vm = all("VPD")+pin*some("VPDF"), all("F"), all("VPDF") > 0
		case regime == lab.RSYM: // by its source too
			c.vendor, c.kvm, c.vm = some("VPDF"), all("F"), all("VPDF") > 0
		case fileOfGroup:
			c.vendor = some("VPD") // one for the VM (5f6de5cbebee)
		default:
			c.vendor = some("VPD") + all("VP") // and 5.10 still one for each of two kinds of file
		}
		return c
	}
}

// permutations lists the orders of a word's letters.
func permutations(word string) []string {
	if len(word) < 2 {
		return []string{word}
	}
	var list []string
	for i := range word {
		for _, rest := range permutations(word[:i] + word[i+1:]) {
			list = append(list, word[i:i+1]+rest)
		}
	}
	return list
}
