package nar

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// canonTime is the modification time of every store object: one second after
// the epoch, because zero confuses too many programs.
const canonTime = 1

// canon brings files into the form that all store objects have.
type canon struct {
	uid, gid int // -1: leave as it is
}

// file makes an open regular file canonical. It refuses a file that could give
// anybody rights.
func (c *canon) file(d *dir, name string, fd int, st *unix.Stat_t) error {
	if st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		return unfit("the setuid or setgid bit is set")
	}
	mode := uint32(0o444)
	if st.Mode&0o100 != 0 {
		mode = 0o555
	}
	return c.opened(d, name, fd, st, mode)
}

// dir makes an open directory canonical: before it is read, so that a change
// during the read shows in its time. Setgid bits, which directories inherit,
// give no rights and are only cleared.
func (c *canon) dir(d *dir, st *unix.Stat_t) error {
	return c.opened(d, ".", d.fd, st, 0o555)
}

// opened sets owner, attributes, mode and time, in this order: a change of the
// owner clears bits, and access control lists show up in the mode. name is the
// file's in at.
func (c *canon) opened(at *dir, name string, fd int, st *unix.Stat_t, mode uint32) error {
	if c.otherOwner(st) {
		if err := unix.Fchown(fd, c.uid, c.gid); err != nil {
			return os.NewSyscallError("chown", err)
		}
	}
	changed, err := removeAttrs(fdAttrs(fd), func(attr string) error {
		err := unix.Fremovexattr(fd, attr)
		if errors.Is(err, unix.EACCES) { // attributes of users need write permission
			if err = unix.Fchmod(fd, mode|0o200); err == nil {
				err = unix.Fremovexattr(fd, attr)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if changed || st.Mode&0o7777 != mode {
		if err := unix.Fchmod(fd, mode); err != nil {
			return os.NewSyscallError("chmod", err)
		}
	}
	return c.time(at, name, st)
}

// link makes a symbolic link canonical.
func (c *canon) link(d *dir, name string, st *unix.Stat_t) error {
	if c.otherOwner(st) {
		if err := unix.Fchownat(d.fd, name, c.uid, c.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return os.NewSyscallError("chown", err)
		}
	}
	_, err := removeAttrs(pathAttrs(d, name), func(attr string) error { return unix.Lremovexattr(entryPath(d, name), attr) })
	if err != nil {
		return err
	}
	return c.time(d, name, st)
}

func (c *canon) otherOwner(st *unix.Stat_t) bool {
	return c.uid >= 0 && st.Uid != uint32(c.uid) || c.gid >= 0 && st.Gid != uint32(c.gid)
}

func (c *canon) time(d *dir, name string, st *unix.Stat_t) error {
	if st.Mtim.Sec == canonTime && st.Mtim.Nsec == 0 {
		return nil
	}
	st.Mtim = unix.Timespec{Sec: canonTime}
	return setTime(d, name)
}

// setTime sets the canonical time of modification of an entry, which may be a
// link, and leaves that of access alone.
func setTime(d *dir, name string) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: canonTime}}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(d.fd, name, times, unix.AT_SYMLINK_NOFOLLOW))
}

// removeAttrs removes extended attributes, access control lists among them, and
// tells whether there were any to remove.
func removeAttrs(list attrList, remove func(string) error) (bool, error) {
	names, err := list.names()
	for _, attr := range names {
		if err := remove(attr); err != nil && err != unix.ENODATA {
			return true, fmt.Errorf("remove the attribute %q: %w", attr, err)
		}
	}
	return len(names) > 0, err
}

// keepAttr reports whether an attribute belongs to the kernel or the file system
// and comes back by itself: labels of security modules, and what is not an
// access control list of POSIX among "system.", and what files of Btrfs have from their
// directory, as that they are compressed. A file's capabilities are a
// security attribute too, but work like a setuid bit.
func keepAttr(attr string) bool {
	if strings.HasPrefix(attr, "btrfs.") {
		return true
	}
	if strings.HasPrefix(attr, "security.") {
		return attr != "security.capability"
	}
	return strings.HasPrefix(attr, "system.") && !strings.HasPrefix(attr, "system.posix_acl_")
}

// checkType refuses types of directory entries that an archive cannot hold.
func checkType(typ uint8) error {
	switch typ {
	case unix.DT_REG, unix.DT_DIR, unix.DT_LNK:
		return nil
	case unix.DT_FIFO:
		return unfit("it is a fifo")
	case unix.DT_SOCK:
		return unfit("it is a socket")
	case unix.DT_CHR:
		return unfit("it is a character device")
	case unix.DT_BLK:
		return unfit("it is a block device")
	}
	return fmt.Errorf("file type %d: %w", typ, store.ErrUnfit)
}

// typeOf is the type that a directory entry of this mode has.
func typeOf(st *unix.Stat_t) uint8 { return uint8(st.Mode & unix.S_IFMT >> 12) }
