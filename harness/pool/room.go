package pool

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// minRoom is the free space below which nobody can rely on a guest's logs: QEMU drops silently what it cannot
// write, and a crash that was not written down would look like a pass or a hang.
const minRoom = 4 << 20

// FullError says that a guest's logs do not fit on the disk, so that no verdict can be trusted.
type FullError struct {
	Dir string
	Err error // ENOSPC, or EFBIG when a file-size limit is in the way
}

func (e *FullError) Error() string {
	return fmt.Sprintf("no room for a guest's logs in %s: %v", e.Dir, e.Err)
}
func (e *FullError) Unwrap() error { return e.Err }

// Room checks that a guest's logs fit into dir. The error is a *FullError, or one of looking.
func Room(dir string) error {
	var fs unix.Statfs_t
	for {
		err := unix.Statfs(dir, &fs)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("look for room in %s: %w", dir, err)
		}
	}
	if fs.Bavail*uint64(fs.Bsize) < minRoom {
		return &FullError{Dir: dir, Err: unix.ENOSPC}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return fmt.Errorf("look at the file-size limit: %w", err)
	}
	if limit.Cur < minRoom {
		return &FullError{Dir: dir, Err: unix.EFBIG}
	}
	return nil
}
