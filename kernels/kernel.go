package kernels

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Kernel is an imported kernel: an entry of the cache, immutable once it is there.
type Kernel struct {
	Spec     string    // the SPEC it was asked for by, as typed; in List, the first that leads to it
	Specs    []string  // every remembered SPEC that leads to it, in List and Show
	Release  string    // uname -r
	Hash     string    // of vmlinuz, configuration and modules; names the entry
	Dir      string    // the entry's folder
	Origin   string    // where it came from: package, version and suite, or a path
	Imported time.Time // when the entry was made
	Size     int64     // bytes on disk

	entry  *entry
	config *config
}

// Presence says in what form a kernel has a module.
type Presence int

// Unknown is the zero value: nothing that came with the kernel tells.
const (
	Unknown  Presence = iota
	Absent            // neither built in nor built as a module
	AsModule          // in Modules
	BuiltIn           // in the vmlinuz
)

func (p Presence) String() string {
	switch p {
	case Absent:
		return "absent"
	case AsModule:
		return "module"
	case BuiltIn:
		return "built in"
	}
	return "unknown"
}

// Module is a kernel module in the cache.
type Module struct {
	Name     string   // as the kernel knows it: underscores
	File     string   // absolute path of the plain, uncompressed .ko
	Deps     []string // direct dependencies that are modules too
	Softdeps []string // to be loaded before where they exist (softdep pre:)
}

// entrySchema names the version of kernel.json; a reader accepts unknown fields and refuses another major.
const entrySchema = "nestbed/kernel/1"

const (
	entryFile   = "kernel.json"
	vmlinuzFile = "vmlinuz"
	configFile  = "config"
	modulesDir  = "modules"
)

// entry is kernel.json.
type entry struct {
	Schema   string        `json:"schema"`
	Release  string        `json:"release"`
	Hash     string        `json:"hash"`
	Origin   string        `json:"origin"`
	Imported time.Time     `json:"imported"`
	Size     int64         `json:"size"`
	Config   bool          `json:"config"` // whether the kernel came with its configuration
	Modules  []entryModule `json:"modules"`
	BuiltIn  []string      `json:"builtin,omitempty"` // from modules.builtin; empty when there was none
}

type entryModule struct {
	Name     string   `json:"name"`
	Deps     []string `json:"deps,omitempty"`
	Softdeps []string `json:"softdeps,omitempty"`
	Size     int64    `json:"size"`
}

// loadKernel reads the entry in dir.
func loadKernel(dir string) (Kernel, error) {
	data, err := os.ReadFile(filepath.Join(dir, entryFile))
	if err != nil {
		return Kernel{}, err
	}
	var e entry
	if err := json.Unmarshal(data, &e); err != nil {
		return Kernel{}, fmt.Errorf("read %s: %w", filepath.Join(dir, entryFile), err)
	}
	if e.Schema != entrySchema {
		return Kernel{}, fmt.Errorf("read %s: it is %q and this nestbed reads %s: update nestbed, or remove the folder and add the kernel again",
			filepath.Join(dir, entryFile), e.Schema, entrySchema)
	}
	if e.Hash != filepath.Base(dir) || !validRelease(e.Release) {
		return Kernel{}, fmt.Errorf("read %s: damaged: remove the folder and add the kernel again", filepath.Join(dir, entryFile))
	}
	for _, m := range e.Modules {
		if !validModuleName(m.Name) {
			return Kernel{}, fmt.Errorf("read %s: bad module name %q", filepath.Join(dir, entryFile), m.Name)
		}
	}
	k := Kernel{Release: e.Release, Hash: e.Hash, Dir: dir, Origin: e.Origin, Imported: e.Imported, Size: e.Size, entry: &e, config: &config{}}
	if e.Config {
		k.config.path = filepath.Join(dir, configFile)
	}
	return k, nil
}

// Vmlinuz is the path of the bootable image.
func (k Kernel) Vmlinuz() string { return filepath.Join(k.Dir, vmlinuzFile) }

// HashSpec is the SPEC of this very kernel for as long as it is in the cache, whatever is built later under the name
// that it has now.
func (k Kernel) HashSpec() string { return hashPrefix + k.Hash[:12] }

// Version is MAJOR.MINOR of the release.
func (k Kernel) Version() Version {
	v, err := ParseVersion(k.Release)
	if err != nil {
		return Version{} // a release such as "7-custom": older than everything
	}
	return v
}

// Option is the value of a configuration symbol, with or without CONFIG_: "y", "m", "n", a number or a
// string. It is "" when the kernel came without a configuration: cannot tell.
func (k Kernel) Option(name string) string { return k.config.option(name) }

// Modules lists the modules that were imported: those a guest may need and what they depend on.
func (k Kernel) Modules() ([]Module, error) {
	if k.entry == nil {
		return nil, errors.New("list modules: not an imported kernel")
	}
	modules := make([]Module, 0, len(k.entry.Modules))
	for _, m := range k.entry.Modules {
		module := k.module(m)
		if info, err := os.Stat(module.File); err != nil || info.Size() != m.Size {
			return nil, fmt.Errorf("kernel %s: module %s is damaged in the cache: remove the kernel (%s) and add it again", k.Release, m.Name, k.Hash[:12])
		}
		modules = append(modules, module)
	}
	return modules, nil
}

func (k Kernel) module(m entryModule) Module {
	return Module{
		Name:     m.Name,
		File:     filepath.Join(k.Dir, modulesDir, m.Name+".ko"),
		Deps:     slices.Clone(m.Deps),
		Softdeps: slices.Clone(m.Softdeps),
	}
}

// Has says whether and how the kernel has a module. Only modules that nestbed knows of are imported, so of
// others it can say at most that they are built in.
func (k Kernel) Has(module string) Presence {
	name := moduleName(module)
	if k.entry == nil {
		return Unknown
	}
	for _, m := range k.entry.Modules {
		if m.Name == name {
			return AsModule
		}
	}
	if slices.Contains(k.entry.BuiltIn, name) {
		return BuiltIn
	}
	option, known := wanted[name]
	if !known {
		return Unknown
	}
	switch k.Option(option) {
	case "y":
		return BuiltIn
	case "":
		if len(k.entry.BuiltIn) == 0 {
			return Unknown
		}
	}
	return Absent
}

// LoadOrder gives the named modules and all they depend on, dependencies first, each once. Names that are
// built in need no loading and are left out; a name the kernel does not have is an error.
func (k Kernel) LoadOrder(names ...string) ([]Module, error) {
	if k.entry == nil {
		return nil, errors.New("order modules: not an imported kernel")
	}
	byName := make(map[string]entryModule, len(k.entry.Modules))
	for _, m := range k.entry.Modules {
		byName[m.Name] = m
	}
	var order []Module
	done := make(map[string]bool)
	var path []string
	var visit func(name string, soft bool) error
	visit = func(name string, soft bool) error {
		if done[name] {
			return nil
		}
		m, ok := byName[name]
		if !ok {
			switch {
			case soft, k.Has(name) == BuiltIn:
				return nil
			case len(path) > 0:
				return fmt.Errorf("kernel %s: module %s, needed by %s, is missing in the cache", k.Release, name, path[len(path)-1])
			}
			return fmt.Errorf("kernel %s has no module %s (%s)", k.Release, name, k.Has(name))
		}
		if slices.Contains(path, name) {
			if soft {
				return nil // soft dependencies may go in circles
			}
			return fmt.Errorf("kernel %s: modules depend on each other: %s", k.Release, strings.Join(append(path, name), " -> "))
		}
		path = append(path, name)
		for _, d := range m.Softdeps {
			if err := visit(d, true); err != nil {
				return err
			}
		}
		for _, d := range m.Deps {
			if err := visit(d, false); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		done[name] = true
		order = append(order, k.module(m))
		return nil
	}
	for _, name := range names {
		if err := visit(moduleName(name), false); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func exists(name string) (bool, error) {
	_, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
