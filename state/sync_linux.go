package state

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// since is when something was begun that is to be registered. A sync that fails is
// told to one who calls it, once, and may have failed of what any other has written
// until then, in scratch, too: what the kernel keeps of that in memory it takes for
// written, and the next sync succeeds.
type since struct {
	state *State
	lost  *error // of the last sync that had failed by then, nil if none had
}

func (s *State) since() since { return since{s, s.lost.Load()} }

// Err refuses what may be lost.
func (b *since) Err() error {
	if lost := b.state.lost.Load(); lost != b.lost {
		return fmt.Errorf("it may be lost, as what was written meanwhile could not be synced: %w", *lost)
	}
	return nil
}

// syncObjects makes everything durable that was renamed into real/, with its
// name. It runs once before each commit that makes paths valid: a syncfs costs
// the same for many files as for one.
func (s *State) syncObjects() error {
	if err := unix.Syncfs(int(s.real.Fd())); err != nil {
		err = diskError(fmt.Errorf("sync %s: %w", s.real.Name(), os.NewSyscallError("syncfs", err)))
		s.lost.Store(&err)
		return err
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
