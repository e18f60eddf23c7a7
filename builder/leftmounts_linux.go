package builder

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// leftMounts are the file systems that a build in a space of a tree had for itself
// and that the next one may have, if it did nothing with them: to unmount one and
// mount another takes the kernel as long as to make a namespace, and each unmount
// has all processors pass a quiescent state.
//
// Whatever is made in a directory or removed from it, and whatever is changed of it
// or read, shows in its times, which nobody can set without that being seen as well;
// a terminal that was used shows in those of ptmx. The instance of tmpfs has as many
// files and blocks as when it was new, or it is not as it was.
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
	return []opening{{"/dev/pts", unix.O_PATH}, {"/dev/pts/ptmx", unix.O_PATH}, {"/dev/shm", unix.O_PATH}}
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
	return err == nil && now == l.fresh
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
