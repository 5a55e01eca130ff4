package kernels

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/kernels/flock"
)

// Cache keeps imported kernels. Several processes may use it at once, and a killed one leaves nothing that
// another could take for a kernel:
//
//	entries/HASH/   vmlinuz, config, modules/*.ko, kernel.json; complete from the moment it is there
//	specs/*.json    which entry a SPEC led to
//	apt/SUITE-*/    apt-get's private state
//	builds/         the output folders of kernels that are built here, see package build
//	sources/        the sources that they are built from and no user has, see package source
//	tmp/            imports under way, each folder locked by its process
type Cache struct {
	dir string
	apt apt
	// root stands before /boot and /lib/modules, and release is the running kernel's: tests have their own.
	root    string
	release func() (string, error)
}

// Open opens the cache in dir, which it creates.
func Open(dir string) (*Cache, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open kernel cache: %w", err)
	}
	c := &Cache{dir: dir, root: "/", release: runningRelease}
	c.apt = apt{dir: c.path("apt"), run: runApt}
	for _, sub := range []string{"entries", "specs", "apt", "tmp", "locks", "builds", "sources"} {
		if err := os.MkdirAll(c.path(sub), 0o755); err != nil {
			return nil, fmt.Errorf("open kernel cache: %w", err)
		}
	}
	return c, nil
}

func (c *Cache) path(elements ...string) string {
	return filepath.Join(append([]string{c.dir}, elements...)...)
}

func runningRelease() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

// remembered is specs/*.json.
type remembered struct {
	Schema      string    `json:"schema"`
	Spec        string    `json:"spec"`
	Hash        string    `json:"hash"`
	Fingerprint string    `json:"fingerprint,omitempty"` // of .deb files, which may be replaced
	Resolved    time.Time `json:"resolved"`
}

const specSchema = "nestbed/kernel-spec/1"

// Resolve gives the kernel that a SPEC names, importing it if need be. What a mirror said is remembered
// until Add asks it again; folders, build trees and the running kernel are looked at every time.
func (c *Cache) Resolve(ctx context.Context, text string, progress func(string)) (Kernel, error) {
	return c.resolve(ctx, text, progress, false)
}

// Add resolves a SPEC anew, asking the mirror, and imports it.
func (c *Cache) Add(ctx context.Context, text string, progress func(string)) (Kernel, error) {
	return c.resolve(ctx, text, progress, true)
}

func (c *Cache) resolve(ctx context.Context, text string, progress func(string), anew bool) (Kernel, error) {
	if progress == nil {
		progress = func(string) {}
	}
	s, err := parseSpec(text)
	if err != nil {
		return Kernel{}, err
	}
	if s, err = s.absolute(); err != nil {
		return Kernel{}, err
	}
	if s.kind == specHash {
		k, err := c.Show(s.version)
		if err == nil {
			used(k)
		}
		k.Spec = text
		return k, err
	}
	known := func() (Kernel, bool, error) {
		if anew && s.kind != specBuild { // a build is made anew by building
			return Kernel{}, false, nil
		}
		return c.known(s)
	}
	k, ok, err := known()
	if err == nil && !ok {
		if err := unbuilt(s, text); err != nil {
			return Kernel{}, err
		}
		k, err = c.importLocked(ctx, s, text, progress, known)
	}
	if err != nil {
		// A SPEC that is wrong says so itself.
		if _, mistaken := errors.AsType[*SpecError](err); mistaken {
			return Kernel{}, err
		}
		return Kernel{}, fmt.Errorf("kernel %q: %w", text, err)
	}
	k.Spec = text
	return k, nil
}

// known gives the kernel that s is remembered to lead to, if that still holds.
func (c *Cache) known(s spec) (Kernel, bool, error) {
	if s.kind != specDebian && s.kind != specPackage && s.kind != specBuild {
		return Kernel{}, false, nil
	}
	r, err := readRemembered(c.specFile(s))
	if errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, false, nil
	} else if err != nil {
		return Kernel{}, false, err
	}
	if print, err := fingerprint(s); err != nil {
		return Kernel{}, false, err
	} else if print != r.Fingerprint {
		return Kernel{}, false, nil
	}
	k, err := loadKernel(c.path("entries", r.Hash))
	if errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, false, nil // removed by hand
	}
	return k, err == nil, err
}

func (c *Cache) specFile(s spec) string {
	sum := sha256.Sum256([]byte(s.String()))
	return c.path("specs", fmt.Sprintf("%x.json", sum[:16]))
}

func readRemembered(name string) (remembered, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return remembered{}, err
	}
	var r remembered
	if err := json.Unmarshal(data, &r); err != nil {
		return remembered{}, fmt.Errorf("read %s: %w", name, err)
	}
	if r.Schema != specSchema || !validHash(r.Hash) {
		return remembered{}, fmt.Errorf("read %s: not written by this nestbed: remove it", name)
	}
	return r, nil
}

func validHash(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// fingerprint changes when a .deb is replaced.
func fingerprint(s spec) (string, error) {
	if s.kind != specPackage {
		return "", nil
	}
	var b strings.Builder
	for _, name := range s.paths {
		info, err := os.Stat(name)
		if err != nil {
			return "", missing(s, err)
		}
		fmt.Fprintf(&b, "%d %d;", info.Size(), info.ModTime().UnixNano())
	}
	return b.String(), nil
}

// missing makes a path that is not there the user's mistake.
func missing(s spec, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &SpecError{Spec: s.String(), Reason: "no such file or folder", Hint: specForms}
	}
	return err
}

// importLocked imports s while no other process imports the same.
func (c *Cache) importLocked(ctx context.Context, s spec, text string, progress func(string), known func() (Kernel, bool, error)) (Kernel, error) {
	name := strings.TrimSuffix(filepath.Base(c.specFile(s)), ".json")
	held, err := flock.Take(ctx, c.path("locks", name), func() { progress("waiting for another import of " + text) })
	if err != nil {
		return Kernel{}, err
	}
	defer held.Unlock()
	// The other one may have done the work.
	if k, ok, err := known(); ok || err != nil {
		return k, err
	}
	if _, err := c.sweep(nil); err != nil {
		return Kernel{}, fmt.Errorf("sweep the remains of killed imports: %w", err)
	}
	dir, work, err := c.workDir()
	if err != nil {
		return Kernel{}, err
	}
	defer work.Unlock()
	defer os.RemoveAll(dir)
	print, err := fingerprint(s)
	if err != nil {
		return Kernel{}, err
	}
	e, err := c.importInto(ctx, s, dir, progress)
	if err != nil {
		return Kernel{}, err
	}
	k, err := c.publish(filepath.Join(dir, "entry"), e, s, print)
	if err != nil {
		return Kernel{}, err
	}
	progress(fmt.Sprintf("imported %s: %d modules, %d MB", k.Release, len(e.Modules), k.Size>>20))
	return k, nil
}

// workDir makes a folder that sweep leaves alone as long as this process lives.
func (c *Cache) workDir() (string, *flock.Lock, error) {
	all, err := flock.Take(context.Background(), c.path("locks", "tmp"), nil)
	if err != nil {
		return "", nil, err
	}
	defer all.Unlock()
	dir, err := os.MkdirTemp(c.path("tmp"), "import-")
	if err != nil {
		return "", nil, err
	}
	held, ok, err := flock.TryDir(dir)
	if err != nil || !ok {
		os.RemoveAll(dir)
		return "", nil, cmp.Or(err, fmt.Errorf("lock %s: held", dir))
	}
	return dir, held, nil
}

// sweep removes what killed imports left behind and says how many bytes that were. idle, if not nil, is
// called when no import is alive, and none can begin until it returns.
func (c *Cache) sweep(idle func() error) (int64, error) {
	all, err := flock.Take(context.Background(), c.path("locks", "tmp"), nil)
	if err != nil {
		return 0, err
	}
	defer all.Unlock()
	names, err := os.ReadDir(c.path("tmp"))
	if err != nil {
		return 0, err
	}
	var freed int64
	alive := false
	for _, d := range names {
		name := c.path("tmp", d.Name())
		if d.IsDir() {
			held, ok, err := flock.TryDir(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return freed, err
			}
			if !ok {
				alive = true
				continue
			}
			defer held.Unlock()
		}
		freed += DiskUsage(name)
		if err := os.RemoveAll(name); err != nil {
			return freed, err
		}
	}
	if idle != nil && !alive {
		return freed, idle()
	}
	return freed, nil
}

// importInto makes the entry in dir/entry.
func (c *Cache) importInto(ctx context.Context, s spec, dir string, progress func(string)) (entry, error) {
	entryDir := filepath.Join(dir, "entry")
	if err := os.Mkdir(entryDir, 0o755); err != nil {
		return entry{}, err
	}
	var l *layout
	release := ""
	switch s.kind {
	case specRunning:
		var err error
		if release, err = c.release(); err != nil {
			return entry{}, err
		}
		if l, err = runningLayout(c.root, release); err != nil {
			return entry{}, err
		}
	case specFolder, specBuild:
		var err error
		if l, err = folderLayout(s.paths[0]); err != nil {
			return entry{}, missing(s, err)
		}
		l.origin = cmp.Or(s.origin, l.origin)
	default:
		origin, packages := "", s.paths
		if s.kind == specDebian {
			a := c.apt
			a.progress = progress
			k, err := a.search(ctx, s)
			if err != nil {
				return entry{}, err
			}
			origin = k.String()
			if packages, err = a.fetch(ctx, k, dir); err != nil {
				return entry{}, err
			}
		} else {
			var names []string
			for _, p := range packages {
				names = append(names, filepath.Base(p))
			}
			origin = strings.Join(names, ", ")
		}
		keep, err := newSpool(dir)
		if err != nil {
			return entry{}, err
		}
		defer keep.Close()
		l = &layout{origin: origin}
		for _, name := range packages {
			progress("unpacking " + filepath.Base(name))
			if err := l.addPackage(ctx, name, keep); err != nil {
				return entry{}, missing(s, err)
			}
			if s.kind == specDebian {
				// Downloads are 100 MB and done with.
				if err := os.Remove(name); err != nil {
					return entry{}, err
				}
			}
		}
	}
	p, err := l.choose(release)
	if err != nil {
		return entry{}, err
	}
	if s.kind == specPackage && len(p.modules) == 0 {
		return entry{}, fmt.Errorf("no modules in %s: since Debian's 7.x a kernel comes in parts, give linux-binary, linux-modules and linux-base as a.deb,b.deb,c.deb", l.origin)
	}
	im := importer{dir: entryDir, progress: progress}
	return im.run(ctx, p)
}

// publish moves a complete entry to its place and remembers that s leads there.
func (c *Cache) publish(from string, e entry, s spec, print string) (Kernel, error) {
	// Prune must not see the entry without the SPEC that refers to it.
	held, err := flock.Take(context.Background(), c.path("locks", "entries"), nil)
	if err != nil {
		return Kernel{}, err
	}
	defer held.Unlock()
	to := c.path("entries", e.Hash)
	if there, err := exists(to); err != nil {
		return Kernel{}, err
	} else if !there {
		if err := os.Rename(from, to); err != nil {
			return Kernel{}, err
		}
	}
	r := remembered{Schema: specSchema, Spec: s.String(), Hash: e.Hash, Fingerprint: print, Resolved: time.Now().UTC().Truncate(time.Second)}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return Kernel{}, err
	}
	if err := WriteFile(c.specFile(s), append(data, '\n')); err != nil {
		return Kernel{}, err
	}
	k, err := loadKernel(to)
	if err == nil {
		used(k)
	}
	return k, err
}

// specs gives the remembered SPECs by the hash they lead to.
func (c *Cache) specs() (map[string][]string, error) {
	names, err := filepath.Glob(c.path("specs", "*.json"))
	if err != nil {
		return nil, err
	}
	byHash := make(map[string][]string)
	for _, name := range names {
		r, err := readRemembered(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		byHash[r.Hash] = append(byHash[r.Hash], r.Spec)
	}
	for _, specs := range byHash {
		slices.SortFunc(specs, func(a, b string) int {
			return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
		})
	}
	return byHash, nil
}

// List gives every kernel in the cache, oldest version first.
func (c *Cache) List() ([]Kernel, error) {
	specs, err := c.specs()
	if err != nil {
		return nil, fmt.Errorf("list kernels: %w", err)
	}
	names, err := os.ReadDir(c.path("entries"))
	if err != nil {
		return nil, fmt.Errorf("list kernels: %w", err)
	}
	var kernels []Kernel
	for _, d := range names {
		if !validHash(d.Name()) {
			continue
		}
		k, err := loadKernel(c.path("entries", d.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		} else if err != nil {
			return nil, fmt.Errorf("list kernels: %w", err)
		}
		if k.Specs = specs[k.Hash]; len(k.Specs) > 0 {
			k.Spec = k.Specs[0]
		}
		kernels = append(kernels, k)
	}
	slices.SortFunc(kernels, func(a, b Kernel) int {
		return cmp.Or(compareDebian(a.Release, b.Release), strings.Compare(a.Hash, b.Hash))
	})
	return kernels, nil
}

// minHashPrefix keeps `rm 6` from meaning a hash.
const minHashPrefix = 6

// Show gives the cached kernel that ref means: a SPEC, a release, or the start of a hash.
func (c *Cache) Show(ref string) (Kernel, error) {
	kernels, err := c.List()
	if err != nil {
		return Kernel{}, err
	}
	canonical := ref
	if s, err := parseSpec(ref); err == nil {
		if s, err = s.absolute(); err == nil {
			canonical = s.String()
		}
	}
	match := func(is func(Kernel) bool) []Kernel {
		return slices.DeleteFunc(slices.Clone(kernels), func(k Kernel) bool { return !is(k) })
	}
	found := match(func(k Kernel) bool { return slices.Contains(k.Specs, canonical) })
	if len(found) == 0 {
		found = match(func(k Kernel) bool {
			return k.Release == ref || len(ref) >= minHashPrefix && strings.HasPrefix(k.Hash, ref)
		})
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if len(kernels) == 0 {
			return Kernel{}, fmt.Errorf("no kernel %q: the cache is empty; nestbed kernel add debian:6.12 imports one", ref)
		}
		var have []string
		for _, k := range kernels {
			have = append(have, fmt.Sprintf("%s (%s)", cmp.Or(k.Spec, k.Release), k.Hash[:12]))
		}
		return Kernel{}, fmt.Errorf("no kernel %q in the cache; there are %s", ref, strings.Join(have, ", "))
	}
	var which []string
	for _, k := range found {
		which = append(which, k.Hash[:12])
	}
	return Kernel{}, fmt.Errorf("%q means %d kernels: give the hash (%s)", ref, len(found), strings.Join(which, ", "))
}

// Remove removes the kernel that ref means and every SPEC that leads to it.
func (c *Cache) Remove(ref string) error {
	held, err := flock.Take(context.Background(), c.path("locks", "entries"), nil)
	if err != nil {
		return fmt.Errorf("remove kernel %q: %w", ref, err)
	}
	defer held.Unlock()
	k, err := c.Show(ref)
	if err != nil {
		return err
	}
	if err := c.remove(k); err != nil {
		return fmt.Errorf("remove kernel %q: %w", ref, err)
	}
	return nil
}

// used notes that a kernel is used, for Trim. A cache that cannot be written to is none to be trimmed.
func used(k Kernel) {
	now := time.Now()
	_ = os.Chtimes(k.Dir, now, now)
}

// Hold keeps a kernel in the cache, to which no SPEC may lead any more, until release is called or the process ends.
func (c *Cache) Hold(k Kernel) (release func(), err error) {
	held, ok, err := flock.TryShareDir(k.Dir)
	if err == nil && ok {
		if _, err = os.Stat(k.Dir); err == nil {
			used(k)
			return held.Unlock, nil
		}
		held.Unlock()
	}
	if !ok && err == nil || errors.Is(err, fs.ErrNotExist) {
		err = errors.New("it was removed from the cache")
	}
	return nil, fmt.Errorf("hold kernel %s (%s): %w", k.Release, k.Hash[:12], err)
}

// errHeld says that a kernel cannot be removed now.
var errHeld = errors.New("a series that is running needs it")

// remove forgets the SPECs first and then takes the entry away in one step, so that a reader sees it whole
// or not at all. The caller holds the entries' lock.
func (c *Cache) remove(k Kernel) error {
	alone, ok, err := flock.TryDir(k.Dir)
	if err != nil {
		return err
	}
	if !ok {
		return errHeld
	}
	defer alone.Unlock()
	for _, text := range k.Specs {
		s, err := parseSpec(text)
		if err != nil {
			return err
		}
		if err := os.Remove(c.specFile(s)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	dir, work, err := c.workDir()
	if err != nil {
		return err
	}
	defer work.Unlock()
	if err := os.Rename(k.Dir, filepath.Join(dir, "removed")); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Usage says what the cache holds, in bytes on disk.
type Usage struct {
	Kernels []Kernel // with Size
	Lists   int64    // apt-get's private state
	Builds  int64    // output folders of kernels that were built here
	Sources int64    // of which they were built
	Temp    int64    // imports under way, and the remains of killed ones
	Total   int64
}

// Usage measures the cache.
func (c *Cache) Usage() (Usage, error) {
	kernels, err := c.List()
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Kernels: kernels, Lists: DiskUsage(c.path("apt")), Temp: DiskUsage(c.path("tmp"))}
	u.Builds, u.Sources = DiskUsage(c.Builds()), DiskUsage(c.Sources())
	u.Total = u.Lists + u.Temp + u.Builds + u.Sources
	for i, k := range kernels {
		u.Kernels[i].Size = DiskUsage(k.Dir)
		u.Total += u.Kernels[i].Size
	}
	return u, nil
}

// Pruned says what Prune removed.
type Pruned struct {
	Kernels []Kernel
	Bytes   int64
}

// Prune removes kernels that no SPEC leads to any more (an older build of a tree, a superseded package) and nobody holds, what
// killed imports left, and the package lists, which the next Add fetches again. keep, if not nil, can save a
// kernel.
func (c *Cache) Prune(keep func(Kernel) bool) (Pruned, error) {
	var p Pruned
	freed, err := c.sweep(func() error {
		p.Bytes = DiskUsage(c.path("apt"))
		if err := os.RemoveAll(c.path("apt")); err != nil {
			return err
		}
		return os.Mkdir(c.path("apt"), 0o755)
	})
	p.Bytes += freed
	if err != nil {
		return p, fmt.Errorf("prune kernels: %w", err)
	}
	held, err := flock.Take(context.Background(), c.path("locks", "entries"), nil)
	if err != nil {
		return p, fmt.Errorf("prune kernels: %w", err)
	}
	defer held.Unlock()
	err = c.removeUnnamed(&p, func(k Kernel) bool { return keep != nil && keep(k) })
	return p, err
}

// unnamedLimit is how many bytes of kernels that no SPEC leads to are kept: of every patch of a series, for the next
// series that has it. It is 64 kernels of the base flavour.
const unnamedLimit = 512 << 20

// Trim removes kernels that no SPEC leads to until the others have no more than limit bytes, those first that were
// not used for longest.
func (c *Cache) Trim(limit int64) (Pruned, error) {
	var p Pruned
	held, err := flock.Take(context.Background(), c.path("locks", "entries"), nil)
	if err != nil {
		return p, fmt.Errorf("trim kernels: %w", err)
	}
	defer held.Unlock()
	room := limit
	err = c.removeUnnamed(&p, func(k Kernel) bool {
		room -= DiskUsage(k.Dir)
		return room >= 0
	})
	return p, err
}

// removeUnnamed removes the kernels that no SPEC leads to, nobody holds and keep does not want, which is asked for the
// one that was used last first. The caller holds the entries' lock.
func (c *Cache) removeUnnamed(p *Pruned, keep func(Kernel) bool) error {
	kernels, err := c.List()
	if err != nil {
		return err
	}
	last := map[string]time.Time{}
	for _, k := range kernels {
		if info, err := os.Stat(k.Dir); err == nil {
			last[k.Hash] = info.ModTime()
		}
	}
	slices.SortStableFunc(kernels, func(a, b Kernel) int { return last[b.Hash].Compare(last[a.Hash]) })
	for _, k := range kernels {
		if len(k.Specs) > 0 || keep(k) {
			continue
		}
		size := DiskUsage(k.Dir)
		if err := c.remove(k); errors.Is(err, errHeld) {
			continue
		} else if err != nil {
			return fmt.Errorf("remove kernel %s: %w", k.Release, err)
		}
		p.Kernels = append(p.Kernels, k)
		p.Bytes += size
	}
	return nil
}

// DiskUsage is what the files below name occupy; files that vanish meanwhile occupy nothing.
func DiskUsage(name string) int64 {
	var sum int64
	_ = filepath.WalkDir(name, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return nil
	})
	return sum
}
