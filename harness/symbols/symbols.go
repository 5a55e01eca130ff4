package symbols

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/results/record"
)

// Finder finds the source of frames. It holds the files that it has opened until Close.
type Finder struct {
	vmlinux *object
	dir     string
	files   map[string]string // module to file
	modules map[string]*object
	doubts  []string
}

// New opens a vmlinux, and looks for the modules in and below a folder; "" is no modules.
func New(vmlinux, modules string) (*Finder, error) {
	f := &Finder{dir: modules, files: map[string]string{}, modules: map[string]*object{}}
	if modules != "" {
		err := filepath.WalkDir(modules, func(path string, d fs.DirEntry, err error) error {
			name, _, ok := strings.Cut(filepath.Base(path), ".ko")
			if err == nil && !d.IsDir() && ok {
				name = underscores(name)
				if known := f.files[name]; known == "" || strings.HasSuffix(path, ".ko.debug") {
					f.files[name] = path
				}
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look for modules: %w", err)
		}
	}
	var err error
	f.vmlinux, err = open(vmlinux)
	return f, err
}

// A module's file may be called kvm-intel.ko, the module is kvm_intel.
func underscores(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Close closes the files.
func (f *Finder) Close() error {
	err := f.vmlinux.Close()
	for _, o := range f.modules {
		if o != nil {
			err = errors.Join(err, o.Close())
		}
	}
	return err
}

// Lines gives, for every frame of a report, its lines of source: innermost first, those of inlined functions
// before that of the function which the frame names; none where the files do not have it.
func (f *Finder) Lines(r record.Report) ([][]Line, error) {
	f.compare("vmlinux", f.vmlinux, r.BuildID, r.Release)
	out := make([][]Line, len(r.Frames))
	for i, site := range r.Sites {
		o, err := f.object(r.Modules[i])
		if err != nil {
			return nil, err
		}
		if o == nil || site.Symbol == "" {
			continue
		}
		if r.Modules[i] != "" {
			f.compare("module "+r.Modules[i], o, site.BuildID, r.Release)
		}
		s, ok := o.function(site.Symbol, site.Size)
		if !ok || site.Offset >= site.Size {
			if len(o.funcs[site.Symbol]) > 0 {
				f.doubt("%s has another size there than in the log: files of another build?", site.Symbol)
			}
			continue
		}
		pc := s.Value + site.Offset
		if !site.Exact && site.Offset > 0 {
			pc-- // what a call returns to may be another line's
		}
		if out[i], err = o.lines(pc); err != nil {
			return nil, fmt.Errorf("source of %s: %w", site.Symbol, err)
		}
	}
	return out, nil
}

// Doubts gives what speaks against the files being those of the kernel that wrote the reports so far.
func (f *Finder) Doubts() []string { return f.doubts }

func (f *Finder) doubt(format string, args ...any) {
	if d := fmt.Sprintf(format, args...); !slices.Contains(f.doubts, d) {
		f.doubts = append(f.doubts, d)
	}
}

// compare doubts a file by the build id that the log says, or else by the kernel's release.
func (f *Finder) compare(what string, o *object, buildID, release string) {
	switch {
	case buildID != "" && o.buildID != "":
		if buildID != o.buildID {
			f.doubt("%s has build id %s, in the log it has %s", what, o.buildID, buildID)
		}
	case release != "" && o.release != "" && release != o.release:
		f.doubt("%s is of kernel %s, the log of %s", what, o.release, release)
	}
}

// object gives the file of a module, "" for vmlinux; nil when there is none.
func (f *Finder) object(module string) (*object, error) {
	if module == "" {
		return f.vmlinux, nil
	}
	if f.dir == "" {
		return nil, nil
	}
	if o, known := f.modules[module]; known {
		return o, nil
	}
	file, ok := f.files[underscores(module)]
	switch {
	case !ok:
		f.doubt("module %s: no %s.ko in %s", module, module, f.dir)
	case !strings.HasSuffix(file, ".ko") && !strings.HasSuffix(file, ".ko.debug"):
		f.doubt("module %s: %s is compressed: unpack it first", module, file)
		ok = false
	}
	if !ok {
		f.modules[module] = nil
		return nil, nil
	}
	o, err := open(file)
	if err != nil {
		f.doubt("module %s: %v", module, err)
	}
	f.modules[module] = o
	return o, nil
}
