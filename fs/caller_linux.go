package fs

import (
	"bytes"
	"encoding/binary"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// maxComm is the length to which the kernel cuts command names.
const maxComm = 15

// caller is the thread whose system call a request serves, as /proc shows it.
// pid is 0 when it is not in this pid namespace, or is the kernel itself.
type caller struct {
	pid uint32 // a thread id
	uid uint32
}

func callerOf(h *fuse.InHeader) caller { return caller{pid: h.Pid, uid: h.Uid} }

// proc reads a file of /proc/TID. It is empty if there is no such thread, or
// if this process may not look.
func (c caller) proc(file string) ([]byte, error) {
	if c.pid == 0 {
		return nil, unix.ESRCH
	}
	return os.ReadFile("/proc/" + strconv.FormatUint(uint64(c.pid), 10) + "/" + file)
}

// call is the line of /proc/TID/syscall: the system call that the thread is
// in, with its arguments and its stack. Empty if it cannot be read, which
// needs what ptrace needs: the same user (and Yama's consent), or root.
func (c caller) call() string {
	b, err := c.proc("syscall")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}

// writes reports whether call, a line of /proc/TID/syscall, is one that would
// create or change something: it can only end in EROFS, and must start
// nothing.
func (c caller) writes(call string) bool {
	f := strings.Fields(call)
	// NUMBER, six arguments, stack pointer, program counter; or "running", or
	// -1 for a thread that is not in a system call.
	if len(f) != 9 {
		return false
	}
	nr, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil || nr < 0 {
		return false
	}
	var v [7]uint64
	for i := range v {
		if v[i], err = strconv.ParseUint(strings.TrimPrefix(f[i+1], "0x"), 16, 64); err != nil {
			return false
		}
	}
	// A stack below 4 GiB is that of a 32-bit program, whose system calls have
	// other numbers.
	if v[6] < 1<<32 {
		return false
	}
	switch nr {
	case unix.SYS_OPENAT:
		return opensToWrite(v[2])
	case unix.SYS_OPENAT2:
		return opensToWrite(c.word(v[2]))
	case unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_UNLINKAT,
		unix.SYS_RENAMEAT2, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT,
		unix.SYS_TRUNCATE, unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_REMOVEXATTR, unix.SYS_LREMOVEXATTR:
		return true
	}
	return writesLegacy(nr, v[1])
}

func opensToWrite(flags uint64) bool {
	return flags&unix.O_PATH == 0 &&
		(flags&unix.O_ACCMODE != unix.O_RDONLY || flags&(unix.O_CREAT|unix.O_TRUNC) != 0)
}

// word reads eight bytes of the caller's memory: the flags that begin the
// open_how of openat2. 0 if it cannot.
func (c caller) word(addr uint64) uint64 {
	f, err := os.Open("/proc/" + strconv.FormatUint(uint64(c.pid), 10) + "/mem")
	if err != nil {
		return 0
	}
	defer f.Close()
	var b [8]byte
	if _, err := f.ReadAt(b[:], int64(addr)); err != nil {
		return 0
	}
	return binary.NativeEndian.Uint64(b[:])
}

// dying reports whether a caller whose wait was interrupted has to be let go:
// it was killed, or it has a signal that it expects to end the wait, or it is
// no longer in the system call that it began to wait in (the connection was
// aborted). All other signals must not be seen as EINTR: Go's runtime alone
// sends SIGURG all the time.
func (c caller) dying(call string) bool {
	status, err := c.proc("status")
	if err != nil {
		// Of a caller outside of this pid namespace nothing can be known;
		// it must be possible to kill it.
		return true
	}
	if fatal(status) {
		return true
	}
	now := c.call()
	return call != "" && now != "" && now != call
}

func signals(list ...unix.Signal) (set uint64) {
	for _, s := range list {
		set |= 1 << (s - 1)
	}
	return set
}

// fatal decides by the signal sets of a /proc/TID/status.
func fatal(status []byte) bool {
	set := func(name string) uint64 {
		_, rest, _ := bytes.Cut(status, []byte("\n"+name+":\t"))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		v, _ := strconv.ParseUint(string(line), 16, 64)
		return v
	}
	pending := set("SigPnd") | set("ShdPnd")
	if pending&signals(unix.SIGKILL) != 0 {
		return true
	}
	pending &^= set("SigBlk") | set("SigIgn")
	caught := set("SigCgt")
	// Without a handler, these do not end a process.
	harmless := signals(unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH,
		unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	if pending&^caught&^harmless != 0 {
		return true
	}
	return pending&caught&signals(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM) != 0
}

// holds reports whether c is one of s.
func (s *Callers) holds(c caller) bool {
	if slices.Contains(s.UIDs, c.uid) {
		return true
	}
	if len(s.Commands) > 0 && s.command(c) {
		return true
	}
	return len(s.Cgroups) > 0 && s.cgroup(c)
}

func (s *Callers) command(c caller) bool {
	comms := [][]byte{c.comm()}
	if status, err := c.proc("status"); err == nil {
		_, rest, _ := bytes.Cut(status, []byte("\nTgid:\t"))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if tgid, err := strconv.ParseUint(string(line), 10, 32); err == nil {
			comms = append(comms, caller{pid: uint32(tgid)}.comm())
		}
	}
	for _, want := range s.Commands {
		for _, have := range comms {
			if len(have) > 0 && string(have) == want[:min(len(want), maxComm)] {
				return true
			}
		}
	}
	return false
}

func (c caller) comm() []byte {
	b, err := c.proc("comm")
	if err != nil {
		return nil
	}
	return bytes.TrimSuffix(b, []byte("\n"))
}

func (s *Callers) cgroup(c caller) bool {
	b, err := c.proc("cgroup")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		// HIERARCHY:CONTROLLERS:PATH
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, want := range s.Cgroups {
			if want = path.Clean("/" + want); below(parts[2], want) {
				return true
			}
		}
	}
	return false
}

// below reports whether the clean path p is dir or inside of it.
func below(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}
