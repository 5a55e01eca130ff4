// Package flock owns locks between processes that the kernel drops with their holder, SIGKILL included.
//
// What a lock protects, and where its file is, is for its user to say.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is a flock that is held.
type Lock struct{ f *os.File }

// Take takes the lock of a file, which it creates, for oneself. waiting, if not nil, is called once if it is held.
func Take(ctx context.Context, name string, waiting func()) (*Lock, error) {
	return lock(ctx, name, unix.LOCK_EX, waiting)
}

// Share takes the lock of a file as Take does, but beside others who share it.
func Share(ctx context.Context, name string, waiting func()) (*Lock, error) {
	return lock(ctx, name, unix.LOCK_SH, waiting)
}

func lock(ctx context.Context, name string, how int, waiting func()) (*Lock, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	// flock cannot be waited for together with a context.
	const interval = 50 * time.Millisecond
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return &Lock{f}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if first && waiting != nil {
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for lock %s: %w", name, ctx.Err())
		case <-time.After(interval):
		}
	}
}

// Unlock lets the next one in.
func (l *Lock) Unlock() { l.f.Close() }

// TryDir takes the lock of a folder for oneself, or says that somebody holds it.
func TryDir(name string) (*Lock, bool, error) { return tryDir(name, unix.LOCK_EX) }

// TryShareDir takes the lock of a folder beside others who share it, or says that somebody holds it alone.
func TryShareDir(name string) (*Lock, bool, error) { return tryDir(name, unix.LOCK_SH) }

func tryDir(name string, how int) (*Lock, bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, false, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("lock %s: %w", name, err)
	}
	return &Lock{f}, true, nil
}
