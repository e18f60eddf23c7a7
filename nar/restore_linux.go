package nar

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"storefs/store"
	trees "storefs/tree"
)

// RestoreOptions bounds what Restore does.
type RestoreOptions struct {
	MaxSize int64 // of the archive in bytes; 0 is no bound
	// File, if set, is told of every file as it is written.
	File FileFunc
}

// Restore makes the file, link or directory dest, which must not exist yet, of
// the archive that is all of r. Its form is canonical (modes 0444 and 0555,
// modification time 1); its owner is whoever calls. Nothing in the archive can
// make it write outside of dest. After an error, nothing is left of what it made.
func Restore(r io.Reader, dest string, o RestoreOptions) error {
	w := restorer{r: NewReader(r, o.MaxSize), told: o.File, buf: make([]byte, 64<<10)}
	if err := w.restore(dest); err != nil {
		return fmt.Errorf("restore %s: %w", dest, err)
	}
	return nil
}

func (w *restorer) restore(dest string) (err error) {
	base, name, err := openParent(dest)
	if err != nil {
		return err
	}
	defer base.release()
	top := name
	defer func() {
		if err == nil || !w.made {
			return
		}
		// In the directory that it is in: by its path, it might be something else.
		if e := trees.RemoveIn(base.fd, top); e != nil {
			err = fmt.Errorf("%w (and remove it: %w)", err, e)
		}
	}()
	defer w.dirs.close()
	for {
		e, err := w.r.Next()
		if err != nil && err != io.EOF {
			return err
		}
		for len(w.dirs) > e.Depth { // 0 at the end
			if err := w.leave(); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		at := base
		if e.Depth > 0 {
			at, name = w.dirs.top(), e.Name
		}
		if err := w.make(at, name, e); err != nil {
			return err
		}
	}
}

// restorer creates everything relative to an open directory that it made itself,
// and only where nothing is yet: no link can lead it away.
type restorer struct {
	r    *Reader
	told FileFunc
	made bool // something, so what is at the destination is its own
	dirs lineage
	buf  []byte
}

func (w *restorer) make(at *dir, name string, e Entry) error {
	var err error
	switch e.Kind {
	case store.KindDirectory:
		err = w.enter(at, name)
	case store.KindSymlink:
		if err = unix.Symlinkat(e.Target, at.fd, name); err == nil {
			w.made = true
			err = setTime(at, name)
		}
		if err == nil && w.told != nil && at.parent != nil {
			w.told(at.inside(name), e.Kind, sha256.Sum256([]byte(e.Target)))
		}
	case store.KindRegular:
		return w.file(at, name, e.Kind, 0o444) // errors of the archive say where they are
	case store.KindExecutable:
		return w.file(at, name, e.Kind, 0o555)
	}
	return insideError(at.inside(name), err)
}

func (w *restorer) enter(at *dir, name string) error {
	if err := unix.Mkdirat(at.fd, name, 0o700); err != nil {
		return os.NewSyscallError("mkdir", err)
	}
	w.made = true
	d, _, err := at.openDir(name)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	w.dirs.push(d)
	return nil
}

// leave ends the innermost directory.
func (w *restorer) leave() error {
	d := w.dirs.top()
	err := os.NewSyscallError("chmod", unix.Fchmod(d.fd, 0o555))
	if err == nil {
		err = setTime(d, ".")
	}
	if err != nil {
		return insideError(d.path(), err)
	}
	return w.dirs.pop()
}

func (w *restorer) file(at *dir, name string, kind store.Kind, mode uint32) error {
	fd, err := retry(func() (int, error) {
		return unix.Openat(at.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return insideError(at.inside(name), os.NewSyscallError("create", err))
	}
	w.made = true
	defer unix.Close(fd)
	var h hash.Hash
	if w.told != nil && at.parent != nil {
		h = sha256.New()
	}
	for {
		n, readErr := w.r.Read(w.buf)
		if h != nil {
			h.Write(w.buf[:n])
		}
		for b := w.buf[:n]; len(b) > 0; {
			written, err := retry(func() (int, error) { return unix.Write(fd, b) })
			if err != nil {
				return insideError(at.inside(name), os.NewSyscallError("write", err))
			}
			b = b[written:]
		}
		if readErr == io.EOF {
			break
		}
		if readErr != nil {
			return readErr
		}
	}
	if err = os.NewSyscallError("chmod", unix.Fchmod(fd, mode)); err == nil {
		err = setTime(at, name)
	}
	if err == nil && h != nil {
		w.told(at.inside(name), kind, [sha256.Size]byte(h.Sum(nil)))
	}
	return insideError(at.inside(name), err)
}
