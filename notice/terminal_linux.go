package notice

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// terminal identifies a terminal: containers may have several of one number.
type terminal struct {
	dev, ino, rdev uint64
}

// asked reports whether the process wants to be told. Its environment can be
// read by its user and by root.
func asked(pid uint32) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if string(v) == Variable+"=1" {
			return true
		}
	}
	return false
}

// openTerminal opens the controlling terminal of a process of the user uid, nil
// if it has none or that cannot be reached. The terminal is taken from the
// process's own standard files, because a number alone may be that of another
// terminal where the process has its own /dev/pts.
func openTerminal(pid, uid uint32) (*os.File, terminal) {
	rdev := controlling(pid)
	if rdev == 0 {
		return nil, terminal{}
	}
	for _, n := range []int{2, 1, 0} {
		if f, at := openAt(fmt.Sprintf("/proc/%d/fd/%d", pid, n), rdev, nil); f != nil {
			return f, at
		}
	}
	ours, err1 := os.Readlink("/proc/self/ns/mnt")
	theirs, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err1 != nil || err2 != nil || ours != theirs {
		return nil, terminal{}
	}
	return openAt(fmt.Sprintf("/dev/pts/%d", unix.Minor(rdev)), rdev, &uid)
}

// openAt opens path if it is the terminal rdev, and is owned by the user if one
// is given. What it is, is found out before it is opened for writing: opening
// some devices does something.
func openAt(path string, rdev uint64, owner *uint32) (*os.File, terminal) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, terminal{}
	}
	defer unix.Close(fd)
	// By what is known of it: to ask the file system may take for ever.
	var st unix.Statx_t
	const known, wanted = unix.AT_EMPTY_PATH | unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE | unix.STATX_UID | unix.STATX_INO
	if unix.Statx(fd, "", known, wanted, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR ||
		unix.Mkdev(st.Rdev_major, st.Rdev_minor) != rdev || owner != nil && st.Uid != *owner {
		return nil, terminal{}
	}
	w, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, terminal{}
	}
	return os.NewFile(uintptr(w), path), terminal{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino, rdev}
}

// controlling is the device number of the process's controlling terminal, 0 if
// it has none: the seventh field of /proc/PID/stat, the fifth after the command,
// which may hold anything.
func controlling(pid uint32) uint64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(f) < 5 {
		return 0
	}
	nr, err := strconv.ParseInt(string(f[4]), 10, 32)
	if err != nil || nr == 0 {
		return 0
	}
	// The kernel's new_encode_dev: 12 bits of the major number amid the minor.
	n := uint32(nr)
	return unix.Mkdev(n>>8&0xfff, n&0xff|n>>12&0xfff00)
}

// write writes what fits at once. Should the terminal be our own too, and we be
// in its background, SIGTTOU would stop us.
func write(f *os.File, text string) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var block, before unix.Sigset_t
	block.Val[0] = 1 << (unix.SIGTTOU - 1)
	if unix.PthreadSigmask(unix.SIG_BLOCK, &block, &before) != nil {
		return
	}
	raw, err := f.SyscallConn()
	if err == nil {
		// Not f.Write, which would wait until all of it is written.
		_ = raw.Control(func(fd uintptr) { _, _ = unix.Write(int(fd), []byte(text)) })
	}
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
}
