package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// data is how the contents of files reach the kernel: OPEN is refused once and
// for all (no-open: ENOSYS makes the kernel open files by itself from then on,
// which saves two round trips a file), and READ is answered by pread.
type data struct {
	backing *backing
}

// open answers OPEN and OPENDIR.
func (d data) open() fuse.Status { return fuse.ENOSYS }

// read answers READ of a regular file.
func (d data) read(n *node, offset uint64, buf []byte) (fuse.ReadResult, fuse.Status) {
	f, err := d.backing.acquire(n)
	if err != nil {
		return nil, lost(err)
	}
	defer d.backing.release(f)
	for {
		size, err := unix.Pread(f.fd, buf, int64(offset))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fuse.ToStatus(err)
		}
		return fuse.ReadResultData(buf[:size]), fuse.OK
	}
}

// seek answers LSEEK, which the kernel sends for SEEK_DATA and SEEK_HOLE only.
// It moves the position of a shared descriptor, which nothing else uses.
func (d data) seek(n *node, offset uint64, whence uint32) (uint64, fuse.Status) {
	f, err := d.backing.acquire(n)
	if err != nil {
		return 0, lost(err)
	}
	defer d.backing.release(f)
	pos, err := unix.Seek(f.fd, int64(offset), int(whence))
	if err != nil {
		return 0, fuse.ToStatus(err)
	}
	return uint64(pos), fuse.OK
}
