package kernels

import (
	"context"
	"errors"
	"fmt"
)

// Builds is the folder for the output of kernels that are built here. It lasts, for the next build of the same.
func (c *Cache) Builds() string { return c.path("builds") }

// Sources is the folder for sources that no user has: worktrees, and what came out of packages.
func (c *Cache) Sources() string { return c.path("sources") }

// AddBuild imports what make left in the output folder dir, as the SPEC build:NAME. origin says what was built. What had
// that name before stays, as long as there is room for it.
func (c *Cache) AddBuild(ctx context.Context, name, dir, origin string, progress func(string)) (Kernel, error) {
	s, err := parseSpec(buildPrefix + name)
	if err != nil {
		return Kernel{}, err
	}
	if progress == nil {
		progress = func(string) {}
	}
	s.paths, s.origin = []string{dir}, origin
	k, err := c.importLocked(ctx, s, s.String(), progress, func() (Kernel, bool, error) { return Kernel{}, false, nil })
	if err != nil {
		return Kernel{}, fmt.Errorf("kernel %q: %w", s, err)
	}
	k.Spec = s.String()
	old, err := c.Trim(unnamedLimit)
	if err != nil { // this kernel is built
		progress(err.Error())
	}
	if len(old.Kernels) > 0 {
		progress(fmt.Sprintf("removed %d kernels of earlier builds, %d MB, that were not used for longest: %d MB of those that no name leads to any more are kept",
			len(old.Kernels), old.Bytes>>20, unnamedLimit>>20))
	}
	return k, nil
}

// unbuilt is the error that s can only be had by a build, if that is so.
func unbuilt(s spec, text string) error {
	switch s.kind {
	case specBuild:
		return &SpecError{Spec: text, Reason: "was not built here", Hint: "nestbed kernel build makes it, nestbed kernel list shows what there is"}
	case specSource:
		return &SpecError{Spec: text, Reason: "are sources", Hint: "nestbed kernel build " + text + " makes a kernel of them, and says its SPEC"}
	}
	return nil
}

// SourcePackage is a package of a kernel's sources that a mirror offers.
type SourcePackage struct {
	Version string // of the package: 6.12.117-1~deb12u1
	Origin  string // linux-source-6.12 6.12.117-1~deb12u1 (bookworm-security)

	apt apt
	of  aptKernel
}

// FindSource asks the mirrors for the newest sources that text (debian-source:[SUITE/]VERSION) names.
func (c *Cache) FindSource(ctx context.Context, text string, progress func(string)) (SourcePackage, error) {
	s, err := parseSpec(text)
	if err != nil {
		return SourcePackage{}, err
	}
	if s.kind != specSource {
		return SourcePackage{}, &SpecError{Spec: text, Reason: "is not a package of sources", Hint: "want for example debian-source:6.12"}
	}
	a := c.apt
	a.progress = progress
	k, err := a.search(ctx, s)
	if err != nil {
		if _, mistaken := errors.AsType[*SpecError](err); mistaken {
			return SourcePackage{}, err
		}
		return SourcePackage{}, fmt.Errorf("sources %q: %w", text, err)
	}
	return SourcePackage{Version: k.version, Origin: k.String(), apt: a, of: k}, nil
}

// Fetch downloads the package into dir; apt checks it against the signed lists.
func (p SourcePackage) Fetch(ctx context.Context, dir string) (deb string, err error) {
	files, err := p.apt.fetch(ctx, p.of, dir)
	if err != nil {
		return "", fmt.Errorf("download %s: %w", p.Origin, err)
	}
	return files[0], nil
}
