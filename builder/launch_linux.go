package builder

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sandboxMaker has what sandboxes are made of. It lives in a spawner, which has
// the rights that this takes.
type sandboxMaker struct {
	store    string
	template int // descriptor of the mount namespace that each sandbox has a copy of
	null     int
	owner    string      // option of tmpfs
	files    unix.Rlimit // on open files, as this program found it
	networks *networks
	trees    inputTrees
	// last is what finish adds, by personality. It is the same for all builds.
	mu   sync.Mutex
	last map[uintptr]*program
}

// sandbox is a process that becomes a builder.
type sandbox struct {
	pid     int
	network *network
	program *program
	builder int    // the first call of the program that is about the builder, and not the sandbox
	clock   []byte // where the process puts the time of its exec
}

// attachment is a mount that nobody sees yet, and its place in a sandbox.
type attachment struct {
	fd     int
	inside string
}

// start makes the process. With l nil, it tries what a sandbox takes and ends.
func (m *sandboxMaker) start(l *launch, log int) (s *sandbox, err error) {
	var mounts []attachment
	defer func() {
		for _, a := range mounts {
			unix.Close(a.fd)
		}
	}()
	if l != nil {
		if mounts, err = m.mounts(l); err != nil {
			return nil, err
		}
	}
	s = new(sandbox)
	if s.network, err = m.networks.take(); err != nil {
		return nil, err
	}
	if err = m.compile(s, l, mounts, log); err == nil {
		if s.pid, err = s.program.start(unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err == nil {
			return s, nil
		}
		err = fmt.Errorf("start a process: %w", err)
	}
	m.release(s)
	return nil, err
}

// release takes back what a sandbox had. All of its processes are dead.
func (m *sandboxMaker) release(s *sandbox) {
	s.program.free()
	m.networks.give(s.network)
}

// mounts are what a sandbox for l has beside its copy of the template.
func (m *sandboxMaker) mounts(l *launch) (mounts []attachment, err error) {
	defer func() {
		if err != nil {
			for _, a := range mounts {
				unix.Close(a.fd)
			}
			mounts = nil
		}
	}()
	add := func(outside, inside string) error {
		fd, err := unix.OpenTree(unix.AT_FDCWD, outside, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err == nil {
			mounts = append(mounts, attachment{fd, inside})
		}
		return err
	}
	scratch := path.Join(buildsDir, l.scratch)
	for _, d := range []struct{ outside, inside string }{{"build", buildDir}, {"tmp", "/tmp"}} {
		if err := add(path.Join(scratch, d.outside), d.inside); err != nil {
			return mounts, fmt.Errorf("bind %s: %w", d.inside, err)
		}
	}
	if len(l.inputs) > directInputs {
		fd, err := m.trees.clone(l)
		if err == nil {
			mounts = append(mounts, attachment{fd, m.store})
		}
		return mounts, err
	}
	m.trees.forget(l.number)
	if err := add(l.storeDir(), m.store); err != nil {
		return mounts, fmt.Errorf("bind %s: %w", m.store, err)
	}
	for _, base := range l.inputs {
		if err := add(realDir+"/"+base, path.Join(m.store, base)); err != nil {
			return mounts, fmt.Errorf("input %s: %w", base, err)
		}
	}
	return mounts, nil
}

// sandboxCalls is the most that compile adds, beside maxLastCalls and the mounts.
const sandboxCalls = 64

// compile writes the program of a sandbox: what needs rights, then giving them up,
// then the exec.
func (m *sandboxMaker) compile(s *sandbox, l *launch, mounts []attachment, log int) error {
	p := newProgram(sandboxCalls + maxLastCalls + len(mounts))
	s.program = p
	p.call("start a session", unix.SYS_SETSID)
	for fd, from := range []int{m.null, log, log} {
		p.call("redirect", unix.SYS_DUP3, uintptr(from), uintptr(fd), 0)
	}
	// The spawner's own limit is Go's doing.
	p.call("set limit of open files", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, place(p, m.files), 0)
	p.call("enter the template", unix.SYS_SETNS, uintptr(m.template), unix.CLONE_NEWNS)
	p.call("copy the template", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	p.call("enter the network", unix.SYS_SETNS, uintptr(s.network.ns), unix.CLONE_NEWNET)
	for _, f := range ownMounts(m.owner) {
		fstype := p.text(f.fstype)
		p.call("mount "+f.fstype+" on "+f.target[1:], unix.SYS_MOUNT, fstype, p.text(f.target), fstype, f.flags, p.text(f.data))
	}
	empty := p.text("")
	for _, a := range mounts {
		if a.inside == m.store {
			m.makeStoreDir(p)
		}
		p.call("mount "+a.inside, unix.SYS_MOVE_MOUNT, uintptr(a.fd), empty, atFDCWD, p.text(a.inside), unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	p.call("enter "+buildDir, unix.SYS_CHDIR, p.text(buildDir))
	p.call("set umask", unix.SYS_UMASK, 0o022)

	// The namespace that the rest is owned by is another one: in this, the
	// builder could have no rights to it even if it had any.
	p.call("make a user namespace", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	p.write("/proc/self/setgroups", "deny")
	p.write("/proc/self/uid_map", fmt.Sprintf("%[1]d %[1]d 1", sandboxUID))
	p.write("/proc/self/gid_map", fmt.Sprintf("%[1]d %[1]d 1", sandboxGID))
	personality := uintptr(addrNoRandomize)
	if l != nil {
		personality = l.personality
	}
	last, err := m.lastCalls(personality)
	if err != nil {
		return err
	}
	p.add(last)
	p.call("close descriptors", unix.SYS_CLOSE_RANGE, 3, ^uintptr(0)>>1, unix.CLOSE_RANGE_CLOEXEC)
	s.clock = p.bytes(int(unsafe.Sizeof(unix.Timespec{})))
	p.call("read the clock", unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, address(s.clock))
	s.builder = len(p.calls)
	if l == nil {
		p.call("end", unix.SYS_EXIT_GROUP, 0)
		return nil
	}
	name := p.text(l.builder)
	p.call("find the builder", unix.SYS_FACCESSAT, atFDCWD, name, unix.F_OK)
	p.call("execute the builder", unix.SYS_EXECVE, name, p.texts(l.args), p.texts(l.env))
	return nil
}

// lastCalls is a program that finish makes.
func (m *sandboxMaker) lastCalls(personality uintptr) (*program, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.last[personality]; p != nil {
		return p, nil
	}
	p := newProgram(maxLastCalls)
	if err := p.finish(personality); err != nil {
		return nil, err
	}
	m.last[personality] = p
	return p, nil
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

// atFDCWD is AT_FDCWD as an argument of a call.
const atFDCWD = ^uintptr(-unix.AT_FDCWD - 1)

// makeStoreDir makes the store directory where it is below a directory that is
// the builder's own.
func (m *sandboxMaker) makeStoreDir(p *program) {
	for _, own := range []string{buildDir, "/tmp"} {
		rest, below := strings.CutPrefix(m.store, own+"/")
		if !below {
			continue
		}
		dir := own
		for _, name := range strings.Split(rest, "/") {
			dir += "/" + name
			p.call("make "+dir, unix.SYS_MKDIRAT, atFDCWD, p.text(dir), 0o755).unless(unix.EEXIST)
		}
	}
}

// write adds calls that write text to a file. It is left open.
func (p *program) write(file, text string) {
	open := p.call("open "+file, unix.SYS_OPENAT, atFDCWD, p.text(file), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	p.pass(open, 1, 0)
	p.call("write "+file, unix.SYS_WRITE, 0, p.text(text), uintptr(len(text))).least = len(text)
}

// wait waits until the process is a zombie, with all others of its pid namespace
// dead.
func (s *sandbox) wait() error {
	for {
		err := unix.Waitid(unix.P_PID, s.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// reap ends the zombie. Its pid means nothing then.
func (s *sandbox) reap() (e ending, err error) {
	var now, realtime unix.Timespec
	for {
		_, err := unix.Wait4(s.pid, &e.status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return e, fmt.Errorf("wait for the builder: %w", err)
		}
		break
	}
	for clock, t := range map[int32]*unix.Timespec{unix.CLOCK_MONOTONIC: &now, unix.CLOCK_REALTIME: &realtime} {
		if err := unix.ClockGettime(clock, t); err != nil {
			return e, fmt.Errorf("read the clock: %w", err)
		}
	}
	then := *(*unix.Timespec)(unsafe.Pointer(unsafe.SliceData(s.clock)))
	if then.Nano() > 0 { // it got so far
		e.took = now.Nano() - then.Nano()
	}
	e.started = realtime.Nano() - e.took
	return e, nil
}

// failure is why a reaped process did not become the builder.
func (s *sandbox) failure() message {
	i, err := s.program.failed()
	m := message{says: saysFailed, errno: errnoOf(err), text: err.Error()}
	if i >= s.builder {
		m.says, m.text = saysNoExec, m.errno.Error()
		if i > s.builder && m.errno == unix.ENOENT {
			m.text = noInterpreter(m.errno).Error()
		}
	}
	return m
}
