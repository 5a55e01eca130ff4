// Package snapshot keeps saved guests on disk, each under the hash of all that it was made from.
//
// It owns the folder: one snapshot is made at a time and in one step, also beside other processes; one that is
// not what was saved here (cut, copied from elsewhere, touched since) is never given out and made again; those
// that nobody has used for longest go when the folder is over its limit. It does not own how a guest is saved and
// restored (harness/pool, harness/qemu), nor what belongs into the hash.
package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nestbed/nestbed/images/control"
	"github.com/nestbed/nestbed/kernels/flock"
)

// The files of a snapshot's folder.
const (
	RAM     = "ram"   // the guest's memory, mapped by QEMU and never written again
	State   = "state" // what else QEMU saves
	Console = "console.log"
	Kmsg    = "kmsg.log"

	metaFile = "snapshot.json"
	schema   = "nestbed/snapshot/1"
)

// Store is a folder of snapshots. Several processes may use it at once.
type Store struct {
	Dir   string
	Limit int64 // bytes on disk, which the last one made may exceed
}

// Snapshot is a saved guest, or the word that a guest of this kind cannot be saved. It stays where it is until
// Close.
type Snapshot struct {
	Dir     string
	Ready   control.Ready // what the guest's init said before
	Refused string        // why there is none, in QEMU's words; "" if there is one

	lock *flock.Lock
}

// Path of one of the snapshot's files.
func (s *Snapshot) Path(file string) string { return filepath.Join(s.Dir, file) }

// Close says that the files are not needed any more. Who has them open keeps them.
func (s *Snapshot) Close() { s.lock.Unlock() }

// Made is what the maker of a snapshot says of it.
type Made struct {
	Ready   control.Ready
	Refused string
}

// meta is snapshot.json.
type meta struct {
	Schema  string          `json:"schema"`
	Key     string          `json:"key"`
	Ready   control.Ready   `json:"ready"`
	Refused string          `json:"refused,omitempty"`
	RAM     identity        `json:"ram"`
	State   string          `json:"state"` // sha256
	Sizes   map[string]uint `json:"sizes"` // of the logs
}

// identity tells a file that is as it was left from any other. To hash a guest's memory would take longer than
// to restore it.
type identity struct {
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	Changed int64  `json:"changed"` // mtime, nanoseconds since the epoch
}

func identify(path string) (identity, error) {
	info, err := os.Stat(path)
	if err != nil {
		return identity{}, err
	}
	return identity{info.Sys().(*syscall.Stat_t).Ino, info.Size(), info.ModTime().UnixNano()}, nil
}

// Open gives the snapshot of a key, a hash in hex. If there is none that is whole, maker makes it: it is given
// an empty folder and leaves RAM, State, Console and Kmsg there, or says why this kind is Refused. Errors are maker's or
// those of the disk. The caller closes the snapshot.
func (s *Store) Open(ctx context.Context, key string, maker func(ctx context.Context, dir string) (Made, error)) (*Snapshot, error) {
	if err := os.MkdirAll(s.locks(), 0o755); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	for {
		lock, err := flock.Share(ctx, s.lock(key), nil)
		if err != nil {
			return nil, fmt.Errorf("snapshot: %w", err)
		}
		if snap, err := s.read(key); err == nil {
			snap.lock = lock
			now := time.Now()
			_ = os.Chtimes(snap.Path(metaFile), now, now) // else it only seems less used than it is
			return snap, nil
		}
		lock.Unlock()
		if err := s.make(ctx, key, maker); err != nil {
			return nil, err
		}
	}
}

func (s *Store) locks() string              { return filepath.Join(s.Dir, "locks") }
func (s *Store) lock(key string) string     { return filepath.Join(s.locks(), key) }
func (s *Store) temporary() string          { return filepath.Join(s.Dir, "tmp") }
func (s *Store) folder(key string) string   { return filepath.Join(s.Dir, "saved", key) }
func (s *Store) metaFile(key string) string { return filepath.Join(s.folder(key), metaFile) }

// read gives a snapshot that is what was saved.
func (s *Store) read(key string) (*Snapshot, error) {
	text, err := os.ReadFile(s.metaFile(key))
	if err != nil {
		return nil, err
	}
	var m meta
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	if m.Schema != schema || m.Key != key {
		return nil, fmt.Errorf("snapshot %s is another one", key)
	}
	snap := &Snapshot{Dir: s.folder(key), Ready: m.Ready, Refused: m.Refused}
	if m.Refused != "" {
		return snap, nil
	}
	if now, err := identify(snap.Path(RAM)); err != nil || now != m.RAM {
		return nil, fmt.Errorf("snapshot %s: its memory is not as it was saved (%v)", key, err)
	}
	if now, err := hash(snap.Path(State)); err != nil || now != m.State {
		return nil, fmt.Errorf("snapshot %s: its state is not as it was saved (%v)", key, err)
	}
	for file, size := range m.Sizes {
		if info, err := os.Stat(snap.Path(file)); err != nil || info.Size() != int64(size) {
			return nil, fmt.Errorf("snapshot %s: its %s is not as it was saved (%v)", key, file, err)
		}
	}
	return snap, nil
}

func hash(path string) (string, error) {
	data, err := os.ReadFile(path)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), err
}

// make makes a snapshot, unless somebody else just has.
func (s *Store) make(ctx context.Context, key string, maker func(context.Context, string) (Made, error)) error {
	lock, err := flock.Take(ctx, s.lock(key), nil)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	defer lock.Unlock()
	if _, err := s.read(key); err == nil {
		return nil
	}
	if err := os.MkdirAll(s.temporary(), 0o755); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	s.sweep()
	dir, err := os.MkdirTemp(s.temporary(), "")
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	defer os.RemoveAll(dir) // gone already when all went well
	// Whoever sweeps takes what nobody holds.
	held, ours, err := flock.TryDir(dir)
	if err != nil || !ours {
		return fmt.Errorf("snapshot: hold %s: %w", dir, errors.Join(err, fs.ErrExist))
	}
	defer held.Unlock()
	made, err := maker(ctx, dir)
	if err != nil {
		return err
	}
	if err := s.publish(key, dir, made); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return s.limit(key)
}

// publish describes what lies in dir and puts it in its place.
func (s *Store) publish(key, dir string, made Made) error {
	m := meta{Schema: schema, Key: key, Ready: made.Ready, Refused: made.Refused, Sizes: map[string]uint{}}
	if made.Refused == "" {
		var err error
		if m.State, err = hash(filepath.Join(dir, State)); err != nil {
			return err
		}
		for _, file := range []string{Console, Kmsg} {
			info, err := os.Stat(filepath.Join(dir, file))
			if err != nil {
				return err
			}
			m.Sizes[file] = uint(info.Size())
		}
		if err := punch(filepath.Join(dir, RAM)); err != nil {
			return err
		}
		if m.RAM, err = identify(filepath.Join(dir, RAM)); err != nil {
			return err
		}
	}
	text, err := json.Marshal(m)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, metaFile), append(text, '\n'), 0o644)
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(s.folder(key)), 0o755)
	}
	if err == nil {
		err = os.RemoveAll(s.folder(key)) // what is there was no good
	}
	if err != nil {
		return err
	}
	return os.Rename(dir, s.folder(key))
}

// sweep removes what makers left behind that were killed.
func (s *Store) sweep() {
	entries, _ := os.ReadDir(s.temporary())
	for _, e := range entries {
		dir := filepath.Join(s.temporary(), e.Name())
		// One that was made a moment ago may not be held yet.
		if info, err := e.Info(); err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if lock, ok, err := flock.TryDir(dir); err == nil && ok {
			_ = os.RemoveAll(dir) // what stays is met again
			lock.Unlock()
		}
	}
}
