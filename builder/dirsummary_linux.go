package builder

import (
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dirSummary is all in which an empty directory can differ from a new one, but
// for times.
type dirSummary struct {
	mode       uint16
	uid, gid   uint32
	links      uint32
	size       uint64
	attributes uint64
	flags      fsxattr
	xattrs     int // bytes of their names; ACLs are among them
}

// fsxattr is struct fsxattr of linux/fs.h: flags as chattr sets them, and the
// project.
type fsxattr struct {
	flags, extentSize, extents, project, copyExtentSize uint32
	_                                                   [8]byte
}

// ioctlGetFSXAttr is FS_IOC_FSGETXATTR.
const ioctlGetFSXAttr = 2<<30 | unsafe.Sizeof(fsxattr{})<<16 | 'X'<<8 | 31

func summarise(dir string) (s dirSummary, err error) {
	f, err := openDir(dir)
	if err != nil {
		return s, err
	}
	defer f.Close()
	return summariseOpen(f)
}

// openDir opens a directory that nobody else changes. Go's runtime would first ask
// whether it could wait for it.
func openDir(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}

func summariseOpen(dir *os.File) (s dirSummary, err error) {
	fd := int(dir.Fd())
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return s, &fs.PathError{Op: "statx", Path: dir.Name(), Err: err}
	}
	s = dirSummary{mode: st.Mode, uid: st.Uid, gid: st.Gid, links: st.Nlink, size: st.Size, attributes: st.Attributes}
	// A file system that has no flags or attributes answers with the same error
	// each time, and the same zero.
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlGetFSXAttr, uintptr(unsafe.Pointer(&s.flags)))
	s.xattrs, _ = unix.Flistxattr(fd, nil)
	return s, nil
}
