package builder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxOpen is how many directories in one another are open at a time while a
// tree is removed.
const maxOpen = 100

// removeTree removes the directory called path with what a builder left in it:
// directories that even their owner may not change, or more of them in one
// another than a path can name or a process can have open. It follows no link.
func removeTree(path string) error {
	top, err := openToEmpty(unix.AT_FDCWD, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer top.Close()
	r := remover{top: int(top.Fd())}
	if err := r.empty(top, 0); err != nil {
		return err
	}
	for len(r.moved) > 0 {
		name := r.moved[0]
		r.moved = r.moved[1:]
		if err := r.removeDir(r.top, name, 0); err != nil {
			return err
		}
	}
	return os.Remove(path)
}

// remover empties a directory. What lies deep it moves to the top, and comes to
// it later.
type remover struct {
	top   int      // the directory's descriptor
	moved []string // names in it
	moves int
}

// openToEmpty opens a directory, having given its owner every right to it.
func openToEmpty(at int, name string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(at, name, flags, 0)
	if err == unix.EACCES {
		if err = unix.Fchmodat(at, name, 0o700, 0); err == nil {
			fd, err = unix.Openat(at, name, flags, 0)
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if os.Geteuid() != 0 {
		if err := unix.Fchmod(fd, 0o700); err != nil {
			unix.Close(fd)
			return nil, &fs.PathError{Op: "chmod", Path: name, Err: err}
		}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (r *remover) empty(dir *os.File, depth int) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	fd := int(dir.Fd())
	for _, name := range names {
		err := unix.Unlinkat(fd, name, 0)
		switch {
		case err == unix.EISDIR && depth == maxOpen:
			err = r.moveUp(fd, name)
		case err == unix.EISDIR:
			err = r.removeDir(fd, name, depth)
		case err != nil:
			err = &fs.PathError{Op: "unlink", Path: name, Err: err}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *remover) removeDir(at int, name string, depth int) error {
	dir, err := openToEmpty(at, name)
	if err != nil {
		return err
	}
	err = r.empty(dir, depth+1)
	dir.Close()
	if err == nil {
		err = os.NewSyscallError("rmdir", unix.Unlinkat(at, name, unix.AT_REMOVEDIR))
	}
	return err
}

// moveUp leaves a directory for later.
func (r *remover) moveUp(at int, name string) error {
	// To give it another parent is to write into it.
	if err := unix.Fchmodat(at, name, 0o700, 0); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	r.moves++
	to := fmt.Sprintf(".moved-%d", r.moves)
	if err := unix.Renameat(at, name, r.top, to); err != nil {
		return os.NewSyscallError("rename", err)
	}
	r.moved = append(r.moved, to)
	return nil
}
