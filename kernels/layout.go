package kernels

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// content is an open file of a layout.
type content interface {
	io.Reader
	io.ReaderAt
	io.Closer
}

// file is something an import may take. Its layout knows how to open it: on disk or inside packages.
type file struct {
	name string // slash-separated, for errors; the suffix says how it is compressed
	open func() (content, error)
}

// layout is what was found where a SPEC points, before a choice is made.
type layout struct {
	origin  string // for errors
	vmlinuz []file
	config  []file
	builtin []file
	modules []file
}

// add sorts a file in by its path relative to the layout's root.
func (l *layout) add(rel string, open func() (content, error)) {
	if list := l.listFor(rel); list != nil {
		*list = append(*list, file{name: rel, open: open})
	}
}

func (l *layout) listFor(rel string) *[]file {
	base := path.Base(rel)
	switch {
	case base == "vmlinuz", base == "bzImage", strings.HasPrefix(base, "vmlinuz-") && !strings.HasSuffix(base, ".sig"):
		return &l.vmlinuz
	case base == "config", base == ".config", strings.HasPrefix(base, "config-"):
		return &l.config
	case base == "modules.builtin":
		return &l.builtin
	case moduleOfFile(base) != "":
		return &l.modules
	}
	return nil
}

// moduleOfFile is the module's name when base is a module's file name, compressed or not; else "".
func moduleOfFile(base string) string {
	for _, suffix := range compressions {
		base = strings.TrimSuffix(base, suffix)
	}
	name, ok := strings.CutSuffix(base, ".ko")
	if name = moduleName(name); !ok || !validModuleName(name) {
		return ""
	}
	return name
}

// parts is one kernel chosen out of a layout.
type parts struct {
	origin  string
	release string
	vmlinuz file
	config  *file // nil: none came along
	builtin map[string]bool
	modules map[string]file // by module name
}

// choose settles on the layout's one kernel; release, when not "", says which of several is meant.
func (l *layout) choose(release string) (parts, error) {
	p := parts{origin: l.origin, release: release}
	var bad error
	byRelease := make(map[string]file)
	slices.SortFunc(l.vmlinuz, func(a, b file) int { return strings.Compare(a.name, b.name) })
	for _, f := range l.vmlinuz {
		r, err := readRelease(f)
		if err != nil {
			bad = cmp.Or(bad, err)
			continue
		}
		if _, seen := byRelease[r]; !seen {
			byRelease[r] = f
		}
	}
	found := slices.Sorted(maps.Keys(byRelease))
	switch {
	case len(found) == 0 && bad != nil:
		return parts{}, bad
	case len(found) == 0:
		return parts{}, fmt.Errorf("no vmlinuz in %s", l.origin)
	case release == "" && len(found) > 1:
		return parts{}, fmt.Errorf("%s holds %d kernels (%s): give a folder with one", l.origin, len(found), strings.Join(found, ", "))
	case release == "":
		p.release = found[0]
	}
	var ok bool
	if p.vmlinuz, ok = byRelease[p.release]; !ok {
		return parts{}, fmt.Errorf("no vmlinuz of %s in %s, only of %s", p.release, l.origin, strings.Join(found, ", "))
	}
	p.config = pickConfig(l.config, p.release)

	p.modules = make(map[string]file)
	inRelease := func(f file) bool { return strings.Contains("/"+f.name, "/modules/"+p.release+"/") }
	// A folder may hold the modules of several releases; loose .ko files belong to the one kernel there is.
	several := slices.ContainsFunc(l.modules, inRelease)
	for _, f := range l.modules {
		if several && !inRelease(f) {
			continue
		}
		name := moduleOfFile(path.Base(f.name))
		// depmod's default order prefers updates/ to what the kernel came with.
		if old, seen := p.modules[name]; seen && strings.Contains(old.name, "/updates/") {
			continue
		}
		p.modules[name] = f
	}
	for _, f := range l.builtin {
		if slices.ContainsFunc(l.builtin, inRelease) && !inRelease(f) {
			continue
		}
		names, err := readBuiltin(f)
		if err != nil {
			return parts{}, err
		}
		p.builtin = names
		break
	}
	return p, nil
}

func readRelease(f file) (string, error) {
	c, err := f.open()
	if err != nil {
		return "", err
	}
	defer c.Close()
	release, err := bzImageRelease(c)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", f.name, err)
	}
	return release, nil
}

// pickConfig prefers the configuration that names the release, then the one nearest to the root.
func pickConfig(configs []file, release string) *file {
	var best *file
	rank := func(f file) int {
		n := strings.Count(f.name, "/")
		switch {
		case path.Base(f.name) == "config-"+release, strings.Contains("/"+f.name, "/modules/"+release+"/"):
			return n
		case strings.HasPrefix(path.Base(f.name), "config-"):
			return -1 // another kernel's
		}
		return 1000 + n
	}
	for _, f := range configs {
		if r := rank(f); r >= 0 && (best == nil || r < rank(*best)) {
			best = &f
		}
	}
	return best
}

// maxBuiltin bounds modules.builtin; a distribution's has some 10 KB.
const maxBuiltin = 4 << 20

func readBuiltin(f file) (map[string]bool, error) {
	c, err := f.open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	text, err := io.ReadAll(io.LimitReader(c, maxBuiltin))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.name, err)
	}
	names := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		if name := moduleOfFile(path.Base(strings.TrimSpace(line))); name != "" {
			names[name] = true
		}
	}
	return names, nil
}

// maxFolderFiles keeps `-k /` from walking the whole machine.
const maxFolderFiles = 500_000

// folderLayout finds what a folder holds: a build tree, or a vmlinuz and modules in any arrangement.
func folderLayout(root string) (*layout, error) {
	if info, err := os.Stat(root); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a folder", root)
	}
	l := &layout{origin: root}
	if isBuildTree(root) {
		return l, l.addBuildTree(root)
	}
	return l, l.addFolder(root, "")
}

func onDisk(name string) func() (content, error) {
	return func() (content, error) {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
}

// addFolder adds the files below root, under the name prefix.
func (l *layout) addFolder(root, prefix string) error {
	root, err := filepath.EvalSymlinks(root) // WalkDir does not follow a link, not even the first
	if err != nil {
		return err
	}
	count := 0
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if count++; count > maxFolderFiles {
			return fmt.Errorf("%s holds more than %d files: give the kernel's own folder", root, maxFolderFiles)
		}
		if d.IsDir() {
			if d.Name() == ".git" {
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = path.Join(prefix, filepath.ToSlash(rel))
		if l.listFor(rel) == nil {
			return nil
		}
		// Links such as /boot/vmlinuz are followed to files, never to folders; dangling ones are common.
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
			return nil
		}
		l.add(rel, onDisk(name))
		return nil
	})
}

const treeImage = "arch/x86/boot/bzImage"

// isBuildTree recognises a kernel's source or output folder.
func isBuildTree(root string) bool {
	for _, name := range []string{treeImage, "include/config/kernel.release", "arch/x86/Kconfig"} {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			return true
		}
	}
	return false
}

// addBuildTree takes the image, the configuration and the modules that the last build lists. A tree is not
// walked: it may hold modules of older builds.
func (l *layout) addBuildTree(root string) error {
	image := filepath.Join(root, treeImage)
	if _, err := os.Stat(image); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kernel build tree %s has no %s: run make bzImage modules there", root, treeImage)
	} else if err != nil {
		return err
	}
	for _, name := range []string{treeImage, ".config", "modules.builtin"} {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			l.add(name, onDisk(filepath.Join(root, name)))
		}
	}
	order, err := os.ReadFile(filepath.Join(root, "modules.order"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // CONFIG_MODULES=n, or make bzImage only: what is missing is said when it is needed
	} else if err != nil {
		return err
	}
	for line := range strings.Lines(string(order)) {
		// kernel/arch/x86/kvm/kvm.ko up to 5.x, arch/x86/kvm/kvm.ko, arch/x86/kvm/kvm.o since 6.3. The tree
		// has a folder kernel/ too.
		rel := strings.TrimSpace(line)
		if object, ok := strings.CutSuffix(rel, ".o"); ok {
			rel = object + ".ko"
		}
		for _, candidate := range []string{rel, strings.TrimPrefix(rel, "kernel/")} {
			if !filepath.IsLocal(candidate) {
				continue
			}
			name := filepath.Join(root, candidate)
			if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
				l.add(candidate, onDisk(name))
				break
			}
		}
	}
	return nil
}

// runningLayout finds the kernel that this machine runs: its release is known, so nothing is searched.
func runningLayout(root, release string) (*layout, error) {
	l := &layout{origin: "this machine's /boot and /lib/modules"}
	for _, name := range []string{"boot/vmlinuz-" + release, "lib/modules/" + release + "/vmlinuz", "usr/lib/modules/" + release + "/vmlinuz"} {
		full := filepath.Join(root, name)
		if _, err := os.Stat(full); err == nil {
			l.add(name, onDisk(full))
			break
		}
	}
	if len(l.vmlinuz) == 0 {
		return nil, fmt.Errorf("no vmlinuz of the running kernel %s in /boot or /lib/modules/%s: "+
			"a container or a cloud host may run a kernel that is not installed; give a version (debian:6.12) or a folder", release, release)
	}
	for _, name := range []string{"boot/config-" + release, "lib/modules/" + release + "/config"} {
		full := filepath.Join(root, name)
		if _, err := os.Stat(full); err == nil {
			l.add(name, onDisk(full))
			break
		}
	}
	modules := filepath.Join(root, "lib/modules", release)
	// The links build and source lead out; addFolder does not follow them.
	if err := l.addFolder(modules, "lib/modules/"+release); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return l, nil
}
