package nar

import (
	"crypto/sha256"
	"errors"
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
	// File, if set, is told of every file when it is written.
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
	defer func() {
		if w.writers == nil {
			return
		}
		if e := w.writers.close(); e != nil {
			err = e // which comes first in the archive
		}
	}()
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
	ends []*ending // of those
	buf  []byte

	files   int      // so many were begun
	writers *writers // nil: there are none yet, or at all
	alone   bool     // there are none at all
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
	case store.KindRegular, store.KindExecutable: // errors of the archive say where they are
		w.files++
		if at.parent != nil && e.Size <= maxAside && w.hasWriters() {
			return w.putAside(at, name, e)
		}
		return w.file(at, name, e.Kind)
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
	e := new(ending)
	e.left.Store(1)
	w.ends = append(w.ends, e)
	return nil
}

// leave ends the innermost directory, as soon as its files are written.
func (w *restorer) leave() error {
	e := w.ends[len(w.ends)-1]
	w.ends = w.ends[:len(w.ends)-1]
	e.dir = w.dirs.top()
	e.dir.hold()
	if err := e.leave(); err != nil {
		return err
	}
	return w.dirs.pop()
}

// hasWriters reports whether there are any, who are not begun before they are needed.
func (w *restorer) hasWriters() bool {
	if w.writers == nil && !w.alone {
		w.writers = newWriters(w.told)
		w.alone = w.writers == nil
	}
	return !w.alone
}

// putAside leaves a file to the writers.
func (w *restorer) putAside(at *dir, name string, e Entry) error {
	if w.writers.failed.Load() {
		return errAside
	}
	f := <-w.writers.free
	if int64(cap(f.contents)) < e.Size {
		f.contents = make([]byte, e.Size)
	}
	f.contents = f.contents[:e.Size]
	if _, err := io.ReadFull(w.r, f.contents); err != nil {
		return err
	}
	f.index, f.at, f.name, f.kind = w.files, at, name, e.Kind
	at.hold()
	f.in = w.ends[len(w.ends)-1]
	f.in.left.Add(1)
	w.writers.jobs <- f
	return nil
}

// errAside: why, the writers tell.
var errAside = errors.New("a file could not be written")

func (w *restorer) file(at *dir, name string, kind store.Kind) (err error) {
	fd, err := create(at, name)
	if err != nil {
		return insideError(at.inside(name), err)
	}
	w.made = true
	defer func() {
		if e := closeWritten(fd); err == nil {
			err = insideError(at.inside(name), e)
		}
	}()
	var h hash.Hash
	if w.told != nil && at.parent != nil {
		h = sha256.New()
	}
	for {
		n, readErr := w.r.Read(w.buf)
		if h != nil {
			h.Write(w.buf[:n])
		}
		if err := writeAll(fd, w.buf[:n]); err != nil {
			return insideError(at.inside(name), err)
		}
		if readErr == io.EOF {
			break
		}
		if readErr != nil {
			return readErr
		}
	}
	if err = finish(at, name, fd, kind); err == nil && h != nil {
		w.told(at.inside(name), kind, [sha256.Size]byte(h.Sum(nil)))
	}
	return insideError(at.inside(name), err)
}
