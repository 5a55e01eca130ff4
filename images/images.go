// Package images makes what a guest boots from: the initramfs, and the two programs of ours in it.
//
// It owns the archive's contents and the embedded payload (init, which is PID 1, and the agent, which is
// pushed later). It does not choose modules (harness/plan and kernels do) and it starts nothing.
package images

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"

	"github.com/nestbed/nestbed/images/layout"
)

// Spec says what goes into an initramfs.
type Spec struct {
	Init    []byte   // the static program that becomes PID 1
	Modules []Module // kernel modules, closed under Deps
	Boot    []string // names of those that init loads before it looks for its ports, dependencies first
}

// Module is one kernel module of the guest's root.
type Module struct {
	Name string   // with underscores, as /proc/modules has it
	Deps []string // names of the modules that it needs, direct ones only
	Path string   // the uncompressed .ko on the host
}

// The directories of the guest's root: mount points for init, and the places that scp and the agent use.
var directories = []string{
	"bin", "dev", "lib", "lib/nestbed", strings.TrimPrefix(layout.ModuleDir, "/"),
	"proc", "root", "run", "sys", "tmp",
}

var moduleName = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

// Build writes the initramfs of spec to w: an uncompressed newc archive, because the guest would spend
// more time on unpacking than the host saves. Equal specs give equal bytes: no time stamps, no owners,
// modules in the order of their names.
func Build(w io.Writer, spec Spec) error {
	modules, err := check(spec)
	if err != nil {
		return fmt.Errorf("build initramfs: %w", err)
	}
	a := archive{w: cpio.NewWriter(w)}
	for _, name := range directories {
		a.add(&cpio.Header{Name: name, Mode: cpio.TypeDir | 0o755, Links: 2}, nil)
	}
	a.file(layout.Init, 0o755, spec.Init)
	list := make([]layout.Module, 0, len(modules))
	for _, m := range modules {
		a.copy(layout.ModuleFile(m.Name), m.Path)
		list = append(list, layout.Module{Name: m.Name, Deps: append([]string{}, m.Deps...)})
	}
	a.json(layout.ModuleList, list)
	a.json(layout.BootList, append([]string{}, spec.Boot...))
	if a.err == nil {
		a.err = a.w.Close()
	}
	if a.err != nil {
		return fmt.Errorf("build initramfs: %w", a.err)
	}
	return nil
}

// check reports what would make a guest that cannot boot, and gives the modules in archive order.
func check(spec Spec) ([]Module, error) {
	if len(spec.Init) == 0 {
		return nil, fmt.Errorf("no init program")
	}
	modules := slices.SortedFunc(slices.Values(spec.Modules), func(a, b Module) int { return cmp.Compare(a.Name, b.Name) })
	have := make(map[string]bool, len(modules))
	for _, m := range modules {
		if !moduleName.MatchString(m.Name) {
			return nil, fmt.Errorf("module name %q", m.Name)
		}
		if have[m.Name] {
			return nil, fmt.Errorf("module %s twice", m.Name)
		}
		have[m.Name] = true
	}
	for _, m := range modules {
		for _, dep := range m.Deps {
			if !have[dep] {
				return nil, fmt.Errorf("module %s needs %q, which is not in the image", m.Name, dep)
			}
		}
	}
	loaded := make(map[string]bool, len(spec.Boot))
	for _, name := range spec.Boot {
		i := slices.IndexFunc(modules, func(m Module) bool { return m.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("boot module %q is not in the image", name)
		}
		for _, dep := range modules[i].Deps {
			if !loaded[dep] {
				return nil, fmt.Errorf("boot module %s comes before %s, which it needs", name, dep)
			}
		}
		loaded[name] = true
	}
	return modules, nil
}

// archive writes entries until the first error and keeps that one.
type archive struct {
	w     *cpio.Writer
	inode int64
	err   error
}

func (a *archive) add(hdr *cpio.Header, content io.Reader) {
	if a.err != nil {
		return
	}
	a.inode++ // the kernel takes equal inodes with more than one link for hard links
	hdr.Inode = a.inode
	if a.err = a.w.WriteHeader(hdr); a.err != nil || content == nil {
		return
	}
	n, err := io.Copy(a.w, content)
	switch {
	case err != nil:
		a.err = fmt.Errorf("write %s: %w", hdr.Name, err)
	case n != hdr.Size:
		a.err = fmt.Errorf("write %s: %d bytes, expected %d", hdr.Name, n, hdr.Size)
	}
}

func (a *archive) file(name string, mode cpio.FileMode, data []byte) {
	a.add(&cpio.Header{
		Name: strings.TrimPrefix(path.Clean(name), "/"), Mode: cpio.TypeReg | mode, Links: 1, Size: int64(len(data)),
	}, bytes.NewReader(data))
}

func (a *archive) copy(name, from string) {
	if a.err != nil {
		return
	}
	f, err := os.Open(from)
	if err != nil {
		a.err = err
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		a.err = err
		return
	}
	if !info.Mode().IsRegular() {
		a.err = fmt.Errorf("%s is not a regular file", from)
		return
	}
	a.add(&cpio.Header{Name: strings.TrimPrefix(name, "/"), Mode: cpio.TypeReg | 0o644, Links: 1, Size: info.Size()}, f)
}

func (a *archive) json(name string, v any) {
	data, err := json.Marshal(v)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.file(name, 0o644, append(data, '\n'))
}
