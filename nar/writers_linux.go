package nar

import (
	"crypto/sha256"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"storefs/store"
)

const (
	// maxAside is the largest file that is written aside: of larger ones, the contents
	// need not be in memory at once.
	maxAside = 256 << 10
	// filesAside is how many may wait to be written, or be written.
	filesAside = 16
	// maxWriters is the most goroutines that write them.
	maxWriters = 4
)

// writers write the files of an archive beside the goroutine that takes it apart: to
// make a small file takes longer than to read and hash it.
type writers struct {
	told FileFunc
	free chan *aside
	jobs chan *aside
	wg   sync.WaitGroup

	failed atomic.Bool
	mu     sync.Mutex
	err    error // of the first in the archive that failed
	at     int   // which that is
}

// aside is a file that is to be written.
type aside struct {
	index    int // in the archive
	at       *dir
	in       *ending // of at
	name     string
	kind     store.Kind
	contents []byte
}

// ending is the end of a directory, which has to wait for its files: each of them
// changes its time, and may not be made once the directory is read-only.
type ending struct {
	dir  *dir         // which is held for it; set when the archive ends it
	left atomic.Int32 // files to be written, and one as long as more may come
}

// newWriters returns nil where they would have no processor of their own.
func newWriters(told FileFunc) *writers {
	n := min(runtime.GOMAXPROCS(0), maxWriters)
	if n < 2 {
		return nil
	}
	w := &writers{told: told, free: make(chan *aside, filesAside), jobs: make(chan *aside, filesAside)}
	for range filesAside {
		w.free <- new(aside)
	}
	for range n {
		w.wg.Go(w.work)
	}
	return w
}

func (w *writers) work() {
	for f := range w.jobs {
		var err error
		if !w.failed.Load() {
			err = f.write(w.told)
		}
		f.at.release()
		if e := f.in.leave(); err == nil {
			err = e
		}
		if err != nil {
			w.fail(f.index, err)
		}
		w.free <- f
	}
}

func (w *writers) fail(index int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil || index < w.at {
		w.err, w.at = err, index
	}
	w.failed.Store(true)
}

// close waits until nothing is written any more.
func (w *writers) close() error {
	close(w.jobs)
	w.wg.Wait()
	return w.err
}

// leave ends the directory if nothing is left to be done in it.
func (e *ending) leave() error {
	if e.left.Add(-1) > 0 {
		return nil
	}
	d := e.dir
	defer d.release()
	err := os.NewSyscallError("chmod", unix.Fchmod(d.fd, 0o555))
	if err == nil {
		err = setTime(d, ".")
	}
	return insideError(d.path(), err)
}

func (f *aside) write(told FileFunc) error {
	path := f.at.inside(f.name)
	fd, err := create(f.at, f.name)
	if err != nil {
		return insideError(path, err)
	}
	if err = writeAll(fd, f.contents); err == nil {
		err = finish(f.at, f.name, fd, f.kind)
	}
	if e := closeWritten(fd); err == nil {
		err = e
	}
	if err == nil && told != nil {
		told(path, f.kind, sha256.Sum256(f.contents))
	}
	return insideError(path, err)
}

func create(at *dir, name string) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(at.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	return fd, os.NewSyscallError("create", err)
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := retry(func() (int, error) { return unix.Write(fd, b) })
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		b = b[n:]
	}
	return nil
}

// closeWritten closes a file that was written: NFS, and file systems in user space, may
// say only then that there was no space for what was written, or no quota.
func closeWritten(fd int) error { return os.NewSyscallError("close", unix.Close(fd)) }

// finish gives a file that was written its mode and time.
func finish(at *dir, name string, fd int, kind store.Kind) error {
	mode := uint32(0o444)
	if kind == store.KindExecutable {
		mode = 0o555
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	return setTime(at, name)
}
