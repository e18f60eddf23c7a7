package state

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// lockFile is the file in locks/ of which every path is a byte: to lock that
// makes no files, which would cost more than all the rest.
const lockFile = "outputs"

// lockPoll is how often a lock that another process holds is tried. Only the
// owner of the state takes locks, so the other is one that is about to end.
const lockPoll = 20 * time.Millisecond

// Lock locks paths, for whoever is about to make or delete them, against other
// goroutines and other processes, in sorted order. waits, if not nil, is called
// once if they are not to be had at once. unlock must be called once.
func (s *State) Lock(ctx context.Context, paths []store.Path, waits func()) (unlock func(), err error) {
	if waits != nil {
		waits = sync.OnceFunc(waits)
	}
	names := baseNames(paths)
	release, err := s.locks.lock(ctx, names, waits)
	if err != nil {
		return nil, err
	}
	for i, n := range names {
		if err := lockByte(ctx, s.locked, n, waits); err != nil {
			s.unlock(names[:i], release)
			return nil, fmt.Errorf("lock %s: %w", n, diskError(err))
		}
	}
	return sync.OnceFunc(func() { s.unlock(names, release) }), nil
}

func (s *State) unlock(names []string, release func()) {
	for _, n := range slices.Backward(names) {
		// It fails only if the kernel has no memory to split a lock: then the
		// byte stays locked for others until this process ends.
		_ = setLock(s.locked, n, unix.F_UNLCK)
	}
	release()
}

// lockByte waits until no other process has the byte of name locked.
func lockByte(ctx context.Context, f *os.File, name string, waits func()) error {
	for {
		err := setLock(f, name, unix.F_WRLCK)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return err
		}
		if waits != nil {
			waits()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// setLock locks or unlocks the byte of name, without waiting. The lock belongs
// to the open file, not to the process: it ends with the last descriptor.
func setLock(f *os.File, name string, how int16) error {
	h := fnv.New64a()
	h.Write([]byte(name))
	// Offsets are 63 bits. Two names of the same byte would exclude each other
	// between processes for no reason, and do no other harm.
	l := unix.Flock_t{Type: how, Whence: io.SeekStart, Start: int64(h.Sum64() >> 2), Len: 1}
	for {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fcntl", err)
		}
	}
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
