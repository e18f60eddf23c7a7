package fs

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"storefs/rawfile"
)

// maxComm is the length to which the kernel cuts command names.
const maxComm = 15

// caller is the thread whose system call a request serves, as /proc shows it.
// pid is 0 when it is not in this pid namespace, or is the kernel itself.
type caller struct {
	pid  uint32 // a thread id
	uid  uint32
	seen *seen // nil: everything is looked up each time
}

// seen is what was seen of a caller during a request, and does not change
// meanwhile.
type seen struct {
	process uint32 // 0: not yet seen
	comm    []byte // nil: likewise
}

func callerOf(q *request) caller {
	h := q.header()
	return caller{pid: h.Pid, uid: h.Uid, seen: new(seen)}
}

// proc reads a file of /proc/TID. It is empty if there is no such thread, or
// if this process may not look.
func (c caller) proc(file string) ([]byte, error) {
	if c.pid == 0 {
		return nil, unix.ESRCH
	}
	return rawfile.Read("/proc/"+strconv.FormatUint(uint64(c.pid), 10)+"/"+file, 2048)
}

// call is the line of /proc/TID/syscall: the system call that the thread is
// in, with its arguments and its stack. Empty if it cannot be read, which
// needs what ptrace needs: the same user (and Yama's consent), or root; or if
// the thread does not sleep. Before it waits for that, it calls relieve.
func (c caller) call(relieve func()) string {
	return asleep(relieve, func() string {
		b, err := c.proc("syscall")
		if err != nil {
			return ""
		}
		return strings.TrimSuffix(string(b), "\n")
	})
}

// A caller is not shown as in its system call while it is awake: before it
// sleeps, and when a signal wakes it. It goes to sleep as soon as it has a
// processor.
const (
	wakeFirst = 20 * time.Microsecond // before it is looked at again; it doubles
	wakeLast  = 2560 * time.Microsecond
)

// asleep is what look says of a thread that sleeps, "" if it stays awake.
func asleep(relieve func(), look func() string) string {
	const awake = "running"
	call := look()
	if call != awake {
		return call
	}
	relieve()
	for pause := wakeFirst; call == awake; pause *= 2 {
		if pause > wakeLast {
			return ""
		}
		time.Sleep(pause)
		call = look()
	}
	return call
}

// dying reports whether a caller whose wait was interrupted has to be let go:
// it was killed, or it has a signal that it expects to end the wait, or it is
// no longer in the system call, if that is known, that it began to wait in (the
// connection was aborted). All other signals must not be seen as EINTR: Go's
// runtime alone sends SIGURG all the time.
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
	if call == "" {
		return false
	}
	now := c.call(func() {}) // whoever waits has been relieved
	return now != "" && now != call
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

// process is the process that the thread belongs to: the thread itself if that
// cannot be seen.
func (c caller) process() caller {
	if c.seen != nil && c.seen.process != 0 {
		return c.of(c.seen.process)
	}
	// Most threads are their process's first, and only of those there is a
	// descriptor: to write and read a status takes ten times as long.
	if fd, err := unix.PidfdOpen(int(c.pid), 0); err == nil {
		unix.Close(fd)
		if c.seen != nil {
			c.seen.process = c.pid
		}
		return c
	}
	status, err := c.proc("status")
	if err != nil {
		return c
	}
	_, rest, _ := bytes.Cut(status, []byte("\nTgid:\t"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	tgid, err := strconv.ParseUint(string(line), 10, 32)
	if err != nil {
		return c
	}
	if c.seen != nil {
		c.seen.process = uint32(tgid)
	}
	return c.of(uint32(tgid))
}

// of is the thread pid of the caller's process.
func (c caller) of(pid uint32) caller {
	if pid == c.pid {
		return c
	}
	return caller{pid: pid, uid: c.uid}
}

func (c caller) comm() []byte {
	if c.seen != nil && c.seen.comm != nil {
		return c.seen.comm
	}
	b, err := c.proc("comm")
	if err != nil {
		return nil
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	if c.seen != nil {
		c.seen.comm = b
	}
	return b
}
