package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// lockPoll is how often a lock that another process holds is tried. Only the
// owner of the state takes locks, so the other is one that is about to end.
const lockPoll = 20 * time.Millisecond

// Lock locks paths, for whoever is about to make or delete them, against other
// goroutines and other processes, in sorted order. unlock must be called once.
func (s *State) Lock(ctx context.Context, paths []store.Path) (unlock func(), err error) {
	names := baseNames(paths)
	release, err := s.locks.lock(ctx, names)
	if err != nil {
		return nil, err
	}
	files := make([]*os.File, 0, len(names))
	unlock = sync.OnceFunc(func() {
		for _, f := range slices.Backward(files) {
			// Removed while it is locked: whoever waits for it sees that and
			// makes a new one.
			_ = os.Remove(f.Name())
			f.Close()
		}
		release()
	})
	for _, n := range names {
		f, err := lockFile(ctx, s.path("locks", n+".lock"))
		if err != nil {
			unlock()
			return nil, fmt.Errorf("lock %s: %w", n, diskError(err))
		}
		files = append(files, f)
	}
	return unlock, nil
}

func lockFile(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		ok, err := tryLock(f)
		if ok && err == nil {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// tryLock reports whether f is locked now and still the file of its name.
func tryLock(f *os.File) (bool, error) {
	fd := int(f.Fd())
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("flock", err)
	}
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(f.Name())
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}

// baseNames are the names of paths, sorted and without duplicates.
func baseNames(paths []store.Path) []string {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = p.Base()
	}
	slices.Sort(names)
	return slices.Compact(names)
}
