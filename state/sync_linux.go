package state

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// syncObjects makes everything durable that was renamed into real/, with its
// name. It runs once before each commit that makes paths valid: a syncfs costs
// the same for many files as for one.
func (s *State) syncObjects() error {
	if err := unix.Syncfs(int(s.real.Fd())); err != nil {
		return diskError(fmt.Errorf("sync %s: %w", s.real.Name(), os.NewSyscallError("syncfs", err)))
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
