package kernels

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// wanted are the modules that guests may need, with the symbol that says whether they are built in. What
// they depend on comes along.
var wanted = map[string]string{
	"kvm":              "KVM",
	"kvm_amd":          "KVM_AMD",
	"kvm_intel":        "KVM_INTEL",
	"irqbypass":        "IRQ_BYPASS_MANAGER",
	"vfio":             "VFIO",
	"vfio_pci":         "VFIO_PCI",
	"vfio_pci_core":    "VFIO_PCI_CORE",
	"vfio_iommu_type1": "VFIO_IOMMU_TYPE1",
	"vfio_virqfd":      "VFIO_VIRQFD",
	"iommufd":          "IOMMUFD",
	"virtio_pci":       "VIRTIO_PCI",
	"virtio_console":   "VIRTIO_CONSOLE",
	"virtio_iommu":     "VIRTIO_IOMMU",
	"virtio_net":       "VIRTIO_NET",
	"vmgenid":          "VMGENID",
	"pvpanic":          "PVPANIC",
	"pvpanic_pci":      "PVPANIC_PCI",
	"pvpanic_mmio":     "PVPANIC_MMIO",
	"nvme":             "BLK_DEV_NVME",
	"e1000e":           "E1000E",
	"igb":              "IGB",
	"lkdtm":            "LKDTM",
	"mtty":             "SAMPLE_VFIO_MDEV_MTTY",
}

// maxFile bounds one unpacked file: a module of a sanitizer build with debug information has some 100 MB.
const maxFile = 1 << 30

// importer copies one kernel into a folder of its own, which the cache then publishes.
type importer struct {
	dir      string
	progress func(string)
	sums     map[string]string // content hash by path below dir
	sizes    map[string]int64
}

// run writes the entry's files and returns what describes them.
func (im *importer) run(ctx context.Context, p parts) (entry, error) {
	im.sums, im.sizes = make(map[string]string), make(map[string]int64)
	if err := os.Mkdir(filepath.Join(im.dir, modulesDir), 0o755); err != nil {
		return entry{}, err
	}
	if err := im.copy(ctx, p.vmlinuz, vmlinuzFile); err != nil {
		return entry{}, err
	}
	e := entry{Schema: entrySchema, Release: p.release, Origin: p.origin, Imported: time.Now().UTC().Truncate(time.Second), Config: p.config != nil}
	if p.config != nil {
		if err := im.copy(ctx, *p.config, configFile); err != nil {
			return entry{}, err
		}
	}
	e.BuiltIn = slices.Sorted(maps.Keys(p.builtin))
	var err error
	if e.Modules, err = im.modules(ctx, p); err != nil {
		return entry{}, err
	}
	if p.config == nil {
		im.progress(p.release + " came without its configuration: nobody can tell what is built in")
	}
	for _, size := range im.sizes {
		e.Size += size
	}
	e.Hash = im.contentHash()
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return entry{}, err
	}
	return e, WriteFile(filepath.Join(im.dir, entryFile), append(data, '\n'))
}

// modules copies the wanted modules and what they need.
func (im *importer) modules(ctx context.Context, p parts) ([]entryModule, error) {
	var config config
	if p.config != nil {
		config.path = filepath.Join(im.dir, configFile)
	}
	type request struct {
		name string
		by   string // the module that cannot do without it; "" when nothing breaks
	}
	var queue []request
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if len(p.modules) == 0 && config.option(wanted[name]) == "m" {
			// A tree whose modules were not built looks like a kernel without KVM: better said at once.
			return nil, fmt.Errorf("the configuration says CONFIG_%s=m, but there is no module in %s: is a package missing, or is make modules still to be run?", wanted[name], p.origin)
		}
		queue = append(queue, request{name: name})
	}
	var modules []entryModule
	seen := make(map[string]bool)
	for len(queue) > 0 {
		want := queue[0]
		queue = queue[1:]
		f, ok := p.modules[want.name]
		if !ok {
			if want.by != "" && !p.builtin[want.name] {
				return nil, fmt.Errorf("module %s needs %s, which is not in %s: are all its packages given, or was only part of it built (make modules)?", want.by, want.name, p.origin)
			}
			continue
		}
		if seen[want.name] {
			continue
		}
		seen[want.name] = true
		info, err := im.copyModule(ctx, f, want.name)
		if err != nil {
			return nil, err
		}
		if info.release != "" && info.release != p.release {
			return nil, fmt.Errorf("module %s is of %s, but the vmlinuz of %s: build both again, or give matching packages", f.name, info.release, p.release)
		}
		m := entryModule{Name: want.name, Deps: info.depends, Softdeps: info.pre, Size: im.sizes[moduleFile(want.name)]}
		modules = append(modules, m)
		for _, d := range m.Deps {
			queue = append(queue, request{name: d, by: m.Name})
		}
		for _, d := range m.Softdeps {
			queue = append(queue, request{name: d})
		}
	}
	slices.SortFunc(modules, func(a, b entryModule) int { return strings.Compare(a.Name, b.Name) })
	return modules, nil
}

func moduleFile(name string) string { return modulesDir + "/" + name + ".ko" }

// copyModule writes the module, uncompressed and without debug information, and reads its .modinfo.
func (im *importer) copyModule(ctx context.Context, f file, name string) (moduleInfo, error) {
	rel := moduleFile(name)
	if err := im.copy(ctx, f, rel); err != nil {
		return moduleInfo{}, err
	}
	full := filepath.Join(im.dir, rel)
	ko, err := os.Open(full)
	if err != nil {
		return moduleInfo{}, err
	}
	defer ko.Close()
	info, debug, err := readModule(ko)
	if err != nil {
		return moduleInfo{}, fmt.Errorf("%s: %w", f.name, err)
	}
	if info.name != "" && info.name != name {
		return moduleInfo{}, fmt.Errorf("%s says that it is module %s", f.name, info.name)
	}
	if debug {
		// A guest of 512 MB cannot hold thirty modules of 50 MB.
		if err := im.strip(ctx, rel); err != nil {
			return moduleInfo{}, err
		}
	}
	return info, nil
}

func (im *importer) strip(ctx context.Context, rel string) error {
	program, err := exec.LookPath("strip")
	if err != nil {
		im.progress(fmt.Sprintf("%s keeps its debug information: there is no strip (apt-get install binutils)", rel))
		return nil
	}
	full := filepath.Join(im.dir, rel)
	if out, err := exec.CommandContext(ctx, program, "--strip-debug", full).CombinedOutput(); err != nil {
		return fmt.Errorf("strip %s: %w: %s", rel, err, strings.TrimSpace(string(out)))
	}
	f, err := os.Open(full)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	im.note(rel, size, sum)
	return f.Sync()
}

func (im *importer) note(rel string, size int64, sum hash.Hash) {
	im.sums[rel], im.sizes[rel] = hex.EncodeToString(sum.Sum(nil)), size
}

// copy writes the uncompressed content of f to rel below the importer's folder.
func (im *importer) copy(ctx context.Context, f file, rel string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("import %s: %w", f.name, err)
		}
	}()
	if err := ctx.Err(); err != nil {
		return err
	}
	in, err := f.open()
	if err != nil {
		return err
	}
	defer in.Close()
	var r io.ReadCloser = in
	if strings.HasPrefix(rel, modulesDir+"/") {
		if r, err = decompressSmall(f.name, in); err != nil {
			return err
		}
		defer r.Close()
	}
	out, err := os.OpenFile(filepath.Join(im.dir, rel), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(r, maxFile+1))
	if err != nil {
		return err
	}
	if size > maxFile {
		return fmt.Errorf("more than %d MB", maxFile>>20)
	}
	im.note(rel, size, sum)
	return cmp.Or(out.Sync(), out.Close())
}

// contentHash is the entry's name: of every file's path, size and content.
func (im *importer) contentHash() string {
	sum := sha256.New()
	for _, rel := range slices.Sorted(maps.Keys(im.sums)) {
		fmt.Fprintf(sum, "%s %d %s\n", rel, im.sizes[rel], im.sums[rel])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// WriteFile writes data to name in one step: a reader sees the old content or the new.
func WriteFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
