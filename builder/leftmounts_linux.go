package builder

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// leftMounts are the file systems that a build in a space of a tree had for itself
// and that the next one may have, if it did nothing with them: to unmount one and
// mount another takes the kernel as long as to make a namespace, and each unmount
// has all processors pass a quiescent state.
//
// Whatever is made in a directory or removed from it, and whatever is changed of it
// or read, shows in its times, which nobody can set without that being seen as well.
// A terminal changes no time of /dev/pts, and those of ptmx by whole eight seconds: but
// it is listed for as long as its master is open, which may be in a message between
// sockets that the kernel looks for only when the last process is dead. The instance of
// tmpfs has as many files and blocks as when it was new, or it is not as it was.
//
// (One thing differs from a new one: the number of the next file in /dev/shm, if there was
// one without a name, by O_TMPFILE. The kernel tells it to nobody who does not make one.)
type leftMounts struct {
	fds   []int // of leftPlaces
	fresh mountState
}

// mountState is what can be seen of them.
type mountState struct {
	files  [3]unix.Stat_t
	blocks uint64 // that are free in /dev/shm, and
	inodes uint64
}

// leftPlaces are opened to see whether they are as they were.
func leftPlaces() []opening {
	return []opening{{"/dev/pts", unix.O_RDONLY | unix.O_DIRECTORY}, {"/dev/pts/ptmx", unix.O_PATH}, {"/dev/shm", unix.O_PATH}}
}

// newLeftMounts are those at fds, which they take over, as they are now: before any
// builder has seen them.
func newLeftMounts(fds []int) (*leftMounts, error) {
	l := &leftMounts{fds: fds}
	var err error
	if l.fresh, err = l.state(); err != nil {
		l.close()
		return nil, fmt.Errorf("look at what is mounted: %w", err)
	}
	return l, nil
}

// untouched reports whether they are as they were. All processes that could change
// them must be dead.
func (l *leftMounts) untouched() bool {
	now, err := l.state()
	return err == nil && now == l.fresh && !l.hasTerminals()
}

// hasTerminals reports whether there is a terminal in /dev/pts, or nobody knows.
func (l *leftMounts) hasTerminals() bool {
	pts := l.fds[0]
	if _, err := unix.Seek(pts, 0, unix.SEEK_SET); err != nil {
		return true
	}
	var buf [512]byte
	var names []string
	for { // a signal ends a list before its end
		n, err := unix.Getdents(pts, buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return true
		}
		if n == 0 {
			break
		}
		if _, _, names = unix.ParseDirent(buf[:n], -1, names); len(names) > 1 { // ptmx is one
			return true
		}
	}
	// To look may have changed the time of the directory.
	return unix.Fstat(pts, &l.fresh.files[0]) != nil
}

func (l *leftMounts) state() (s mountState, err error) {
	for i, fd := range l.fds {
		if err := unix.Fstat(fd, &s.files[i]); err != nil {
			return s, err
		}
	}
	var shm unix.Statfs_t
	err = unix.Fstatfs(l.fds[len(l.fds)-1], &shm)
	s.blocks, s.inodes = shm.Bfree, shm.Ffree
	return s, err
}

func (l *leftMounts) close() {
	for _, fd := range l.fds {
		unix.Close(fd)
	}
}
