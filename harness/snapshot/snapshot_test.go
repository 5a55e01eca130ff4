package snapshot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/images/control"
	"github.com/nestbed/nestbed/kernels/flock"
)

const memory = 4 << 20

// maker saves a guest of which 64 kB in the middle of its memory are not zero.
func maker(t *testing.T, made *int) func(context.Context, string) (Made, error) {
	return func(_ context.Context, dir string) (Made, error) {
		*made++
		entries, err := os.ReadDir(dir)
		assert.NilError(t, err)
		assert.Equal(t, len(entries), 0)
		assert.NilError(t, Allocate(filepath.Join(dir, RAM), memory))
		f, err := os.OpenFile(filepath.Join(dir, RAM), os.O_RDWR, 0)
		assert.NilError(t, err)
		_, err = f.WriteAt(make([]byte, 2<<20), 0) // zero, and on disk
		assert.NilError(t, err)
		_, err = f.WriteAt(bytes.Repeat([]byte("memory  "), 8<<10), 2<<20)
		assert.NilError(t, err)
		assert.NilError(t, f.Close())
		for file, text := range map[string]string{State: "the state", Console: "a line\n", Kmsg: ""} {
			assert.NilError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
		}
		return Made{Ready: control.Ready{Kernel: "6.12"}}, nil
	}
}

func open(t *testing.T, s *Store, key string, made *int) *Snapshot {
	t.Helper()
	snap, err := s.Open(t.Context(), key, maker(t, made))
	assert.NilError(t, err)
	return snap
}

func TestOpenMakesOnce(t *testing.T) {
	s := &Store{Dir: t.TempDir(), Limit: 1 << 30}
	made := 0
	for range 3 {
		snap := open(t, s, "aa", &made)
		assert.Equal(t, snap.Ready.Kernel, "6.12")
		assert.Equal(t, snap.Refused, "")
		state, err := os.ReadFile(snap.Path(State))
		assert.NilError(t, err)
		assert.Equal(t, string(state), "the state")
		snap.Close()
	}
	assert.Equal(t, made, 1)
	open(t, s, "bb", &made).Close()
	assert.Equal(t, made, 2, "another key, another guest")

	used, err := s.Usage()
	assert.NilError(t, err)
	assert.Check(t, used >= 2*64<<10 && used < 2*256<<10, "the zeros are not on disk: %d", used)
	freed, err := s.Prune()
	assert.NilError(t, err)
	assert.Equal(t, freed, used)
	open(t, s, "aa", &made).Close()
	assert.Equal(t, made, 3)
}

// What is not as it was saved is never given out.
func TestDamaged(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"memory cut":      func(dir string) error { return os.Truncate(filepath.Join(dir, RAM), memory-4096) },
		"memory written":  func(dir string) error { return write(filepath.Join(dir, RAM), "x") },
		"memory gone":     func(dir string) error { return os.Remove(filepath.Join(dir, RAM)) },
		"state cut":       func(dir string) error { return os.Truncate(filepath.Join(dir, State), 3) },
		"state written":   func(dir string) error { return write(filepath.Join(dir, State), "x") },
		"console cut":     func(dir string) error { return os.Truncate(filepath.Join(dir, Console), 2) },
		"description cut": func(dir string) error { return os.Truncate(filepath.Join(dir, metaFile), 20) },
		"description of a newer nestbed": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, metaFile), []byte(`{"schema":"nestbed/snapshot/2","key":"aa"}`), 0o600)
		},
		"copied from elsewhere": func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, RAM))
			info, statErr := os.Stat(filepath.Join(dir, RAM))
			if err = errors.Join(err, statErr); err != nil {
				return err
			}
			copied := filepath.Join(dir, "copy")
			return errors.Join(os.WriteFile(copied, data, 0o600), os.Chtimes(copied, info.ModTime(), info.ModTime()), os.Rename(copied, filepath.Join(dir, RAM)))
		},
		"another one's": func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.Rename(filepath.Join(filepath.Dir(dir), "bb"), dir))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Store{Dir: t.TempDir(), Limit: 1 << 30}
			made := 0
			open(t, s, "bb", &made).Close()
			snap := open(t, s, "aa", &made)
			snap.Close()
			assert.NilError(t, damage(snap.Dir))
			again := open(t, s, "aa", &made)
			again.Close()
			assert.Equal(t, made, 3, "it is made again")
			data, err := os.ReadFile(again.Path(RAM))
			assert.NilError(t, err)
			assert.Check(t, len(data) == memory && bytes.Count(data, []byte("memory  ")) == 8<<10)
			open(t, s, "aa", &made).Close()
			assert.Equal(t, made, 3, "once")
		})
	}
}

func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func TestRefused(t *testing.T) {
	s := &Store{Dir: t.TempDir(), Limit: 1 << 30}
	asked := 0
	for range 2 {
		snap, err := s.Open(t.Context(), "aa", func(context.Context, string) (Made, error) {
			asked++
			return Made{Refused: "amd-iommu"}, nil
		})
		assert.NilError(t, err)
		assert.Equal(t, snap.Refused, "amd-iommu")
		snap.Close()
	}
	assert.Equal(t, asked, 1)
}

// A maker that fails leaves nothing, and the next one tries again.
func TestMakerFails(t *testing.T) {
	s := &Store{Dir: t.TempDir(), Limit: 1 << 30}
	bad := errors.New("the kernel does not boot")
	for range 2 {
		_, err := s.Open(t.Context(), "aa", func(_ context.Context, dir string) (Made, error) {
			return Made{}, errors.Join(bad, Allocate(filepath.Join(dir, RAM), memory))
		})
		assert.ErrorIs(t, err, bad)
		left, err := os.ReadDir(s.temporary())
		assert.NilError(t, err)
		assert.Equal(t, len(left), 0)
	}
	_, err := s.Open(t.Context(), "aa", func(context.Context, string) (Made, error) { return Made{}, nil })
	assert.ErrorIs(t, err, os.ErrNotExist, "a guest without state")
	made := 0
	open(t, s, "aa", &made).Close()
}

// Many who want one guest wait for the one that makes it.
func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	made := 0
	var all sync.WaitGroup
	for range 8 {
		s := &Store{Dir: dir, Limit: 1 << 30} // as another process's
		all.Go(func() {
			snap, err := s.Open(t.Context(), "aa", maker(t, &made))
			assert.Check(t, err == nil, "%v", err)
			snap.Close()
		})
	}
	all.Wait()
	assert.Equal(t, made, 1)
}

// Over the limit the least recently used go, but none that somebody is about to restore, nor the one just made.
func TestLimit(t *testing.T) {
	s := &Store{Dir: t.TempDir(), Limit: 1 << 30}
	made := 0
	for _, key := range []string{"aa", "bb", "cc"} {
		open(t, s, key, &made).Close()
	}
	for i, key := range []string{"bb", "aa", "cc"} {
		when := time.Now().Add(time.Duration(i-10) * time.Hour)
		assert.NilError(t, os.Chtimes(s.metaFile(key), when, when))
	}
	s.Limit = 1
	held := open(t, s, "bb", &made)
	open(t, s, "dd", &made).Close()
	assert.DeepEqual(t, keys(t, s), []string{"bb", "dd"})
	held.Close()
	open(t, s, "bb", &made).Close() // used last, but it was made before
	open(t, s, "ee", &made).Close()
	assert.DeepEqual(t, keys(t, s), []string{"ee"})
	assert.Equal(t, made, 5)
}

func keys(t *testing.T, s *Store) (keys []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Dir, "saved"))
	assert.NilError(t, err)
	for _, e := range entries {
		keys = append(keys, e.Name())
	}
	return keys
}

// What a killed maker left is removed by the next one, what a living one makes is not.
func TestSweep(t *testing.T) {
	s := &Store{Dir: t.TempDir(), Limit: 1 << 30}
	old := time.Now().Add(-time.Hour)
	for _, name := range []string{"dead", "alive"} {
		dir := filepath.Join(s.temporary(), name)
		assert.NilError(t, os.MkdirAll(dir, 0o755))
		assert.NilError(t, os.Chtimes(dir, old, old))
	}
	lock, ok, err := flock.TryDir(filepath.Join(s.temporary(), "alive"))
	assert.NilError(t, err)
	assert.Assert(t, ok)
	defer lock.Unlock()
	made := 0
	open(t, s, "aa", &made).Close()
	left, err := os.ReadDir(s.temporary())
	assert.NilError(t, err)
	assert.Equal(t, len(left), 1)
	assert.Equal(t, left[0].Name(), "alive")
}

func TestCopy(t *testing.T) {
	s := &Store{Dir: t.TempDir(), Limit: 1 << 30}
	made := 0
	snap := open(t, s, "aa", &made)
	defer snap.Close()
	to := filepath.Join(t.TempDir(), RAM)
	assert.NilError(t, Copy(to, snap.Path(RAM)))
	want, err := os.ReadFile(snap.Path(RAM))
	assert.NilError(t, err)
	got, err := os.ReadFile(to)
	assert.NilError(t, err)
	assert.Check(t, bytes.Equal(got, want))
	var st unix.Stat_t
	assert.NilError(t, unix.Stat(to, &st))
	assert.Check(t, st.Blocks*512 < memory/2, "holes stay holes")
	assert.Equal(t, os.FileMode(st.Mode).Perm(), os.FileMode(0o600))
	assert.ErrorIs(t, Copy(to, snap.Path(RAM)), os.ErrExist, "nothing is written over")
}
