package fs

import (
	"context"
	"errors"
	"syscall"

	"storefs/store"
)

// Errno is what a caller of the mount sees of err. It is the only place where
// that is decided.
func Errno(err error) syscall.Errno {
	var failure *store.Failure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &failure) && failure.Cause == store.CauseUnknown && len(failure.Chain) > 1:
		// The name is known, one of its inputs is not: ENOENT would tell the
		// caller that the name does not exist.
		return syscall.EIO
	case errors.Is(err, store.ErrUnknown), errors.Is(err, store.ErrBadPath):
		return syscall.ENOENT
	case errors.Is(err, store.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return syscall.ETIMEDOUT
	case errors.Is(err, store.ErrUnreachable):
		return syscall.EHOSTUNREACH
	case errors.Is(err, store.ErrNoSpace), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return syscall.ENOSPC
	case errors.Is(err, store.ErrNotAllowed):
		return syscall.EACCES
	case errors.Is(err, errWrite):
		return syscall.EROFS
	case errors.Is(err, errKilled):
		return syscall.EINTR
	case errors.Is(err, errEnded):
		return syscall.ENODEV
	case errors.Is(err, store.ErrCancelled), errors.Is(err, context.Canceled):
		// Not EINTR: callers would take it for a signal and ask again.
		return syscall.ECANCELED
	}
	return syscall.EIO
}

// Reasons of the mount itself to end a wait.
var (
	errWrite  = errors.New("the store is read-only")
	errKilled = errors.New("caller was killed")
	errEnded  = errors.New("the mount has ended")
)
