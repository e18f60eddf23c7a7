package builder

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// sandboxMaker has what sandboxes are made of. It lives in a spawner, which has
// the rights that this takes.
type sandboxMaker struct {
	store    string
	template int // descriptor of the mount namespace that each sandbox has a copy of
	home     int // that of the mount namespace of the spawner itself
	null     int
	owner    string      // option of tmpfs
	files    unix.Rlimit // on open files, as this program found it
	networks *networks
	keep     bool // mount namespaces, for trees
	trees    inputTrees
	last     *program // what finish adds
	prepared chan preparation
}

// preparation is a sandbox that waits for its build, or why there is none.
type preparation struct {
	sandbox *sandbox
	err     error
}

// preparedSandboxes is how many sandboxes wait: for more builds than there are
// processors, it is not their making that takes the time.
func preparedSandboxes() int { return min(max(2, runtime.NumCPU()), 8) }

// prepareAhead makes sandboxes before there are builds for them, so that these do
// not wait for what is the same for all. It goes on for as long as the process.
func (m *sandboxMaker) prepareAhead() {
	for {
		s, err := m.prepare(space{-1, -1})
		m.prepared <- preparation{s, err}
	}
}

// start gives l a sandbox. With l nil, it is tried what that takes, and ends.
// Only the thread that called enter may do this.
func (m *sandboxMaker) start(l *launch, log int) (s *sandbox, err error) {
	var tree *inputTree
	if l != nil && m.keep {
		tree = m.trees.take(l)
	}
	if tree != nil {
		s = m.trees.next(tree)
	}
	if s == nil {
		if s, err = m.take(); err != nil {
			if tree != nil {
				m.trees.leave(tree)
			}
			return nil, err
		}
		s.tree = tree
		if err = m.attach(s, l); err == nil && tree != nil {
			s.stays = m.trees.grow(tree, len(l.inputs))
		}
	}
	if err == nil {
		err = s.launch(l, log)
	}
	if err != nil {
		m.abandon(s)
		return nil, err
	}
	return s, nil
}

// take returns a sandbox that waits, and has nothing of any build.
func (m *sandboxMaker) take() (*sandbox, error) {
	p := <-m.prepared
	if p.err == nil && p.sandbox.waits() {
		return p.sandbox, nil
	}
	if p.err == nil {
		m.abandon(p.sandbox)
	}
	// Whatever was wrong may be long ago, and its reason gone.
	return m.prepare(space{-1, -1})
}

// enter makes this thread, which must be locked, the one that starts builds.
func (m *sandboxMaker) enter() error {
	// It is let into other mount namespaces only if no other thread has the
	// working directory and the root that change with them.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the other threads: %w", err)
	}
	var err error
	if m.home, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the mount namespace: %w", err)
	}
	return nil
}

// abandon ends a sandbox that becomes none.
func (m *sandboxMaker) abandon(s *sandbox) {
	if s.pid > 0 {
		_ = unix.Kill(s.pid, unix.SIGKILL)
		_, _ = s.bury()
	}
	if s.tree != nil {
		m.trees.leave(s.tree)
		if s.stays {
			m.trees.lose(s.tree)
		}
	}
	m.release(s)
	s.space.close()
}

// recycle takes back what a build had, which has left its tree. All of its processes are dead. Had they been
// the last in its mount namespace, the death of the last one would have waited for
// the end of all mounts, and the build with it: here nobody does.
func (m *sandboxMaker) recycle(s *sandbox) {
	m.release(s)
	if s.tree == nil || !s.stays || !m.trees.wanted(s.tree) {
		s.space.close()
		return
	}
	next, err := m.prepare(s.space)
	if err == nil {
		next.tree, next.stays = s.tree, true
	}
	m.trees.add(s.tree, preparation{next, err})
}

// release takes back what any build can have.
func (m *sandboxMaker) release(s *sandbox) {
	s.program.free()
	if s.control >= 0 {
		unix.Close(s.control)
	}
	if s.network != nil {
		m.networks.give(s.network)
	}
}

// newSandboxMaker brings this process to where sandboxes can be made.
func newSandboxMaker(c *spawnerConfig) (*sandboxMaker, error) {
	m := &sandboxMaker{store: c.Store, keep: c.Spare && !inOwnDir(c.Store)}
	m.trees = inputTrees{trees: make(map[uint64]*inputTree), abandon: m.abandon}
	var err error
	if m.files, err = foundFileLimit(); err != nil {
		return nil, err
	}
	if m.null, err = unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	// Nothing that is mounted here may be seen outside, or the reverse.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
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
	if err := m.restrict(); err != nil {
		return nil, err
	}
	m.last = newProgram(maxLastCalls)
	if err := m.last.finish(addrNoRandomize); err != nil {
		return nil, err
	}
	m.networks = newNetworks(c.Spare)
	m.prepared = make(chan preparation, preparedSandboxes()-1)
	go m.prepareAhead()
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

// restrict puts the filter of system calls on all threads, whose children it stays
// with: it costs more to make than most of a sandbox, and forbids nothing that
// this process does.
func (m *sandboxMaker) restrict() error {
	p := newProgram(1)
	defer p.free()
	p.filter(unix.SECCOMP_FILTER_FLAG_TSYNC)
	return p.run()
}
