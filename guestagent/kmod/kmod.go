// Package kmod loads, unloads and counts kernel modules.
//
// It owns the folder of module files in the guest's image (modules.json and NAME.ko), finit_module(2),
// delete_module(2) and what /sys/module says. It does not choose what to load: init's boot list and a
// scenario's Needs do. Module names are written with underscores, as the kernel writes them.
package kmod

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// Dir is where the guest's image keeps its modules.
const Dir = "/lib/nestbed/modules"

// Module is one entry of the index.
type Module struct {
	Name string   `json:"name"`
	Deps []string `json:"deps"` // direct dependencies
}

// ErrMissing is wrapped by Load for a module that is neither in the image nor built into the kernel.
var ErrMissing = errors.New("no module file, and not built in")

// Set is the modules of one guest.
type Set struct {
	dir  string
	sys  string
	deps map[string][]string
}

// Open reads the index that stands beside dir (dir + ".json"). root is put before every path and is
// empty outside tests.
func Open(root, dir string) (*Set, error) {
	s := &Set{dir: filepath.Join(root, dir), sys: filepath.Join(root, "/sys/module"), deps: map[string][]string{}}
	data, err := os.ReadFile(s.dir + ".json")
	if err != nil {
		return nil, fmt.Errorf("module index: %w", err)
	}
	var mods []Module
	if err := json.Unmarshal(data, &mods); err != nil {
		return nil, fmt.Errorf("module index %s.json: %w", s.dir, err)
	}
	for _, m := range mods {
		s.deps[m.Name] = m.Deps
	}
	return s, nil
}

// Has reports whether the image holds a file of this module.
func (s *Set) Has(name string) bool {
	_, ok := s.deps[name]
	return ok
}

// File is where the module's file is, whether or not it exists.
func (s *Set) File(name string) string { return filepath.Join(s.dir, name+".ko") }

// Load inserts the module after its dependencies. One that is loaded already, or built in, is a success.
func (s *Set) Load(name string) error { return s.load(name, nil) }

func (s *Set) load(name string, above []string) error {
	if s.Present(name) {
		return nil
	}
	if slices.Contains(above, name) {
		return fmt.Errorf("load module %s: depends on itself through %s", name, strings.Join(above, " "))
	}
	if !s.Has(name) {
		// A built-in module without parameters leaves no trace in sysfs; as a mere dependency it may be
		// one, and if it is not, the kernel refuses its user with ENOENT for the missing symbols.
		if len(above) > 0 {
			return nil
		}
		return fmt.Errorf("load module %s: %w", name, ErrMissing)
	}
	above = append(above, name)
	for _, dep := range s.deps[name] {
		if err := s.load(dep, above); err != nil {
			return err
		}
	}
	f, err := os.Open(s.File(name))
	if err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	defer f.Close()
	for {
		err = unix.FinitModule(int(f.Fd()), "", 0)
		if err != unix.EINTR {
			break
		}
	}
	if err == nil || err == unix.EEXIST { // EEXIST: somebody else was faster
		return nil
	}
	errno, _ := errors.AsType[unix.Errno](err)
	return &uapi.Error{Op: "finit_module", Object: name, Errno: errno}
}

// Unload is delete_module(2), never with O_TRUNC: distributions build with MODULE_FORCE_UNLOAD, and a
// forced unload proves nothing. It does not unload dependencies.
func (s *Set) Unload(name string) error {
	for {
		err := unix.DeleteModule(name, unix.O_NONBLOCK)
		if err == nil {
			return nil
		}
		if err == unix.EINTR {
			continue
		}
		errno, _ := errors.AsType[unix.Errno](err)
		return &uapi.Error{Op: "delete_module", Object: name, Errno: errno}
	}
}

// Present reports whether the kernel has the module, loaded and live or built in.
func (s *Set) Present(name string) bool {
	state, err := os.ReadFile(filepath.Join(s.sys, name, "initstate"))
	if err == nil {
		return strings.TrimSpace(string(state)) == "live"
	}
	_, err = os.Stat(filepath.Join(s.sys, name))
	return err == nil
}

// Loaded reports whether the module is a loaded one, which has a reference count; a built-in one has none.
func (s *Set) Loaded(name string) bool {
	_, err := os.Stat(filepath.Join(s.sys, name, "refcnt"))
	return err == nil
}

// Refs is the module's reference count, its holders included.
func (s *Set) Refs(name string) (int, error) {
	data, err := os.ReadFile(filepath.Join(s.sys, name, "refcnt"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("reference count of module %s: not loaded", name)
		}
		return 0, fmt.Errorf("reference count of module %s: %w", name, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("reference count of module %s: %w", name, err)
	}
	return n, nil
}

// Users is how many loaded modules need this one; each holds a reference of it.
func (s *Set) Users(name string) (int, error) {
	holders, err := os.ReadDir(filepath.Join(s.sys, name, "holders"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("users of module %s: %w", name, err)
	}
	return len(holders), nil
}

// SetParameter writes a parameter of a module that is there.
func (s *Set) SetParameter(name, parameter, value string) error {
	path := filepath.Join(s.sys, name, "parameters", parameter)
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("parameter of module %s: %w", name, err)
	}
	return nil
}
