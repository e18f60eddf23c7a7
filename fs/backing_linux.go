package fs

import (
	"container/list"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxOpen bounds the descriptors that are kept open for reading. With no-open
// the kernel does not tell when a file is closed, so one a file would end in
// EMFILE.
const maxOpen = 512

// maxPath leaves room below the 4096 bytes that one system call accepts.
const maxPath = 4000

// backing reaches the objects by directory descriptors only: never by a path
// that could lead through the mount, never following a link.
type backing struct {
	real int // O_PATH descriptor of the directory of objects

	mu   sync.Mutex
	open map[uint64]*list.Element // of *openFile, by node id
	lru  *list.List               // most recently used first
	era  uint64                   // changed when objects were replaced: see renew
}

// openFile is a descriptor of a node's file or directory. It is closed when it
// has left the cache and nobody uses it any more.
type openFile struct {
	fd    int
	id    uint64
	users int  // guarded by backing.mu
	gone  bool // no longer in the cache; guarded by backing.mu
}

func openBacking(dir string) (*backing, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	b := &backing{real: fd, open: make(map[uint64]*list.Element), lru: list.New()}
	probe, err := openBeneath(fd, []string{"."}, unix.O_PATH)
	if err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("open %s: openat2 does not work here, it needs Linux 5.6 or later and no filter against it: %w", dir, err)
		}
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	unix.Close(probe)
	return b, nil
}

// openBeneath opens the path below dir without following any link.
func openBeneath(dir int, path []string, flags uint64) (int, error) {
	how := &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	at := dir
	for {
		n, size := 0, 0
		for n < len(path) && (n == 0 || size+len(path[n]) < maxPath) {
			size += len(path[n]) + 1
			n++
		}
		last := n == len(path)
		h := *how
		if !last {
			h.Flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
		}
		fd, err := openRetry(at, strings.Join(path[:n], "/"), &h)
		if at != dir {
			unix.Close(at)
		}
		if err != nil || last {
			return fd, err
		}
		at, path = fd, path[n:]
	}
}

// openRetry is openat2, again when a signal or a concurrent rename anywhere in
// the system got in the way.
func openRetry(dir int, path string, how *unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(dir, path, how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// reach opens n by its path. What has that path when n is gone is another object's,
// if that is not the same. Then the kernel must be right about its size.
func (b *backing) reach(n *node, flags uint64) (int, error) {
	fd, err := openBeneath(b.real, n.path(), flags)
	if err != nil {
		return -1, err
	}
	if !n.object().gone.Load() {
		return fd, nil
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && (n.differs(&st) || n.stale()) {
		err = unix.ENOENT
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// acquire returns an open descriptor of n, which must be real. The caller
// releases it.
func (b *backing) acquire(n *node) (*openFile, error) {
	for {
		b.mu.Lock()
		f, era := b.cached(n.id), b.era
		b.mu.Unlock()
		if f != nil {
			return f, nil
		}
		fd, err := b.reach(n, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			return nil, err
		}
		if f = b.keep(n, fd, era); f != nil {
			return f, nil
		}
	}
}

// keep puts what was opened for n, in that era, into the cache, if there is nothing. It
// returns nil if it may be of an object that was replaced meanwhile.
func (b *backing) keep(n *node, fd int, era uint64) *openFile {
	b.mu.Lock()
	f := b.cached(n.id)
	if f != nil || b.era != era {
		b.mu.Unlock()
		unix.Close(fd)
		return f
	}
	f = &openFile{fd: fd, id: n.id, users: 1}
	b.open[n.id] = b.lru.PushFront(f)
	var unused []int
	for b.lru.Len() > maxOpen {
		unused = append(unused, b.remove(b.lru.Back())...)
	}
	b.mu.Unlock()
	closeAll(unused)
	return f
}

// cached is one more use of what the cache has, or nil. b.mu is held.
func (b *backing) cached(id uint64) *openFile {
	e := b.open[id]
	if e == nil {
		return nil
	}
	b.lru.MoveToFront(e)
	f := e.Value.(*openFile)
	f.users++
	return f
}

// remove takes e out of the cache and returns the descriptor to close, if
// nobody uses it. b.mu is held.
func (b *backing) remove(e *list.Element) []int {
	f := b.lru.Remove(e).(*openFile)
	delete(b.open, f.id)
	f.gone = true
	if f.users == 0 {
		return []int{f.fd}
	}
	return nil
}

func (b *backing) release(f *openFile) {
	b.mu.Lock()
	f.users--
	unused := f.gone && f.users == 0
	b.mu.Unlock()
	if unused {
		unix.Close(f.fd)
	}
}

// holds reports whether a descriptor of a regular file is kept for the node id.
func (b *backing) holds(id uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.open[id]
	if e == nil {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(e.Value.(*openFile).fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// forget closes what is open for a node that no longer exists.
func (b *backing) forget(id uint64) {
	b.mu.Lock()
	var unused []int
	if e := b.open[id]; e != nil {
		unused = b.remove(e)
	}
	b.mu.Unlock()
	closeAll(unused)
}

// renew closes what is open for nodes whose object was replaced: each is opened anew, and
// so is what is being opened now.
func (b *backing) renew(ids []uint64) {
	b.mu.Lock()
	b.era++
	var unused []int
	for _, id := range ids {
		if e := b.open[id]; e != nil {
			unused = append(unused, b.remove(e)...)
		}
	}
	b.mu.Unlock()
	closeAll(unused)
}

// close closes everything; nobody uses it any more.
func (b *backing) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.lru.Len() > 0 {
		closeAll(b.remove(b.lru.Back()))
	}
	unix.Close(b.real)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// at calls f with a descriptor of the directory that n is in.
func (b *backing) at(n *node, f func(dir int) error) error {
	dir := b.real
	if n.parent.kind != kindRoot {
		o, err := b.acquire(n.parent)
		if err != nil {
			return err
		}
		defer b.release(o)
		dir = o.fd
	}
	err := f(dir)
	if err == nil && n.stale() {
		return unix.ENOENT
	}
	return err
}

// stat describes n itself, also when it is a link.
func (b *backing) stat(n *node) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := b.at(n, func(dir int) (err error) {
		st, err = statAt(dir, n.name)
		return err
	})
	return st, err
}

// statIn describes what is called name in the directory n, if it is there.
func (b *backing) statIn(n *node, name string) (st unix.Stat_t, there bool, err error) {
	if n.kind == kindRoot {
		st, err = statAt(b.real, name)
		if err == unix.ENOENT {
			return st, false, nil
		}
		return st, err == nil, err
	}
	for {
		f, err := b.acquire(n)
		if err != nil {
			return st, false, err
		}
		st, err = statAt(f.fd, name)
		// A descriptor from before the object was deleted, or made anew, is that of
		// a directory which is being emptied. What is not in it may be in another
		// one, and the kernel would remember that it is not there.
		old := err == unix.ENOENT && !b.still(n, f)
		b.release(f)
		switch {
		case old:
			b.forget(n.id)
		case err == unix.ENOENT:
			return st, false, nil
		default:
			return st, err == nil, err
		}
	}
}

// still reports whether n is the directory f.
func (b *backing) still(n *node, f *openFile) bool {
	fd, err := b.reach(n, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var now, then unix.Stat_t
	return unix.Fstat(fd, &now) == nil && unix.Fstat(f.fd, &then) == nil && now.Ino == then.Ino && now.Dev == then.Dev
}

func statAt(dir int, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// readlink writes the target of the link n to buf, and returns its length.
func (b *backing) readlink(n *node, buf []byte) (size int, err error) {
	err = b.at(n, func(dir int) (err error) {
		size, err = unix.Readlinkat(dir, n.name, buf)
		return err
	})
	return size, err
}
