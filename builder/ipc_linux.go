package builder

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ipc is a namespace of System V's objects and of message queues. To make one takes
// the kernel a twentieth of a millisecond, half of that later, when it ends: so it goes
// with a network, from one build to the next, if no builder has made anything in it.
//
// That shows without looking for objects, which may have been removed again. The kernel
// can be told, in a file of /proc/sys for each of the three kinds, which number the next
// object is to have, and forgets that as soon as there is one. It is told the one that
// the first has anyway. Of queues, whatever is made or removed changes the times of
// their directory. A builder can change neither: it has no right to the namespace, and
// does not see the directory.
//
// (One thing differs from a new namespace: where the first object is removed before
// there is a second, that one has the same number.)
type ipc struct {
	ns     int
	next   []int // files of firstNumber
	queues int   // the directory of queues; -1: the kernel has none
	fresh  unix.Stat_t
}

// firstNumber is of the first object of a kind.
const firstNumber = "0\n"

// errNoIPC: the kernel does not tell what was made in a namespace.
var errNoIPC = errors.New("what was made in an IPC namespace cannot be told")

// makeIPC takes the IPC namespace that this thread, which must be locked, has just made.
func makeIPC() (i *ipc, err error) {
	i = &ipc{ns: -1, queues: -1}
	defer func() {
		if err != nil {
			i.close()
			i, err = nil, fmt.Errorf("make an IPC namespace: %w", err)
		}
	}()
	if i.ns, err = unix.Open("/proc/thread-self/ns/ipc", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return i, err
	}
	for _, kind := range []string{"shm", "sem", "msg"} {
		fd, err := unix.Open("/proc/sys/kernel/"+kind+"_next_id", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return i, err
		}
		i.next = append(i.next, fd)
		if _, err := unix.Pwrite(fd, []byte(firstNumber), 0); err != nil {
			return i, err
		}
	}
	if i.queues, err = openQueues(); err != nil {
		return i, err
	}
	if i.queues >= 0 {
		if err := unix.Fstat(i.queues, &i.fresh); err != nil {
			return i, err
		}
	}
	if !i.untouched() {
		return i, errNoIPC
	}
	return i, nil
}

// openQueues opens the directory of the queues of this thread's namespace, -1 if the
// kernel has none, with a time that nothing has since: the clock's stands still for
// milliseconds.
func openQueues() (int, error) {
	fs, err := unix.Fsopen("mqueue", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	begin := unix.NsecToTimespec(0)
	if err := unix.UtimesNanoAt(dir, "", []unix.Timespec{begin, begin}, unix.AT_EMPTY_PATH); err != nil {
		unix.Close(dir)
		return -1, err
	}
	return dir, nil
}

// tellsIPC reports whether the files of a namespace tell about it also who is in another
// one, as they do since Linux 5.19. This thread, which must be locked, is in yet
// another one then.
func tellsIPC() bool {
	one, err := freshIPC()
	if err != nil {
		return false
	}
	defer one.close()
	other, err := freshIPC()
	if err != nil {
		return false
	}
	defer other.close()
	object, err := unix.SysvShmGet(unix.IPC_PRIVATE, 1, unix.IPC_CREAT|0o600)
	if err != nil {
		return false
	}
	if _, err := unix.SysvShmCtl(object, unix.IPC_RMID, nil); err != nil {
		return false
	}
	return one.untouched() && !other.untouched()
}

// freshIPC moves this thread to a new namespace.
func freshIPC() (*ipc, error) {
	if err := unix.Unshare(unix.CLONE_NEWIPC); err != nil {
		return nil, namespaceErrno(unix.SYS_UNSHARE, errnoOf(err))
	}
	return makeIPC()
}

// untouched reports whether nothing was ever made in it.
func (i *ipc) untouched() bool {
	var text [len(firstNumber) + 1]byte
	for _, fd := range i.next {
		if n, err := unix.Pread(fd, text[:], 0); err != nil || string(text[:n]) != firstNumber {
			return false
		}
	}
	if i.queues < 0 {
		return true
	}
	var now unix.Stat_t
	return unix.Fstat(i.queues, &now) == nil && now == i.fresh
}

func (i *ipc) close() {
	for _, fd := range append(i.next, i.ns, i.queues) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
