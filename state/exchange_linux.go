package state

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"storefs/store"
	"storefs/tree"
)

// exchange swaps two objects; the damaged one ends in scratch, writable for its
// owner so that it could move. Where it cannot move, it is removed.
func (s *State) exchange(scratch, to string, kind store.Kind) error {
	for _, p := range []string{scratch, to} {
		if st, err := os.Lstat(p); err == nil && st.IsDir() {
			if err := os.Chmod(p, 0o755); err != nil {
				return err
			}
		}
	}
	ready := s.replacement(filepath.Base(to))
	err := unix.Renameat2(unix.AT_FDCWD, scratch, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = exchangeInSteps(scratch, to, ready)
	}
	if errors.Is(err, unix.EXDEV) {
		err = replaceInSteps(scratch, to, ready)
	}
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: scratch, New: to, Err: err}
	}
	return closeMoved(to, kind)
}

// closeMoved gives a directory that was made writable, to be moved, its form again.
func closeMoved(to string, kind store.Kind) error {
	if kind != store.KindDirectory {
		return nil
	}
	// XFS gives a directory that is exchanged a new time.
	if err := setTimes(to); err != nil {
		return err
	}
	return os.Chmod(to, 0o555)
}

// exchangeInSteps is for file systems whose renames have no flags. The new object waits as
// ready, where the next owner finds it if this one is killed while there is none.
func exchangeInSteps(scratch, to, ready string) error {
	if err := os.Rename(scratch, ready); err != nil {
		return err
	}
	if err := os.Rename(to, scratch); err != nil {
		return errors.Join(err, os.Rename(ready, scratch))
	}
	if err := os.Rename(ready, to); err != nil {
		return errors.Join(err, os.Rename(scratch, to), os.Rename(ready, scratch))
	}
	return nil
}

// replaceInSteps is for what cannot be moved (see moveOut). The new object has been in the
// store before the old one is removed: so nothing is lost where that is what cannot be moved.
// Then it waits as above, until the old one is removed.
func replaceInSteps(scratch, to, ready string) error {
	beside := to + ".new"
	if err := makeRoom(beside, func() error { return renameNew(scratch, beside) }); err != nil {
		return err
	}
	if err := os.Rename(beside, ready); err != nil {
		return errors.Join(err, os.Rename(beside, scratch))
	}
	if err := tree.RemoveAll(to); err != nil {
		return errors.Join(err, os.Rename(ready, scratch))
	}
	return os.Rename(ready, to)
}

// replacementPrefix begins the names in builds/ of what is ready to take the place of a
// damaged object, whose name is the rest.
const replacementPrefix = "replaces-"

func (s *State) replacement(name string) string { return s.path("builds", replacementPrefix+name) }

// finishReplacing puts what is ready for the object called name in its place, if that is
// valid: an owner that was killed may have removed some of it already.
func (s *State) finishReplacing(name string) error {
	if invalid, err := s.db.NotValid([]string{name}); err != nil || len(invalid) > 0 {
		return err
	}
	ready, to := s.replacement(name), s.path("real", name)
	kind, err := kindOf(ready)
	if err != nil {
		return err
	}
	if err := tree.RemoveAll(to); err != nil {
		return err
	}
	if err := os.Rename(ready, to); err != nil {
		return err
	}
	return closeMoved(to, kind)
}
