package builder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"storefs/rawfile"
	"storefs/tree"
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

// leftDir is an open directory that one build leaves to the next.
type leftDir struct {
	file  *os.File
	fresh dirSummary // what it was like when nothing of a build was in it
	buf   []byte     // of list
}

// openLeft opens a directory that is new.
func openLeft(dir string) (*leftDir, error) {
	f, err := rawfile.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	d := &leftDir{file: f}
	if d.fresh, err = d.summarise(); err != nil {
		d.file.Close()
		return nil, err
	}
	return d, nil
}

// empty removes what is in it, but for what keep says, and reports whether it is
// then as it was.
func (d *leftDir) empty(keep func(name []byte, typ uint8) bool) (bool, error) {
	var surplus []string
	err := d.list(func(name []byte, typ uint8) {
		if !keep(name, typ) {
			surplus = append(surplus, string(name))
		}
	})
	if err != nil {
		return false, err
	}
	for _, name := range surplus {
		if err := tree.RemoveAll(filepath.Join(d.file.Name(), name)); err != nil {
			return false, err
		}
	}
	now, err := d.summarise()
	return now == d.fresh, err
}

// list tells each of the names and its type, by the constants DT_*. Package os
// would make an object of each, which takes longer than all the rest where a
// directory has the stubs of a large closure.
func (d *leftDir) list(each func(name []byte, typ uint8)) error {
	fd := int(d.file.Fd())
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return &fs.PathError{Op: "seek", Path: d.file.Name(), Err: err}
	}
	if d.buf == nil {
		d.buf = make([]byte, 8<<10)
	}
	for {
		n, err := unix.Getdents(fd, d.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return os.NewSyscallError("getdents", err)
		}
		for rest := d.buf[:n]; len(rest) > 0; {
			var e unix.Dirent // what follows is shorter than that
			size := binary.NativeEndian.Uint16(rest[unsafe.Offsetof(e.Reclen):])
			typ := rest[unsafe.Offsetof(e.Type)]
			name, _, _ := bytes.Cut(rest[unsafe.Offsetof(e.Name):size], []byte{0})
			rest = rest[size:]
			if string(name) == "." || string(name) == ".." {
				continue
			}
			if typ == unix.DT_UNKNOWN { // some file systems do not tell
				var st unix.Stat_t
				if err := unix.Fstatat(fd, string(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
					return os.NewSyscallError("fstatat", err)
				}
				typ = uint8(st.Mode & unix.S_IFMT >> 12)
			}
			each(name, typ)
		}
	}
}

// renew makes it as old as if it were made now.
func (d *leftDir) renew() error {
	// By a descriptor and without a name, which unix.UtimesNanoAt cannot.
	if _, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, d.file.Fd(), 0, 0, 0, 0, 0); e != 0 {
		return &fs.PathError{Op: "set times of", Path: d.file.Name(), Err: e}
	}
	return nil
}

func (d *leftDir) summarise() (s dirSummary, err error) {
	fd := int(d.file.Fd())
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return s, &fs.PathError{Op: "statx", Path: d.file.Name(), Err: err}
	}
	s = dirSummary{mode: st.Mode, uid: st.Uid, gid: st.Gid, links: st.Nlink, size: st.Size, attributes: st.Attributes}
	// A file system that has no flags or attributes answers with the same error
	// each time, and the same zero.
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlGetFSXAttr, uintptr(unsafe.Pointer(&s.flags)))
	s.xattrs, _ = unix.Flistxattr(fd, nil)
	return s, nil
}
