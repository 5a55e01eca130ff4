package pool

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/kernels"
)

// bootModules are loaded by init before it speaks: what its ports, the host's view of a panic and the
// vIOMMU need. A kernel has each as a module, built in, or not at all.
var bootModules = []string{"virtio_pci", "virtio_console", "virtio_iommu", "vmgenid", "pvpanic", "pvpanic_mmio", "pvpanic_pci"}

// initrdFormat changes when images.Build writes something else for the same spec.
const initrdFormat = "1"

// initrd returns the file of the kernel's initramfs, which is built when it is not there yet. Its name is
// the hash of what went in, so a file that is there is the right one.
func (p *Pool) initrd(k kernels.Kernel) (string, error) {
	name := filepath.Join(p.Initrds, hash(initrdFormat, k.Hash, images.Hash(p.Init), strings.Join(bootModules, " "))+".cpio")
	if _, err := os.Stat(name); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return name, err
	}
	spec, err := initrdSpec(k, p.Init)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(p.Initrds, 0o755); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(p.Initrds, ".initrd-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	defer f.Close()           // as above
	w := bufio.NewWriterSize(f, 1<<20)
	// The first error explains those of the steps after it.
	for _, step := range []func() error{
		func() error { return images.Build(w, spec) }, w.Flush, func() error { return f.Chmod(0o644) }, f.Sync, f.Close,
	} {
		if err := step(); err != nil {
			return "", fmt.Errorf("initramfs of %s: %w", k.Release, err)
		}
	}
	return name, os.Rename(f.Name(), name)
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

func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintln(h, p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Usage is what the initramfs files in folder dir occupy, in bytes.
func Usage(dir string) (int64, error) {
	files, err := initrds(dir)
	var sum int64
	for _, f := range files {
		sum += f.Size()
	}
	return sum, err
}

// Prune removes the initramfs files in folder dir and says how many bytes they took. Any that is needed
// again is built again, which takes a fraction of a second.
func Prune(dir string) (int64, error) {
	files, err := initrds(dir)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, f := range files {
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return sum, err
		}
		sum += f.Size()
	}
	return sum, nil
}

func initrds(dir string) ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // else it has just gone
			files = append(files, info)
		}
	}
	return files, nil
}
