package builder

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Sockets move to seats as long as there are some, which come back when their processes
// have left or are dead; and without one, a socket stays where it is.
func TestSeats(t *testing.T) {
	s, err := newSeats()
	if err != nil {
		t.Fatal(err)
	}
	p := newProgram(1)
	defer p.free()
	name := func(fd int) string {
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			return "closed"
		}
		return name
	}
	take := func() (_ *seat, fd int) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(pair[0]) })
		want := name(pair[1])
		taken := s.take(p, pair[1])
		if got := name(taken.fd); got != want {
			t.Fatalf("at %d is %s, want %s", taken.fd, got, want)
		}
		return taken, pair[1]
	}
	var all []*seat
	for range numberOfSeats {
		taken, fd := take()
		if taken.fd == fd || taken.fd < s.null || name(fd) == name(taken.fd) {
			t.Errorf("seat %d of %d, above %d", taken.fd, fd, s.null)
		}
		all = append(all, taken)
	}
	without, fd := take()
	if without.fd != fd {
		t.Errorf("%d moved to %d, which is somebody's", fd, without.fd)
	}
	if all[3].isLeft() || without.isLeft() {
		t.Error("a process has left that there never was")
	}
	without.giveBack()
	if got := name(fd); got != "closed" || !without.isLeft() {
		t.Errorf("what had no seat is %s", got)
	}
	// One is given back, and one is found to be free.
	seats := []int{all[3].fd, all[5].fd}
	all[3].giveBack()
	all[3].giveBack()
	if got := name(seats[0]); got != os.DevNull {
		t.Errorf("a free seat is %s", got)
	}
	all[5].left[0] = 1
	for _, want := range seats {
		if taken, _ := take(); taken.fd != want {
			t.Errorf("seat %d, want %d", taken.fd, want)
		}
	}
	if all[5].fd >= 0 {
		t.Error("two have the same seat")
	}
}

// BenchmarkDescriptors: a process that begins with a copy of so many descriptors and
// closes them, and one that begins with the same ones and leaves them.
func BenchmarkDescriptors(b *testing.B) {
	for _, n := range []int{10, 100, 350} {
		for how, flags := range map[string]struct{ clone, closing uint64 }{"copied": {}, "left": {unix.CLONE_FILES, unix.CLOSE_RANGE_UNSHARE}} {
			b.Run(fmt.Sprint(how, n), func(b *testing.B) {
				for range n {
					fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
					if err != nil {
						b.Fatal(err)
					}
					defer unix.Close(fd)
				}
				for b.Loop() {
					p := newProgram(2)
					p.call("close descriptors", unix.SYS_CLOSE_RANGE, waitFD+1, ^uintptr(0)>>1, uintptr(flags.closing))
					p.call("end", unix.SYS_EXIT_GROUP, 0)
					pid, end, err := p.start(flags.clone)
					if err != nil {
						b.Fatal(err)
					}
					unix.Close(end)
					if _, err := (&sandbox{pid: pid}).bury(); err != nil {
						b.Fatal(err)
					}
					p.free()
				}
			})
		}
	}
}
