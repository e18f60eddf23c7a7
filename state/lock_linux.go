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

// sliceBits is how many bits of a byte's offset say in which slice of the file it is.
// Slices are what is locked, for the kernel goes through all locks of a file to set
// one: with a lock of its own for each of 20,000 outputs, that was most of half a minute. Slices
// that are neighbours are one lock to it.
const sliceBits = 12

// sliceLocks are locks of slices of a file against other processes. Within this one,
// any number of goroutines may have the same.
type sliceLocks struct {
	file *os.File
	mu   sync.Mutex
	held [1 << sliceBits]int32 // by how many
}

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
	at := slicesOf(names)
	for i, n := range at {
		if err := s.locked.lock(ctx, n, waits); err != nil {
			s.unlock(at[:i], release)
			return nil, fmt.Errorf("lock %s: %w", s.path("locks", lockFile), diskError(err))
		}
	}
	return sync.OnceFunc(func() { s.unlock(at, release) }), nil
}

func (s *State) unlock(at []int, release func()) {
	for _, n := range at {
		s.locked.unlock(n)
	}
	release()
}

// lock waits until no other process has slice n locked.
func (l *sliceLocks) lock(ctx context.Context, n int, waits func()) error {
	for {
		err := l.tryLock(n)
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

func (l *sliceLocks) tryLock(n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[n] == 0 {
		if err := l.set(n, unix.F_WRLCK); err != nil {
			return err
		}
	}
	l.held[n]++
	return nil
}

func (l *sliceLocks) unlock(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[n]--; l.held[n] == 0 {
		// It fails only if the kernel has no memory to split a lock: then the
		// slice stays locked for others until this process ends.
		_ = l.set(n, unix.F_UNLCK)
	}
}

// set locks or unlocks slice n, without waiting. The lock belongs to the open file,
// not to the process: it ends with the last descriptor.
func (l *sliceLocks) set(n int, how int16) error {
	lock := unix.Flock_t{
		Type: how, Whence: io.SeekStart,
		Start: int64(n) << (offsetBits - sliceBits), Len: 1 << (offsetBits - sliceBits),
	}
	for {
		err := unix.FcntlFlock(l.file.Fd(), unix.F_OFD_SETLK, &lock)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fcntl", err)
		}
	}
}

// offsetBits are those of the byte of a path: a hash, cut to what every kernel takes.
const offsetBits = 62

// slicesOf are the slices in which the bytes of names are, sorted and without
// duplicates. Names in the same one exclude each other between processes for no reason,
// which does no other harm.
func slicesOf(names []string) []int {
	out := make([]int, len(names))
	for i, n := range names {
		h := fnv.New64a()
		h.Write([]byte(n))
		out[i] = int(h.Sum64() >> (64 - sliceBits))
	}
	slices.Sort(out)
	return slices.Compact(out)
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
