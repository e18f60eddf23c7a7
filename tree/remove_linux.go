// Package tree removes, and measures, file trees that builders and store objects leave: read-only,
// closed, or deeper than a path can name. It knows nothing of stores.
package tree

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxOpenDirs is how deep RemoveAll descends with a descriptor for each level.
// What is deeper is moved up first: a builder may nest deeper than a process
// may open files or than a path may be long.
const maxOpenDirs = 64

// RemoveAll removes whatever is at path, which may be nothing. Unlike
// os.RemoveAll it removes what is in read-only directories, as those of store
// objects are, also for an ordinary user, and trees of any depth. It follows no
// link below path's parent, and does not enter other file systems' roots by
// force: a mount below path is an error.
func RemoveAll(path string) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	defer unix.Close(parent)
	if err := RemoveIn(parent, filepath.Base(path)); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// RemoveIn is RemoveAll of what has that name in an open directory.
func RemoveIn(dir int, name string) error {
	r := remover{top: dir, name: name}
	for {
		if err := r.remove(dir, r.name, 0); err != nil {
			return err
		}
		// What was moved up is beside it now.
		if len(r.moved) == 0 {
			return nil
		}
		r.name = r.moved[len(r.moved)-1]
		r.moved = r.moved[:len(r.moved)-1]
	}
}

type remover struct {
	top   int    // the directory that path is in
	name  string // what is being removed now
	moved []string
}

// remove removes name in the directory dir.
func (r *remover) remove(dir int, name string, depth int) error {
	err := unix.Unlinkat(dir, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR):
		return fmt.Errorf("%s: %w", name, err)
	}
	if depth > maxOpenDirs {
		// What cannot be moved, as what overlayfs has from below, or anything on a Btrfs that is
		// full, is gone down into, as far as files can be opened.
		if err := r.moveUp(dir, name); !errors.Is(err, unix.EXDEV) && !isFull(err) {
			return err
		}
	}
	f, err := openForRemoval(dir, name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(1024)
		for _, n := range names {
			if err := r.remove(int(f.Fd()), n, depth+1); err != nil {
				return fmt.Errorf("%s/%w", name, err)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// moveUp puts a directory beside the one that is to be removed, to be removed
// later.
func (r *remover) moveUp(dir int, name string) error {
	// A directory changes its ".." when it moves, so it must be writable.
	f, err := openForRemoval(dir, name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	f.Close()
	for {
		// By chance nobody else's: not all file systems have RENAME_NOREPLACE.
		to := fmt.Sprintf(".removing-%d-%x", os.Getpid(), rand.Uint64())
		err := unix.Renameat(dir, name, r.top, to)
		switch {
		case err == nil:
			r.moved = append(r.moved, to)
			return nil
		case !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTEMPTY):
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// openForRemoval opens a directory, and lets its owner read and change it first.
func openForRemoval(dir int, name string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, name, flags, 0)
	if errors.Is(err, unix.EACCES) {
		// Nobody else works on the tree, so that what is a directory stays one.
		if err := unix.Fchmodat(dir, name, 0o700, 0); err != nil {
			return nil, err
		}
		fd, err = unix.Openat(dir, name, flags, 0)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&0o700 != 0o700 && int(st.Uid) == os.Geteuid() {
		// On a Btrfs that is full, a mode cannot be changed, and files can be removed: root
		// does not need the mode, and who does is told so then.
		if err := unix.Fchmod(fd, 0o700); err != nil && !isFull(err) {
			unix.Close(fd)
			return nil, err
		}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
