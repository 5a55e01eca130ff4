package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/flock"
	"github.com/nestbed/nestbed/kernels/program"
)

// openPackage gives the sources of the newest package that text names, downloading it if need be. Each
// version has a folder of its own: the files of a package are older than what was compiled of the last one,
// and make would not see that they differ.
func openPackage(ctx context.Context, cache *kernels.Cache, text string, say func(string)) (*Tree, error) {
	_, what, _ := strings.Cut(text, ":")
	t := &Tree{Name: "debian-" + strings.ReplaceAll(what, "/", "-")}
	found, asked := cache.FindSource(ctx, text, say)
	switch {
	case asked == nil:
		t.Key, t.Origin = t.Name+"_"+unfit.ReplaceAllString(found.Version, "-"), found.Origin
		t.Dir = filepath.Join(cache.Sources(), t.Key)
	case errors.Is(asked, kernels.ErrUnreachable) && ctx.Err() == nil:
		// What is here is better than nothing.
		if t.Dir = latest(cache.Sources(), t.Name); t.Dir == "" {
			return nil, asked
		}
		t.Key = filepath.Base(t.Dir)
		t.Origin = t.Key
		say(fmt.Sprintf("taking %s, which is here: %v", t.Key, asked))
	default:
		return nil, asked
	}
	var err error
	t.held, err = unpacked(ctx, t.Dir, func() error {
		if asked != nil { // it was removed since
			return asked
		}
		if err := download(ctx, found, t.Dir, say); err != nil {
			return fmt.Errorf("sources %q: %w", text, err)
		}
		return nil
	}, func() { say("waiting for another download of " + t.Origin) })
	if err != nil {
		return nil, err
	}
	if t.Version, err = readVersion(t.Dir); err != nil {
		t.Close()
		return nil, fmt.Errorf("sources %q: %w: remove %s", text, err, t.Dir)
	}
	return t, nil
}

// unpacked gives the lock of a folder that is there, and that nobody removes while the lock is held; several builds
// may have it at once. unpack makes the folder where it is missing.
func unpacked(ctx context.Context, dir string, unpack func() error, waiting func()) (*flock.Lock, error) {
	for {
		shared, err := flock.Share(ctx, dir+".lock", waiting)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(dir); err == nil {
			return shared, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			shared.Unlock()
			return nil, err
		}
		shared.Unlock()
		alone, err := flock.Take(ctx, dir+".lock", waiting)
		if err != nil {
			return nil, err
		}
		if _, err = os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			err = unpack()
		}
		alone.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// latest is the folder of the last download of a package, "" for none.
func latest(sources, name string) string {
	dirs, err := filepath.Glob(filepath.Join(sources, name+"_*"))
	if err != nil {
		return ""
	}
	best, when := "", int64(0)
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err == nil && info.IsDir() && !strings.HasSuffix(dir, ".new") && info.ModTime().UnixNano() > when {
			best, when = dir, info.ModTime().UnixNano()
		}
	}
	return best
}

// download fetches the package and unpacks what is in it into dir, which is there whole or not at all. The
// caller holds the lock of dir.
func download(ctx context.Context, p kernels.SourcePackage, dir string, say func(string)) error {
	// What a killed download left is nobody's.
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	deb, err := p.Fetch(ctx, tmp)
	if err != nil {
		return err
	}
	say("unpacking " + filepath.Base(deb))
	return unpack(ctx, deb, tmp, dir)
}

// unpack unpacks the tarball in a package into dir, by way of tmp.
func unpack(ctx context.Context, deb, tmp, dir string) error {
	outer, inner := filepath.Join(tmp, "package"), filepath.Join(tmp, "tree")
	if err := run(ctx, "dpkg-deb", "--extract", deb, outer); err != nil {
		return err
	}
	if err := os.Remove(deb); err != nil { // 150 MB that are not needed beside what comes out
		return err
	}
	tars, err := filepath.Glob(filepath.Join(outer, "usr/src/linux-source-*.tar.xz"))
	if err != nil {
		return err
	}
	if len(tars) != 1 {
		return fmt.Errorf("%s holds %d tarballs of sources", filepath.Base(deb), len(tars))
	}
	if err := os.Mkdir(inner, 0o755); err != nil {
		return err
	}
	if err := run(ctx, "tar", "--extract", "--no-same-owner", "--strip-components=1", "--directory", inner, "--file", tars[0]); err != nil {
		return err
	}
	return os.Rename(inner, dir)
}

func run(ctx context.Context, name string, args ...string) error {
	cmd := program.Command(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := program.Run(cmd); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", name, ctx.Err())
		}
		return fmt.Errorf("%s: %w: %s", name, program.Outcome(err, stderr.String()), firstLine(stderr.String()))
	}
	return nil
}
