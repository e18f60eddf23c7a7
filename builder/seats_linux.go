package builder

import (
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// seats are descriptors of low numbers. A spawner has hundreds of descriptors, and to
// give a process a copy of all of them, which it closes again, takes the kernel longer
// than all of its mounts. So it shares the spawner's until it has gone to the namespaces
// that these lead to; and then keeps those up to its seat, which is where its control
// socket is. They are the spawner's one thread's.
type seats struct {
	null  int   // /dev/null, below all of them
	free  []int // what is nobody's; /dev/null as well, so that nothing else gets the number
	taken []*seat
}

// seat is the place of one process.
type seat struct {
	of   *seats
	fd   int    // -1: it was given back
	left []byte // where the process puts something when it shares nothing any more
}

// numberOfSeats is how many sandboxes can be on their way at once and lose nothing.
const numberOfSeats = 8

func newSeats() (*seats, error) {
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	s := &seats{null: null}
	for range numberOfSeats {
		fd, err := unix.FcntlInt(uintptr(null), unix.F_DUPFD_CLOEXEC, null)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
		}
		s.free = append(s.free, fd)
	}
	return s, nil
}

// take moves socket, which it takes over, to a seat for the process that will run p. If
// none is free, it is a seat where it is.
func (s *seats) take(p *program, socket int) *seat {
	t := &seat{of: s, fd: socket, left: p.bytes(8)}
	if len(s.free) == 0 {
		for _, other := range slices.Clone(s.taken) {
			if other.isLeft() {
				other.giveBack()
			}
		}
	}
	if last := len(s.free) - 1; last >= 0 && unix.Dup3(socket, s.free[last], unix.O_CLOEXEC) == nil {
		unix.Close(socket)
		t.fd, s.free = s.free[last], s.free[:last]
		s.taken = append(s.taken, t)
	}
	return t
}

// leave adds what has the process share nothing any more.
func (t *seat) leave(p *program) {
	p.call("leave the other descriptors: close_range", unix.SYS_CLOSE_RANGE, uintptr(t.fd)+1, ^uintptr(0)>>1, unix.CLOSE_RANGE_UNSHARE)
	// It may be that one already.
	keep := p.call("keep the socket", unix.SYS_DUP3, uintptr(t.fd), waitFD, unix.O_CLOEXEC)
	keep.unless(unix.EINVAL)
	keep.to = address(t.left) // no result is zero
}

// isLeft reports whether the process has a table of descriptors of its own.
func (t *seat) isLeft() bool {
	return t.fd < 0 || atomic.LoadUint64((*uint64)(unsafe.Pointer(unsafe.SliceData(t.left)))) != 0
}

// giveBack is for when the process has left, or is dead.
func (t *seat) giveBack() {
	if t.fd < 0 {
		return
	}
	i := slices.Index(t.of.taken, t)
	if i < 0 || unix.Dup3(t.of.null, t.fd, unix.O_CLOEXEC) != nil {
		unix.Close(t.fd)
	} else {
		t.of.free = append(t.of.free, t.fd)
	}
	if i >= 0 {
		t.of.taken = slices.Delete(t.of.taken, i, i+1)
	}
	t.fd = -1
}
