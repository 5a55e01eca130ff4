// Package build owns the compiling of kernels: a tree of sources and a flavour become an output folder in the
// cache, and that a kernel which guests can boot.
//
// The tree's own scripts configure and its own make compiles, out of the sources, in one folder for each tree
// and flavour, which is kept: the next build compiles what has changed. The same sources give the same kernel,
// whoever builds them and when. What sources are is package source's, what is asked for is in package fragments.
package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/flock"
	"github.com/nestbed/nestbed/kernels/fragments"
	"github.com/nestbed/nestbed/kernels/source"
)

// Request is what to build.
type Request struct {
	Tree      string   // a folder, or debian-source:VERSION
	Revision  string   // of a git tree; "": the tree as it is
	Flavour   string   // "": base
	Fragments []string // files that are merged last
	Jobs      int      // compilers at once; 0: one for each CPU
}

// Result is a kernel that was built.
type Result struct {
	Kernel   kernels.Kernel
	Flavour  string
	Origin   string // of the sources
	Commit   string // "" where there is none, or changes on top
	Dir      string // the output folder; "" for a kernel that was built by hand
	Log      string
	Compiled int           // files, by this build
	Elapsed  time.Duration // with configuring and importing
}

// Progress is told how far a build is. Both may be nil.
type Progress struct {
	Say      func(string)
	Compiled func(done, of int, object string) // of: what a build from nothing compiled; 0 if nobody knows
}

// Builder builds kernels into a cache.
type Builder struct {
	Cache    *kernels.Cache
	Progress Progress
}

// Build builds a kernel and imports it, as SPEC build:NAME/FLAVOUR.
func (b *Builder) Build(ctx context.Context, r Request) (Result, error) {
	began := time.Now()
	say := b.Progress.Say
	if say == nil {
		say = func(string) {}
	}
	flavour, err := fragments.Named(cmp.Or(r.Flavour, "base"))
	if err != nil {
		return Result{}, err
	}
	parts, name, err := gather(flavour, r.Fragments)
	if err != nil {
		return Result{}, err
	}
	tree, err := source.Open(ctx, b.Cache, r.Tree, r.Revision, say)
	if err != nil {
		return Result{}, err
	}
	defer tree.Close()
	if tree.Built {
		if r.Flavour != "" || len(r.Fragments) > 0 {
			return Result{}, &source.Error{Tree: r.Tree, Reason: "is the output of a build, without sources", Hint: "leave --flavour and --fragment out, or give the sources"}
		}
		say(r.Tree + " was built by hand: taken as it is")
		k, err := b.Cache.AddBuild(ctx, tree.Name+"/by-hand", tree.Dir, tree.Origin, say)
		return Result{Kernel: k, Origin: tree.Origin, Elapsed: time.Since(began)}, err
	}
	if tree.Version.Less(flavour.Since) {
		return Result{}, fmt.Errorf("flavour %s needs Linux %s or later, %s is %s", flavour.Name, flavour.Since, r.Tree, tree.Version)
	}
	tools, err := FindToolchain(ctx)
	if err != nil {
		return Result{}, err
	}
	j := &job{
		tree: tree, parts: parts, tools: tools, say: say, compiled: b.Progress.Compiled,
		jobs: cmp.Or(r.Jobs, runtime.NumCPU()),
		out:  filepath.Join(b.Cache.Builds(), tree.Key, name),
	}
	j.logName, j.stateName = j.out+".log", j.out+".json"
	if err := os.MkdirAll(j.out, 0o755); err != nil {
		return Result{}, err
	}
	held, err := flock.Take(ctx, j.out+".lock", func() { say("waiting for another build in " + j.out) })
	if err != nil {
		return Result{}, err
	}
	defer held.Unlock()
	if err := j.run(ctx); err != nil {
		return Result{}, err
	}
	origin := fmt.Sprintf("%s, flavour %s", tree.Origin, name)
	k, err := b.Cache.AddBuild(ctx, tree.Name+"/"+name, j.out, origin, say)
	if err != nil {
		return Result{}, err
	}
	return Result{
		Kernel: k, Flavour: name, Origin: tree.Origin, Commit: tree.Commit, Dir: j.out, Log: j.logName,
		Compiled: j.count, Elapsed: time.Since(began),
	}, nil
}

// gather gives the fragments to merge, and the name of the whole: base+mine.
func gather(flavour fragments.Flavour, files []string) ([]fragments.Fragment, string, error) {
	parts, err := flavour.Fragments()
	if err != nil {
		return nil, "", err
	}
	name := flavour.Name
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, "", fmt.Errorf("fragment: %w", err)
		}
		f, err := fragments.Parse(file, text)
		if err != nil {
			return nil, "", err
		}
		parts = append(parts, f)
		base := filepath.Base(file)
		name += "+" + unfit.Replace(strings.TrimSuffix(base, filepath.Ext(base)))
	}
	return parts, name, nil
}

// unfit makes a file's name part of a SPEC.
var unfit = strings.NewReplacer(" ", "-", "/", "-", ":", "-", ",", "-", "@", "-")

// MissingError names all programs and headers that a build needs and the host lacks.
type MissingError struct{ What, Packages []string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("building a kernel needs %s: apt-get install -y --no-install-recommends %s",
		strings.Join(e.What, ", "), strings.Join(e.Packages, " "))
}

// needTools looks for what every kernel's build needs.
func needTools(ctx context.Context) error {
	var missing MissingError
	for _, tool := range []struct{ program, pkg string }{
		{"make", "make"}, {"gcc", "gcc"}, {"ld", "binutils"}, {"flex", "flex"}, {"bison", "bison"}, {"bc", "bc"},
	} {
		if _, err := exec.LookPath(tool.program); err != nil {
			missing.What, missing.Packages = append(missing.What, tool.program), append(missing.Packages, tool.pkg)
		}
	}
	if gcc, err := exec.LookPath("gcc"); err == nil {
		// objtool reads and writes object files.
		cmd := exec.CommandContext(ctx, gcc, "-E", "-x", "c", "-o", os.DevNull, "-")
		cmd.Stdin = strings.NewReader("#include <libelf.h>\n")
		if err := cmd.Run(); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			missing.What, missing.Packages = append(missing.What, "libelf.h"), append(missing.Packages, "libelf-dev")
		}
	}
	if len(missing.What) > 0 {
		return &missing
	}
	return nil
}

// Toolchain is what turns sources into a kernel, by what it says of its version.
type Toolchain struct {
	Compiler string // of gcc --version, all of it
	Linker   string // of ld --version, the first line; the assembler is of the same package
}

// FindToolchain gives the host's. A program or a header that a build needs and the host lacks is a *MissingError.
func FindToolchain(ctx context.Context) (Toolchain, error) {
	if err := needTools(ctx); err != nil {
		return Toolchain{}, err
	}
	compiler, err := exec.CommandContext(ctx, "gcc", "--version").Output()
	if err != nil {
		return Toolchain{}, fmt.Errorf("gcc --version: %w", err)
	}
	linker, err := exec.CommandContext(ctx, "ld", "--version").Output()
	if err != nil {
		return Toolchain{}, fmt.Errorf("ld --version: %w", err)
	}
	first, _, _ := strings.Cut(string(linker), "\n")
	return Toolchain{string(compiler), first}, nil
}

// FailedError says that the kernel does not build: its own fault, unlike that of a full disk.
type FailedError struct {
	Target string // what make was to make
	First  string // the first error, some lines
	Log    string // path of all that was said
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("make %s failed:\n%s\nall of it is in %s", e.Target, e.First, e.Log)
}

// Pruned is what Prune removed.
type Pruned struct {
	Folders int
	Bytes   int64
}

// Prune removes output folders and the cache's own sources, except those that are being used. The kernels
// that were built stay.
func Prune(cache *kernels.Cache) (Pruned, error) {
	var p Pruned
	take := func(dir string) error {
		bytes := kernels.DiskUsage(dir)
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		p.Folders, p.Bytes = p.Folders+1, p.Bytes+bytes
		return nil
	}
	for _, pattern := range []string{filepath.Join(cache.Builds(), "*", "*.lock"), filepath.Join(cache.Sources(), "*.lock")} {
		locks, err := filepath.Glob(pattern)
		if err != nil {
			return p, err
		}
		for _, name := range locks {
			ctx, cancel := context.WithCancel(context.Background())
			held, err := flock.Take(ctx, name, cancel) // held by another: not now
			cancel()
			if errors.Is(err, context.Canceled) {
				continue
			}
			if err != nil {
				return p, err
			}
			whole := strings.TrimSuffix(name, ".lock")
			for _, dir := range []string{whole, whole + seedSuffix} {
				if info, err := os.Stat(dir); err == nil && info.IsDir() {
					if err := take(dir); err != nil {
						held.Unlock()
						return p, err
					}
				} else if err != nil && !errors.Is(err, syscall.ENOENT) {
					held.Unlock()
					return p, err
				}
			}
			held.Unlock()
		}
	}
	return p, nil
}
