package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/kernels/flock"
)

// Allocate makes a file for a guest's memory of so many bytes, all of them zero and none on disk.
func Allocate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// Copy copies a guest's memory, holes included.
func Copy(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := Allocate(to, info.Size()); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = extents(in, func(at, length int64) error {
		if _, err := out.Seek(at, io.SeekStart); err != nil {
			return err
		}
		_, err := io.Copy(out, io.NewSectionReader(in, at, length))
		return err
	})
	return errors.Join(err, out.Close())
}

// extents calls f for every stretch of a file that is on disk.
func extents(file *os.File, f func(at, length int64) error) error {
	for end := int64(0); ; {
		at, err := unix.Seek(int(file.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing more
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file.Name(), err)
		}
		if end, err = unix.Seek(int(file.Fd()), at, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("%s: %w", file.Name(), err)
		}
		if err := f(at, end-at); err != nil {
			return err
		}
	}
}

// hole is the unit of punch: smaller ones cost more extents than they save.
const hole = 64 << 10

// punch takes what is zero in a guest's memory off the disk.
func punch(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	buf := make([]byte, hole)
	zero := make([]byte, hole)
	err = extents(f, func(at, length int64) error {
		for end := at + length; at < end; at += hole {
			n := min(hole, end-at)
			if _, err := f.ReadAt(buf[:n], at); err != nil {
				return err
			}
			if string(buf[:n]) != string(zero[:n]) {
				continue
			}
			err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
			if errors.Is(err, unix.EOPNOTSUPP) {
				return nil // a file system without holes
			}
			if err != nil {
				return fmt.Errorf("punch holes: %w", err)
			}
		}
		return nil
	})
	return errors.Join(err, f.Close())
}

// saved is one snapshot as the disk sees it.
type saved struct {
	key  string
	size int64
	used time.Time
}

// list gives the snapshots, the least recently used first.
func (s *Store) list() ([]saved, error) {
	entries, err := os.ReadDir(filepath.Join(s.Dir, "saved"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []saved
	for _, e := range entries {
		one := saved{key: e.Name()}
		if info, err := os.Stat(s.metaFile(e.Name())); err == nil {
			one.used = info.ModTime()
		}
		one.size = onDisk(s.folder(e.Name()))
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b saved) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.key, b.key)) })
	return list, nil
}

// onDisk is what a folder's files occupy.
func onDisk(dir string) (bytes int64) {
	entries, _ := os.ReadDir(dir) // else it has just gone
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
	}
	return bytes
}

// limit removes what was not used for longest until the folder is within its limit, except one.
func (s *Store) limit(keep string) error {
	list, err := s.list()
	if err != nil {
		return fmt.Errorf("snapshots: %w", err)
	}
	var sum int64
	for _, one := range list {
		sum += one.size
	}
	for _, one := range list {
		if sum <= s.Limit {
			return nil
		}
		if one.key == keep {
			continue
		}
		gone, err := s.remove(one.key)
		if err != nil {
			return fmt.Errorf("snapshots: %w", err)
		}
		if gone {
			sum -= one.size
		}
	}
	return nil
}

// remove takes a snapshot away that nobody is about to restore. Guests that run from it keep its files.
func (s *Store) remove(key string) (bool, error) {
	now, never := context.WithCancel(context.Background())
	never() // a lock that somebody holds is not waited for
	lock, err := flock.Take(now, s.lock(key), nil)
	if errors.Is(err, context.Canceled) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Unlock()
	return true, os.RemoveAll(s.folder(key))
}

// Usage is what the snapshots occupy, in bytes.
func (s *Store) Usage() (int64, error) {
	list, err := s.list()
	var sum int64
	for _, one := range list {
		sum += one.size
	}
	return sum, err
}

// Prune removes all snapshots that nobody is about to restore and says how many bytes they took. One that is
// needed again is made again, which takes a boot.
func (s *Store) Prune() (int64, error) {
	list, err := s.list()
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, one := range list {
		gone, err := s.remove(one.key)
		if err != nil {
			return sum, err
		}
		if gone {
			sum += one.size
		}
	}
	return sum, nil
}
