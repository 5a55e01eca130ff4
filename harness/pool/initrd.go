package pool

import (
	"bufio"
	"os"
	"strings"

	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/kernels"
)

// bootModules are loaded by init before it speaks: what its ports, the host's view of a panic and the
// vIOMMU need. A kernel has each as a module, built in, or not at all.
var bootModules = []string{"virtio_pci", "virtio_console", "virtio_iommu", "vmgenid", "pvpanic", "pvpanic_mmio", "pvpanic_pci"}

// initrdFormat changes when images.Build writes something else for the same spec.
const initrdFormat = "1"

// initrd returns the file of the kernel's initramfs, which is built when it is not there yet.
func (p *Pool) initrd(k kernels.Kernel) (string, error) {
	name := hash(initrdFormat, k.Hash, images.Hash(p.Init), strings.Join(bootModules, " ")) + ".cpio"
	return p.bootFile(name, "initramfs of "+k.Release, func(f *os.File) error {
		spec, err := initrdSpec(k, p.Init)
		if err != nil {
			return err
		}
		w := bufio.NewWriterSize(f, 1<<20)
		if err := images.Build(w, spec); err != nil {
			return err
		}
		return w.Flush()
	})
}

func initrdSpec(k kernels.Kernel, init []byte) (images.Spec, error) {
	spec := images.Spec{Init: init}
	modules, err := k.Modules()
	if err != nil {
		return spec, err
	}
	for _, m := range modules {
		spec.Modules = append(spec.Modules, images.Module{Name: m.Name, Deps: m.Deps, Path: m.File})
	}
	var wanted []string
	for _, name := range bootModules {
		if k.Has(name) == kernels.AsModule {
			wanted = append(wanted, name)
		}
	}
	order, err := k.LoadOrder(wanted...)
	if err != nil {
		return spec, err
	}
	for _, m := range order {
		spec.Boot = append(spec.Boot, m.Name)
	}
	return spec, nil
}
