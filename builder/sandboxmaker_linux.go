package builder

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// sandboxMaker has what sandboxes are made of. It lives in a spawner, which has
// the rights that this takes, and is of its one thread.
type sandboxMaker struct {
	store    string
	template int // descriptor of the mount namespace that each sandbox has a copy of
	home     int // that of the mount namespace of the spawner itself
	seats    *seats
	closer   *closer
	owner    string      // option of tmpfs
	files    unix.Rlimit // on open files, as this program found it
	settings bool        // of the kernel are builders' to change: see machineSettings
	networks *networks
	spare    bool  // what a build left as it was may be of use again
	keep     bool  // mount namespaces, for trees
	users    []int // user namespaces that nobody is in, in which builders had no rights
	trees    inputTrees
	last     *program   // what finish adds
	programs []*program // that are of use again

	// begun are processes that come to wait, or that wait, for any build.
	begun []*sandbox
	// left is what builds that are over have had, again what of it the next builds of
	// the same tree may have, and doomed what is to end: work for when there is no
	// build to begin.
	left, again, doomed []*sandbox
	// stuck says that no sandbox could be made when none was wanted.
	stuck bool
}

// preparedSandboxes is how many sandboxes wait for any build: for more builds than
// there are processors, it is not their making that takes the time.
func preparedSandboxes() int { return min(max(2, runtime.NumCPU()), 8) }

// work does a piece of what nobody waits for, and reports whether there was any.
func (m *sandboxMaker) work() bool {
	switch {
	case m.beginSpare(): // the next build would wait for it
	case len(m.left) > 0:
		s := m.left[0]
		m.left = slices.Delete(m.left, 0, 1)
		if m.reclaim(s) {
			m.again = append(m.again, s)
		}
	case len(m.again) > 0:
		s := m.again[0]
		m.again = slices.Delete(m.again, 0, 1)
		m.renew(s)
	case len(m.doomed) > 0:
		s := m.doomed[0]
		m.doomed = slices.Delete(m.doomed, 0, 1)
		m.abandon(s)
	default:
		return false
	}
	return true
}

// beginSpare begins a sandbox for any build, unless enough wait, and reports whether it
// tried. It does not wait for a network: builds may end meanwhile.
func (m *sandboxMaker) beginSpare() bool {
	if m.stuck || len(m.begun) >= preparedSandboxes() || !m.networks.ready() {
		return false
	}
	s, err := m.begin(noSpace)
	m.stuck = err != nil
	if err == nil {
		m.begun = append(m.begun, s)
	}
	return true
}

// fit returns a sandbox that waits, and has the inputs of l, which may be nil. See attach.
func (m *sandboxMaker) fit(l *launch) (s *sandbox, err error) {
	var tree *inputTree
	if l != nil && m.keep {
		tree = m.trees.take(l)
	}
	if tree != nil {
		if s = m.trees.next(tree); s == nil && tree.isFull() && m.hasten(tree) {
			s = m.trees.next(tree)
		}
		if s != nil {
			return s, nil
		}
	}
	if s, err = m.take(); err != nil {
		if tree != nil {
			m.trees.leave(tree)
		}
		return nil, err
	}
	s.tree = tree
	if err := m.attach(s, l); err != nil {
		m.abandon(s)
		return nil, err
	}
	if tree != nil {
		s.stays = m.trees.grow(tree, len(l.inputs))
	}
	return s, nil
}

// ready reports whether a sandbox waits that fit would return.
func (m *sandboxMaker) ready() bool { return len(m.begun) > 0 && m.begun[0].hasArrived() }

// hasten recycles what builds have left in the namespaces of a tree, and reports
// whether there was anything.
func (m *sandboxMaker) hasten(tree *inputTree) (found bool) {
	m.left = slices.DeleteFunc(m.left, func(s *sandbox) bool {
		if s.tree == tree && m.reclaim(s) {
			m.again = append(m.again, s)
		}
		return s.tree == tree
	})
	m.again = slices.DeleteFunc(m.again, func(s *sandbox) bool {
		if s.tree == tree {
			m.renew(s)
			found = true
		}
		return s.tree == tree
	})
	return found
}

// take returns a sandbox that waits, and has nothing of any build.
func (m *sandboxMaker) take() (*sandbox, error) {
	for len(m.begun) > 0 {
		s := m.begun[0]
		m.begun = slices.Delete(m.begun, 0, 1)
		if s.arrive() == nil && s.waits() {
			return s, nil
		}
		// Whatever was wrong may be long ago, and its reason gone.
		m.abandon(s)
	}
	s, err := m.begin(noSpace)
	if err == nil {
		if err = s.arrive(); err == nil {
			m.stuck = false
			return s, nil
		}
		m.abandon(s)
	}
	return nil, err
}

// abandon ends a sandbox that becomes none.
func (m *sandboxMaker) abandon(s *sandbox) {
	if s.pid > 0 {
		_ = unix.Kill(s.pid, unix.SIGKILL)
		_, _ = s.bury()
	}
	if s.seat != nil {
		s.seat.giveBack() // not before the process is dead
	}
	if s.tree != nil {
		m.trees.leave(s.tree)
		if s.stays {
			m.trees.lose(s.tree)
		}
	}
	m.release(s)
	m.leave(s.space)
}

// shed lets all go that waits for builds to come, or is left of some, and reports whether
// there was anything: what it takes up, the next build may need.
func (m *sandboxMaker) shed() bool {
	for _, s := range m.left {
		if m.reclaim(s) {
			m.again = append(m.again, s)
		}
	}
	for _, s := range m.again {
		m.trees.lose(s.tree)
		m.leave(s.space)
	}
	waiting := append(slices.Concat(m.begun, m.doomed), m.trees.shed()...)
	for _, s := range waiting {
		m.abandon(s)
	}
	found := len(m.left)+len(m.again)+len(waiting)+len(m.users)+len(m.networks.idle) > 0
	m.left, m.again, m.begun, m.doomed = nil, nil, nil, nil
	for _, fd := range m.users {
		unix.Close(fd)
	}
	for _, n := range m.networks.idle {
		n.close()
	}
	m.users, m.networks.idle = nil, nil
	return m.closer.settle() || found
}

// leave lets a space go, in which nobody is any more.
func (m *sandboxMaker) leave(s space) {
	if m.spare && s.users >= 0 && len(m.users) < maxIdle {
		m.users = append(m.users, s.users)
		s.users = -1
	}
	m.closer.take(s)
}

// reclaim takes back what a build had, which has left its tree, and reports whether
// the next one may have its space. All of its processes are dead. Had they been
// the last in its mount namespace, the death of the last one would have waited for
// the end of all mounts, and the build with it: here nobody does.
func (m *sandboxMaker) reclaim(s *sandbox) bool {
	m.release(s)
	if s.tree == nil || !s.stays || !m.trees.wanted(s.tree) {
		m.leave(s.space)
		return false
	}
	if left := s.space.left; left != nil && !left.untouched() {
		left.close()
		s.space.left = nil
	}
	return true
}

// renew begins the next sandbox in a space that reclaim has taken back. It is apart
// from that so that who asks for a build does not wait for both.
func (m *sandboxMaker) renew(s *sandbox) {
	if !m.trees.wanted(s.tree) {
		m.leave(s.space)
		return
	}
	next, err := m.begin(s.space)
	if err != nil {
		m.trees.lose(s.tree)
		return
	}
	next.tree, next.stays = s.tree, true
	m.trees.add(s.tree, next)
}

// release takes back what any build can have.
func (m *sandboxMaker) release(s *sandbox) {
	if len(m.programs) < maxLeft && s.program.clear() {
		m.programs = append(m.programs, s.program)
	} else {
		s.program.free()
	}
	s.program = nil
	for _, fd := range []int{s.end, s.control, s.log} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if s.network != nil {
		m.networks.give(s.network)
	}
}

// leaveMounts gives this thread, which must be locked, a mount namespace of its own,
// for good: nothing that is mounted there is seen outside, or the reverse. It is let
// into others as no other thread has its working directory and root any more.
func leaveMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", namespaceErrno(unix.SYS_UNSHARE, errnoOf(err)))
	}
	return mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}

// newSandboxMaker brings this thread, which must be locked, to where it can make
// sandboxes.
func newSandboxMaker(c *spawnerConfig) (*sandboxMaker, error) {
	m := &sandboxMaker{store: c.Store, spare: c.Spare, keep: c.Spare && !inOwnDir(c.Store)}
	m.trees = inputTrees{trees: make(map[uint64]*inputTree), abandon: func(s *sandbox) { m.doomed = append(m.doomed, s) }}
	var err error
	if m.files, err = foundFileLimit(); err != nil {
		return nil, err
	}
	if m.seats, err = newSeats(); err != nil {
		return nil, err
	}
	if err := leaveMounts(); err != nil {
		return nil, err
	}
	if err := nameHost(); err != nil {
		return nil, err
	}
	syscall.Umask(0)
	if m.template, err = makeTemplate(c); err != nil {
		return nil, err
	}
	// The children open files of their own in /proc.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	if c.Nobody {
		m.owner = fmt.Sprintf(",uid=%[1]d,gid=%[1]d", sandboxNobody)
	}
	if err := c.enterOwnRoot(); err != nil {
		return nil, err
	}
	c.Allowance.set("/")
	if m.home, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open the mount namespace: %w", err)
	}
	m.settings = ownSettings()
	if err := m.restrict(); err != nil {
		return nil, err
	}
	if m.closer, err = newCloser(); err != nil {
		return nil, err
	}
	m.last = newProgram(maxLastCalls)
	if err := m.last.finish(addrNoRandomize); err != nil {
		return nil, err
	}
	if m.networks, err = newNetworks(c.Spare, m.home); err != nil {
		return nil, err
	}
	return m, nil
}

// foundFileLimit is the limit on open files that this program was started with.
// Go's runtime raises it at once, and an exec takes that back, which the exec of
// nothing does too.
func foundFileLimit() (limit unix.Rlimit, err error) {
	if err := syscall.Exec("", nil, nil); !errors.Is(err, unix.ENOENT) {
		return limit, fmt.Errorf("exec of nothing: %w", err)
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return limit, fmt.Errorf("get limit of open files: %w", err)
	}
	high := unix.Rlimit{Cur: limit.Max, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &high); err != nil {
		return limit, fmt.Errorf("set limit of open files: %w", err)
	}
	return limit, nil
}

// ownSettings reports whether builders, whose user this process has, could change the
// kernel's settings in /proc/sys, those of their namespaces among them: it takes no right,
// but to be root outside of all containers, which whoever is alone in one may be.
func ownSettings() bool {
	return unix.Faccessat(unix.AT_FDCWD, "/proc/sys/kernel/hostname", unix.W_OK, unix.AT_EACCESS) == nil
}

// restrict puts the filter of system calls on all threads, whose children it stays
// with: it costs more to make than most of a sandbox, and forbids nothing that
// this process does.
func (m *sandboxMaker) restrict() error {
	p := newProgram(1)
	defer p.free()
	p.filter(unix.SECCOMP_FILTER_FLAG_TSYNC)
	return p.run()
}
