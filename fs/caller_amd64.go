package fs

import "golang.org/x/sys/unix"

// writesLegacy is about the system calls without "at" that only the older
// architectures have; flags is the second argument.
func writesLegacy(nr int64, flags uint64) bool {
	switch nr {
	case unix.SYS_OPEN:
		return opensToWrite(flags)
	case unix.SYS_CREAT, unix.SYS_MKDIR, unix.SYS_RMDIR, unix.SYS_MKNOD, unix.SYS_SYMLINK, unix.SYS_LINK,
		unix.SYS_UNLINK, unix.SYS_RENAME, unix.SYS_RENAMEAT, unix.SYS_CHMOD, unix.SYS_CHOWN, unix.SYS_LCHOWN,
		unix.SYS_UTIME, unix.SYS_UTIMES, unix.SYS_FUTIMESAT:
		return true
	}
	return false
}

// refusesLinksLegacy is the same about open.
func refusesLinksLegacy(nr int64, flags uint64) bool {
	return nr == unix.SYS_OPEN && flags&unix.O_NOFOLLOW != 0
}
