package state

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// syncGroup lets concurrent callers share one syncfs: everything that is to
// become durable is on one file system, and a syncfs costs the same for many
// files as for one.
type syncGroup struct {
	fd      int        // anything on the file system
	running sync.Mutex // held by the one that syncs
	mu      sync.Mutex // guards next
	next    *syncRound
}

// syncRound is one syncfs that has not begun yet.
type syncRound struct {
	done chan struct{}
	err  error
}

// wait returns when everything that was written before the call is on disk.
func (g *syncGroup) wait() error {
	g.mu.Lock()
	r := g.next
	if r != nil {
		// It has not begun, so it covers what this caller wrote.
		g.mu.Unlock()
		<-r.done
		return r.err
	}
	r = &syncRound{done: make(chan struct{})}
	g.next = r
	g.mu.Unlock()

	g.running.Lock()
	defer g.running.Unlock()
	g.mu.Lock()
	g.next = nil
	g.mu.Unlock()
	if err := unix.Syncfs(g.fd); err != nil {
		r.err = diskError(os.NewSyscallError("syncfs", err))
	}
	close(r.done)
	return r.err
}

// syncNames makes the names in real/ durable. It runs before each commit that
// makes paths valid: the sync before the rename covered only what they name.
func (s *State) syncNames() error {
	if err := unix.Fsync(int(s.real.Fd())); err != nil {
		return diskError(fmt.Errorf("sync %s: %w", s.real.Name(), err))
	}
	return nil
}

// diskError marks the errors that mean a full disk.
func diskError(err error) error {
	if err == nil || errors.Is(err, store.ErrNoSpace) {
		return err
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", store.ErrNoSpace, err)
	}
	return err
}
