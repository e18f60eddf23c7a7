package fs

import (
	"encoding/binary"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// systemCall is what a thread is in the middle of.
type systemCall struct {
	nr   int64 // -1 if it is not known
	args [6]uint64
}

// parseCall reads a line of /proc/TID/syscall: NUMBER, six arguments, stack
// pointer, program counter; or "running", or -1 for a thread that is not in a
// system call.
func parseCall(line string) systemCall {
	unknown := systemCall{nr: -1}
	f := strings.Fields(line)
	if len(f) != 9 {
		return unknown
	}
	nr, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil || nr < 0 {
		return unknown
	}
	c := systemCall{nr: nr}
	var v [7]uint64
	for i := range v {
		if v[i], err = strconv.ParseUint(strings.TrimPrefix(f[i+1], "0x"), 16, 64); err != nil {
			return unknown
		}
	}
	// A stack below 4 GiB is that of a 32-bit program, whose system calls have
	// other numbers.
	if v[6] < 1<<32 {
		return unknown
	}
	copy(c.args[:], v[:])
	return c
}

// writes reports whether call, a line of /proc/TID/syscall, is one that would
// create or change something: it can only end in EROFS, and must start
// nothing.
func (c caller) writes(call string) bool {
	s := parseCall(call)
	switch s.nr {
	case -1:
		return false
	case unix.SYS_OPENAT:
		return opensToWrite(s.args[2])
	case unix.SYS_OPENAT2:
		flags, _ := c.openHow(s.args[2])
		return opensToWrite(flags)
	case unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_UNLINKAT,
		unix.SYS_RENAMEAT2, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT,
		unix.SYS_TRUNCATE, unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_REMOVEXATTR, unix.SYS_LREMOVEXATTR:
		return true
	}
	return writesLegacy(s.nr, s.args[1])
}

func opensToWrite(flags uint64) bool {
	return flags&unix.O_PATH == 0 &&
		(flags&unix.O_ACCMODE != unix.O_RDONLY || flags&(unix.O_CREAT|unix.O_TRUNC) != 0)
}

// refusesLinks reports whether call is an open that fails at once where it meets
// a symbolic link, or where its last component is one.
func (c caller) refusesLinks(call string) bool {
	s := parseCall(call)
	switch s.nr {
	case unix.SYS_OPENAT:
		return s.args[2]&unix.O_NOFOLLOW != 0
	case unix.SYS_OPENAT2:
		flags, resolve := c.openHow(s.args[2])
		return flags&unix.O_NOFOLLOW != 0 || resolve&unix.RESOLVE_NO_SYMLINKS != 0
	}
	return refusesLinksLegacy(s.nr, s.args[1])
}

// asker is the program whose question is about extended attributes although it
// asks for others first.
const asker = "getfattr"

// asks reports whether call is a question for extended attributes, or comes from
// getfattr(1).
func (c caller) asks(call string) bool {
	s := parseCall(call)
	switch s.nr {
	case unix.SYS_GETXATTR, unix.SYS_LGETXATTR, unix.SYS_LISTXATTR, unix.SYS_LLISTXATTR,
		unix.SYS_GETXATTRAT, unix.SYS_LISTXATTRAT:
		return true
	case unix.SYS_OPENAT:
		if s.args[2]&unix.O_DIRECTORY == 0 {
			return false // it opens directories only
		}
	}
	return string(c.comm()) == asker
}

// openHow reads the argument of openat2 from the caller's memory. Zeros if it
// cannot.
func (c caller) openHow(addr uint64) (flags, resolve uint64) {
	f, err := os.Open("/proc/" + strconv.FormatUint(uint64(c.pid), 10) + "/mem")
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	var how [24]byte // flags, mode, resolve
	if _, err := f.ReadAt(how[:], int64(addr)); err != nil {
		return 0, 0
	}
	return binary.NativeEndian.Uint64(how[:]), binary.NativeEndian.Uint64(how[16:])
}
