package builder

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Whoever has others to wait for is not kept by a network that is being made: it is
// ordered once, and the bell rings when it is there.
func TestNetworksAreMadeMeanwhile(t *testing.T) {
	for _, spare := range []bool{true, false} {
		bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(bell)
		n := &networks{wanted: make(chan struct{}, 1), made: make(chan made, 1), bell: bell}
		if spare {
			n.max = 1
		}
		for range 3 {
			if n.ready() {
				t.Fatal("a network that nobody has made is ready")
			}
		}
		if len(n.wanted) != 1 {
			t.Fatalf("%d networks were ordered, want 1", len(n.wanted))
		}
		// As the thread does.
		<-n.wanted
		one := new(network)
		n.made <- made{network: one}
		n.ring()
		rings := []unix.PollFd{{Fd: int32(bell), Events: unix.POLLIN}}
		if heard, err := unix.Poll(rings, 0); err != nil || heard != 1 {
			t.Fatalf("the bell: %d, %v", heard, err)
		}
		n.quiet()
		if heard, err := unix.Poll(rings, 0); err != nil || heard != 0 {
			t.Fatalf("the bell, when it was heard: %d, %v", heard, err)
		}
		if !n.ready() {
			t.Fatal("a network that was made is not ready")
		}
		if got, err := n.take(); got != one || err != nil {
			t.Fatalf("take: %v, %v", got, err)
		}
		// Where none is used again, the next one is made at once.
		want := 1
		if spare {
			want = 0
		}
		if len(n.wanted) != want {
			t.Errorf("spare %v: %d more are ordered, want %d", spare, len(n.wanted), want)
		}
		n.give(&network{ns: -1}) // without counters, it is as it was
		if n.ready() != spare {
			t.Errorf("spare %v: one that was given back: ready is %v", spare, !spare)
		}
	}
}

// Some are there before anybody needs them, unless none can be made.
func TestStockOfNetworks(t *testing.T) {
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(bell)
	n := &networks{wanted: make(chan struct{}, 1), made: make(chan made, 1), bell: bell, max: 9}
	// makes does as the thread does, if one was ordered.
	makes := func(m made) bool {
		select {
		case <-n.wanted:
			n.made <- m
			n.ring()
			n.quiet()
			return true
		default:
			return false
		}
	}
	if n.ready() {
		t.Fatal("there is one that nobody has made")
	}
	if !makes(made{network: new(network)}) || makes(made{}) {
		t.Fatal("the one was not ordered that is needed, or another one that nobody may need")
	}
	n.stockUp()
	if !makes(made{network: new(network)}) {
		t.Fatal("no other was ordered")
	}
	if makes(made{}) || len(n.idle) != 2 {
		t.Fatalf("%d wait, want 2, and no more ordered", len(n.idle))
	}
	if _, err := n.take(); err != nil {
		t.Fatal(err)
	}
	if !makes(made{err: unix.ENOSPC}) {
		t.Fatal("none was ordered in the place of the one that was taken")
	}
	if makes(made{}) {
		t.Error("another was ordered though none can be made")
	}
	if _, err := n.take(); err != nil || n.ready() || !makes(made{network: new(network)}) {
		t.Errorf("none was ordered when it was needed: %v", err)
	}
	if !makes(made{network: new(network)}) {
		t.Error("the next was not ordered, though one could be made")
	}
}

// A network from which something may still be sent is not as it was.
func TestMulticastIsNotLate(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a network")
	}
	in4 := unix.IPMreqn{Multiaddr: [4]byte{239, 1, 2, 3}, Ifindex: 1}
	in6 := unix.IPv6Mreq{Multiaddr: [16]byte{0xff, 5, 14: 0x12, 15: 0x34}, Interface: 1}
	for _, c := range []struct {
		family int
		join   func(fd int) error
	}{
		{unix.AF_INET, func(fd int) error { return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &in4) }},
		{unix.AF_INET6, func(fd int) error { return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &in6) }},
	} {
		func() {
			// The main thread, which this may be, would not end with a goroutine.
			runtime.LockOSThread()
			home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(home)
			n, err := makeNetwork(true, false)
			if err != nil {
				t.Fatal(err)
			}
			defer n.close()
			defer func() {
				if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
					t.Fatal(err)
				}
				runtime.UnlockOSThread()
			}()
			buf := make([]byte, 64<<10)
			if n.late || !n.untouched(buf) {
				t.Errorf("family %d: a new network is not as it was", c.family)
			}
			fd, err := unix.Socket(c.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if errors.Is(err, unix.EAFNOSUPPORT) {
				return
			}
			if err == nil {
				err = c.join(fd)
			}
			if err != nil {
				t.Errorf("family %d: join: %v", c.family, err)
			}
			unix.Close(fd)
			was := n.untouched(buf)
			time.Sleep(100 * time.Millisecond)
			if was && !n.untouched(buf) {
				t.Errorf("family %d: it was as it was, and then something was sent", c.family)
			}
		}()
	}
}

// Where not all that belongs to a network can be opened there is none, and what was opened
// is closed once.
func TestNetworkWithoutDescriptors(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a network")
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	made := false
	for more := uint64(1); !made && more < 50; more++ {
		func() {
			// The main thread, which this may be, would not end with a goroutine.
			runtime.LockOSThread()
			home := make(map[int]int)
			for flag, name := range map[int]string{unix.CLONE_NEWNET: "net", unix.CLONE_NEWIPC: "ipc"} {
				fd, err := unix.Open("/proc/thread-self/ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				home[flag] = fd
			}
			defer func() {
				for flag, fd := range home {
					if err := unix.Setns(fd, flag); err != nil {
						t.Fatal(err)
					}
				}
				runtime.UnlockOSThread()
			}()
			lowest, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(lowest)
			before := count()
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(lowest) + more, Max: limit.Max}); err != nil {
				t.Fatal(err)
			}
			n, err := makeNetwork(true, true)
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
				t.Error(err)
			}
			if made = err == nil; made {
				n.close()
			} else if n != nil {
				t.Errorf("with %d descriptors: %v, and a network", more, err)
			}
			if after := count(); after != before {
				t.Errorf("with %d descriptors: %d are open, and were %d", more, after, before)
			}
		}()
	}
	if !made {
		t.Error("none was made at all")
	}
}
