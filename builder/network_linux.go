package builder

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// networks are network namespaces with nothing in them but a loopback interface.
// One costs more than all the rest of a sandbox: so the next build gets the one
// that an earlier build has left as it was when it was new. Whatever a builder
// may do in one, which is nothing without packets and sockets, shows in its
// counters: one whose counters have moved is thrown away. They are the spawner's
// one thread's.
type networks struct {
	wanted chan chan<- made // to the thread that makes them
	next   <-chan made      // if none is used again, the next one, which is being made
	idle   []*network
	max    int // idle ones
}

type made struct {
	network *network
	err     error
}

// network is one network namespace. It has one build at a time.
type network struct {
	ns int
	// counters are files of /proc that stay with the namespace they were opened
	// in, and baseline is what they said then.
	counters []int
	baseline [][]byte
}

// newNetworks starts the thread that makes namespaces, in one of its own: it
// needs no way back. It lives for as long as the process does.
func newNetworks(spare bool) *networks {
	n := &networks{wanted: make(chan chan<- made)}
	if spare {
		n.max = maxIdle
	}
	go func() {
		runtime.LockOSThread()
		for to := range n.wanted {
			network, err := makeNetwork(spare)
			to <- made{network, err}
		}
	}()
	return n
}

// order has a network made.
func (n *networks) order() <-chan made {
	to := make(chan made, 1)
	n.wanted <- to
	return to
}

// take returns a network namespace that no other build has.
func (n *networks) take() (*network, error) {
	if last := len(n.idle) - 1; last >= 0 {
		network := n.idle[last]
		n.idle = n.idle[:last]
		return network, nil
	}
	if n.max > 0 {
		m := <-n.order()
		return m.network, m.err
	}
	if n.next == nil {
		n.next = n.order()
	}
	m := <-n.next
	if n.next = nil; m.err == nil {
		n.next = n.order() // while others do what follows
	}
	return m.network, m.err
}

// give takes a network namespace back. All processes that were in it must be
// dead.
func (n *networks) give(network *network) {
	if len(n.idle) < n.max && network.untouched() {
		n.idle = append(n.idle, network)
		return
	}
	network.close()
}

// countersOf are the files that tell what was done in a network namespace: packets
// that its interface carried, packets and refusals of every protocol, and sockets
// that there are or that linger.
func countersOf() []string {
	return []string{"dev", "snmp", "snmp6", "sockstat", "sockstat6"}
}

// makeNetwork moves this thread to a new network namespace. Without counters,
// untouched cannot say anything of it.
func makeNetwork(counters bool) (n *network, err error) {
	p := newProgram(1)
	p.call("make a network", unix.SYS_UNSHARE, unix.CLONE_NEWNET)
	err = p.run()
	p.free()
	if err != nil {
		return nil, err
	}
	if err := raiseLoopback(); err != nil {
		return nil, err
	}
	n = new(network)
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	const dir = "/proc/thread-self/"
	if n.ns, err = unix.Open(dir+"ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return n, fmt.Errorf("open a network: %w", err)
	}
	if !counters {
		return n, nil
	}
	for _, name := range countersOf() {
		fd, err := unix.Open(dir+"net/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) { // a kernel without IPv6
			continue
		}
		if err != nil {
			return n, fmt.Errorf("open counters of a network: %w", err)
		}
		n.counters = append(n.counters, fd)
	}
	for _, fd := range n.counters {
		text, err := readCounter(fd, nil)
		if err != nil {
			return n, fmt.Errorf("read counters of a network: %w", err)
		}
		n.baseline = append(n.baseline, text)
	}
	return n, nil
}

// readCounter reads a file of /proc from its beginning.
func readCounter(fd int, b []byte) ([]byte, error) {
	b = b[:0]
	for {
		if cap(b)-len(b) < 4096 {
			b = append(make([]byte, 0, 2*cap(b)+8192), b...)
		}
		n, err := unix.Pread(fd, b[len(b):cap(b)], int64(len(b)))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return ofNamespace(b), nil
		}
		b = b[:len(b)+n]
	}
}

// ofNamespace takes those numbers out of the text of sockstat that are not of one
// network namespace but of the machine.
func ofNamespace(text []byte) []byte {
	for _, name := range []string{" orphan ", " alloc ", " mem "} {
		for at := 0; ; {
			i := bytes.Index(text[at:], []byte(name))
			if i < 0 {
				break
			}
			at += i + len(name)
			end := at
			for end < len(text) && '0' <= text[end] && text[end] <= '9' {
				end++
			}
			text = slices.Delete(text, at, end)
		}
	}
	return text
}

// untouched reports whether n is as it was when it was made.
func (n *network) untouched() bool {
	var buf []byte
	for i, fd := range n.counters {
		text, err := readCounter(fd, buf)
		if err != nil || !bytes.Equal(text, n.baseline[i]) {
			return false
		}
		buf = text
	}
	return true
}

func (n *network) close() {
	for _, fd := range append(n.counters, n.ns) {
		unix.Close(fd)
	}
}

// raiseLoopback brings the loopback interface of this thread's network up.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_LOOPBACK | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}
