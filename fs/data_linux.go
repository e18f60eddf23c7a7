package fs

import (
	"io"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Data is how the contents of files reach the kernel.
//
// The kernel settles it for the whole mount: the first OPEN that is answered
// ENOSYS ends all OPENs, and passthrough is chosen in the answer to an OPEN. So
// small files without OPEN and big ones by passthrough exclude each other.
type Data string

// The ways.
const (
	// DataAuto is DataNoOpen: warm, it costs what the backing file system
	// costs, whatever the size of files, while an OPEN for each makes walks
	// over small files several times as slow. Only the first read of a big
	// file that the backing file system has in memory is faster by
	// passthrough, and no privilege and no file system makes more of it.
	DataAuto Data = "auto"
	// DataNoOpen: the kernel opens files by itself, without a request, and
	// keeps what it read in its page cache. It needs no privilege. What a
	// process has open can be read after its deletion only as far as the
	// kernel has it.
	DataNoOpen Data = "noopen"
	// DataPassthrough: the kernel asks at each open, and then reads the backing
	// file by itself, so that nothing is in memory twice. It needs Linux 6.9
	// and CAP_SYS_ADMIN outside of user namespaces.
	DataPassthrough Data = "passthrough"
	// DataCached: the kernel asks at each open, and keeps what it read in its
	// page cache.
	DataCached Data = "cached"
)

// choose is d, or what auto means.
func (d Data) choose() Data {
	if d == "" || d == DataAuto {
		return DataNoOpen
	}
	return d
}

// data serves the contents of files. Without handles, OPEN is refused once and
// for all; with them, every file is opened here too, and what is open keeps its
// descriptor.
type data struct {
	backing *backing
	handles *handles // nil: no-open
}

// open answers OPEN.
func (d data) open(n *node, out *fuse.OpenOut) fuse.Status {
	if d.handles == nil {
		return fuse.ENOSYS
	}
	// What never changes is kept from one open to the next.
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if n.kind == kindControlFile {
		return fuse.OK
	}
	id, err := d.handles.open(n)
	switch err {
	case nil:
	case unix.EMFILE:
		// The limit that was reached is not the caller's.
		return fuse.Status(syscall.ENFILE)
	default:
		return lost(err)
	}
	if id != 0 {
		out.OpenFlags = fuse.FOPEN_PASSTHROUGH
		out.BackingID = id
	}
	return fuse.OK
}

// release takes one open of the node back. It does nothing for a node that is
// not open.
func (d data) release(id uint64) {
	if d.handles != nil {
		d.handles.release(id)
	}
}

func (d data) forget(id uint64) {
	d.backing.forget(id)
	if d.handles != nil {
		d.handles.forget(id)
	}
}

// holds reports whether the file that is the node id is open here.
func (d data) holds(id uint64) bool {
	return d.backing.holds(id) || d.handles != nil && d.handles.holds(id)
}

// with calls f with a descriptor of the file n.
func (d data) with(n *node, f func(fd int) error) error {
	if d.handles != nil {
		if fd, ok := d.handles.use(n.id); ok {
			defer d.handles.release(n.id)
			return f(fd)
		}
	}
	o, err := d.backing.acquire(n)
	if err != nil {
		return err
	}
	defer d.backing.release(o)
	return f(o.fd)
}

// stat describes a file that somebody has open, and which may be deleted.
func (d data) stat(n *node) (st unix.Stat_t, ok bool) {
	if d.handles == nil {
		return st, false
	}
	fd, ok := d.handles.share(n.id)
	if !ok {
		return st, false
	}
	defer d.handles.release(n.id)
	err := unix.Fstat(fd, &st)
	return st, err == nil
}

// read reads a regular file to buf and returns how much there was.
func (d data) read(n *node, offset uint64, buf []byte) (size int, st fuse.Status) {
	err := d.with(n, func(fd int) (err error) {
		for {
			if size, err = unix.Pread(fd, buf, int64(offset)); err != unix.EINTR {
				return err
			}
		}
	})
	if err != nil {
		return 0, lost(err)
	}
	return size, fuse.OK
}

// fill puts the answer to a READ of up to size bytes of a regular file into p.
// At the file's end there may be none, which is an error.
func (d data) fill(p *pipe, unique uint64, n *node, offset uint64, size int) error {
	return d.with(n, func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		left := st.Size - int64(offset)
		if left <= 0 {
			return io.EOF
		}
		return p.fill(unique, fd, int64(offset), int(min(left, int64(size))))
	})
}

// seek answers LSEEK, which the kernel sends for SEEK_DATA and SEEK_HOLE only.
// It moves the position of a shared descriptor, which nothing else uses.
func (d data) seek(n *node, offset uint64, whence uint32) (uint64, fuse.Status) {
	var pos int64
	err := d.with(n, func(fd int) (err error) {
		pos, err = unix.Seek(fd, int64(offset), int(whence))
		return err
	})
	if err != nil {
		return 0, lost(err)
	}
	return uint64(pos), fuse.OK
}
