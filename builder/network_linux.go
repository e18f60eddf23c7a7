package builder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
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
	wanted  chan struct{} // to the thread that makes them
	made    chan made     // from it
	bell    int           // an eventfd, which it rings when it has made one
	ordered bool          // one is being made, or is made and not among the idle ones
	failed  bool          // the last one could not be made
	idle    []*network
	stock   int    // of idle ones that are made before anybody needs them
	max     int    // idle ones
	room    int    // descriptors below which they get an IPC namespace
	buf     []byte // for counters, of any network
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
	// late says that something may be sent in it after the end of the build that
	// asked for it: nobody else gets it.
	late bool
	// ipc goes with it; nil: builds have their own.
	ipc *ipc
}

// newNetworks starts the thread that makes namespaces, in one of its own: it
// needs no way back. It lives for as long as the process does. home is the mount
// namespace in which it finds its counters.
func newNetworks(spare bool, home int) (*networks, error) {
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	// One is ordered at a time.
	n := &networks{wanted: make(chan struct{}, 1), made: make(chan made, 1), bell: bell}
	if spare {
		n.max = maxIdle
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("get limit of open files: %w", err)
	}
	n.room = int(min(limit.Cur, math.MaxInt32) / 8)
	go func() {
		runtime.LockOSThread()
		failed := goHome(home)
		withIPC := failed == nil && spare && tellsIPC()
		for range n.wanted {
			network, err := (*network)(nil), failed
			if err == nil {
				network, err = makeNetwork(spare, withIPC && n.hasRoom())
			}
			n.made <- made{network, err}
			n.ring()
		}
	}()
	return n, nil
}

// hasRoom reports whether few of the descriptors that this process may have are in use.
// A network with an IPC namespace takes five more, and a build can make its own.
func (n *networks) hasRoom() bool {
	free, err := unix.FcntlInt(uintptr(n.bell), unix.F_DUPFD_CLOEXEC, 0) // the lowest
	if err != nil {
		return false
	}
	unix.Close(free)
	return free < n.room
}

// goHome brings this thread, which must be locked, to a mount namespace.
func goHome(home int) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the other threads: %w", err)
	}
	if err := unix.Setns(home, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the mount namespace: %w", err)
	}
	return nil
}

// stockOfNetworks is how many networks there are beside those in use, once a build has
// ended: where there was one, there will be others. To make one waits for RCU, up to
// 20 ms, and as many are needed as there are sandboxes, one after the other.
const stockOfNetworks = 2

// stockUp has networks made before anybody needs them, from now on.
func (n *networks) stockUp() {
	if n.stock == 0 && n.max > 0 {
		n.stock = stockOfNetworks
		n.restock()
	}
}

// order has a network made, unless one is being made.
func (n *networks) order() {
	if !n.ordered {
		n.ordered = true
		n.wanted <- struct{}{}
	}
}

// ready reports whether take would return at once. If not, the bell rings when it
// would.
func (n *networks) ready() bool {
	n.collect()
	if len(n.idle) > 0 {
		return true
	}
	n.order()
	return false
}

// collect puts the one that was made, if there is one, to the idle ones.
func (n *networks) collect() {
	select {
	case m := <-n.made:
		n.ordered, n.failed = false, m.err != nil
		if m.err == nil {
			n.idle = append(n.idle, m.network)
		}
	default:
	}
}

// restock has one made if there are fewer than there should be.
func (n *networks) restock() {
	stock := n.stock
	if n.max == 0 {
		stock = 1 // none is used again
	}
	if len(n.idle) < stock && !n.failed {
		n.order()
	}
}

// ring says that one was made.
func (n *networks) ring() {
	_, _ = unix.Write(n.bell, binary.NativeEndian.AppendUint64(nil, 1)) // it cannot be full
}

// quiet is for who has heard the bell.
func (n *networks) quiet() {
	var b [8]byte
	_, _ = unix.Read(n.bell, b[:])
	n.collect()
	n.restock()
}

// take returns a network namespace that no other build has.
func (n *networks) take() (*network, error) {
	if last := len(n.idle) - 1; last >= 0 {
		network := n.idle[last]
		n.idle = n.idle[:last]
		n.restock()
		return network, nil
	}
	n.order()
	m := <-n.made
	n.ordered, n.failed = false, m.err != nil
	n.restock() // while others do what follows
	return m.network, m.err
}

// give takes a network namespace back. All processes that were in it must be
// dead.
func (n *networks) give(network *network) {
	if len(n.idle) < n.max && !network.late && n.untouched(network) {
		n.idle = append(n.idle, network)
		return
	}
	network.close()
}

// untouched reports whether a network is as it was when it was made.
func (n *networks) untouched(network *network) bool {
	for _, text := range network.baseline {
		if len(n.buf) <= len(text) {
			n.buf = make([]byte, 2*len(text)+4096)
		}
	}
	return network.untouched(n.buf)
}

// countersOf are the files that tell what was done in a network namespace: packets
// that its interface carried, packets and refusals of every protocol, sockets that
// there are or that linger, and labels of flows, which stay for seconds and need no
// packet.
func countersOf() []string {
	return []string{"dev", "snmp", "snmp6", "sockstat", "sockstat6", "ip6_flowlabel"}
}

// makeNetwork moves this thread to a new network namespace and, withIPC, to a new IPC
// namespace. Without counters, untouched cannot say anything of it.
func makeNetwork(counters, withIPC bool) (n *network, err error) {
	flags := unix.CLONE_NEWNET
	if withIPC {
		flags |= unix.CLONE_NEWIPC
	}
	// The runtime must know that this waits: it stops the spawner's thread, too, to
	// collect garbage, until all others have stopped.
	if err := unix.Unshare(flags); err != nil {
		return nil, fmt.Errorf("make a network: %w", namespaceErrno(unix.SYS_UNSHARE, errnoOf(err)))
	}
	if err := raiseLoopback(); err != nil {
		return nil, err
	}
	n = &network{late: reportAtOnce() != nil}
	defer func() {
		if err != nil {
			n.close()
			n = nil // nobody may close it again, or take it for one that is as it was
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
	if withIPC {
		n.ipc, err = makeIPC()
	}
	return n, err
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
		if n == 0 || err != nil {
			return b, err
		}
		b = b[:len(b)+n]
	}
}

// ofMachine are the names of the numbers in sockstat that are not of one network
// namespace but of the machine.
func ofMachine() []string { return []string{" orphan ", " alloc ", " mem "} }

// sameCounters reports whether a and b differ in nothing but such numbers.
func sameCounters(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		if a[i] == b[j] && !isDigit(a[i]) {
			i, j = i+1, j+1
			continue
		}
		// A number begins here, in both or not at all.
		m, n := digits(a[i:]), digits(b[j:])
		if m == 0 || n == 0 {
			return false
		}
		if !bytes.Equal(a[i:i+m], b[j:j+n]) && !slices.ContainsFunc(ofMachine(), func(name string) bool { return bytes.HasSuffix(a[:i], []byte(name)) }) {
			return false
		}
		i, j = i+m, j+n
	}
	return i == len(a) && j == len(b)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// digits is how many b begins with.
func digits(b []byte) int {
	n := 0
	for n < len(b) && isDigit(b[n]) {
		n++
	}
	return n
}

// untouched reports whether n is as it was when it was made. buf is room for what
// is read.
func (n *network) untouched(buf []byte) bool {
	for i, fd := range n.counters {
		// With more, there would be more than fits into the baseline: the kernel
		// gives as much of such a file at once as there is room for.
		got, err := unix.Pread(fd, buf, 0)
		if err != nil || got == len(buf) || !sameCounters(buf[:got], n.baseline[i]) {
			return false
		}
	}
	return n.ipc == nil || n.ipc.untouched()
}

func (n *network) close() {
	if n.ipc != nil {
		n.ipc.close()
	}
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

// reportAtOnce has multicast groups on the loopback interface of this thread's network
// reported by IGMPv2 and MLDv1. Later versions report what was joined and left when its
// builder may be dead, after milliseconds and again within a second, and it is in the
// counters of the next build. These do it while there is a member, or never. (To bring
// the interface down and up after each build takes 27 µs, and IGMP would still know the
// groups that were left.)
func reportAtOnce() error {
	for _, f := range []struct{ protocol, version string }{{"ipv4/conf/lo/force_igmp_version", "2"}, {"ipv6/conf/lo/force_mld_version", "1"}} {
		name := "/proc/sys/net/" + f.protocol
		fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) { // a kernel without it
			continue
		}
		if err == nil {
			_, err = unix.Write(fd, []byte(f.version))
			unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}
