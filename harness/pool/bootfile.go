package pool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nestbed/nestbed/kernels"
)

// bootFile returns the path of a file that guests boot from, which make writes when it is not there yet. Its
// name is the hash of what goes in, so a file that is there is the right one. what names it in errors.
func (p *Pool) bootFile(name, what string, make func(*os.File) error) (string, error) {
	name = filepath.Join(p.BootFiles, name)
	if _, err := os.Stat(name); err == nil {
		return name, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	var f *os.File
	err := os.MkdirAll(p.BootFiles, 0o755)
	if err == nil {
		f, err = os.CreateTemp(p.BootFiles, ".new-*")
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w; XDG_CACHE_HOME names another place for it", what, err)
	}
	defer os.Remove(f.Name()) // gone already when all went well
	defer f.Close()           // as above
	// The first error explains those of the steps after it.
	for _, step := range []func() error{
		func() error { return make(f) }, func() error { return f.Chmod(0o644) }, f.Sync, f.Close,
	} {
		if err := step(); err != nil {
			return "", fmt.Errorf("%s: %w", what, err)
		}
	}
	return name, os.Rename(f.Name(), name)
}

// vmlinuxFormat changes when kernels.Vmlinux finds the image in kernels in which it did not before.
const vmlinuxFormat = "1"

// kernel returns the image that QEMU boots: the kernel unpacked where it has a PVH entry, else its bzImage. A
// TCG guest unpacks its kernel in 1.2 to 1.5 s, a tenth of a short cell; the host does it once.
func (p *Pool) kernel(ctx context.Context, k kernels.Kernel) (string, error) {
	name, err := p.bootFile(hash(vmlinuxFormat, k.Hash)+".vmlinux", "unpack "+k.Release, func(f *os.File) error {
		ok, err := k.Vmlinux(ctx, f)
		if err == nil && !ok {
			err = f.Truncate(0) // remembered: this one has none
		}
		return err
	})
	if err != nil {
		return "", err
	}
	info, err := os.Stat(name)
	if err == nil && info.Size() == 0 {
		return k.Vmlinuz(), nil
	}
	return name, err
}

func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintln(h, p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Usage is what the boot files in folder dir occupy, in bytes.
func Usage(dir string) (int64, error) {
	files, err := bootFiles(dir)
	var sum int64
	for _, f := range files {
		sum += f.Size()
	}
	return sum, err
}

// Prune removes the boot files in folder dir and says how many bytes they took. Any that is needed
// again is built again, which takes a second.
func Prune(dir string) (int64, error) {
	files, err := bootFiles(dir)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, f := range files {
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return sum, err
		}
		sum += f.Size()
	}
	return sum, nil
}

func bootFiles(dir string) ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // else it has just gone
			files = append(files, info)
		}
	}
	return files, nil
}
