package builder

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sandbox is a process that waits to become a builder, and then does: the first
// in namespaces of its own, without any right, in which nothing is of a build
// until it gets one.
type sandbox struct {
	pid     int
	end     int   // its descriptor, which can be read when it has ended
	seat    *seat // nil: it has no process
	control int   // a socket: at its other end the process waits for its log
	log     int   // the spawner's; -1: none. See spawnerProcess.see
	space   space
	network *network
	tree    *inputTree // of its inputs; nil: none
	stays   bool       // its space is one of the tree
	program *program
	builder int    // the first call of the program that is about the builder, and not the sandbox
	clock   []byte // where the process puts the time of its exec
}

// space is what a build, which has no right to it, leaves as it was: a mount
// namespace, and a user namespace. No two processes of different builds are in one
// at the same time.
type space struct {
	mounts, users int         // descriptors; -1: none
	left          *leftMounts // what stays mounted; nil: nothing does
	// heavy says that the last build in it had the time to make what takes long to remove:
	// a million files in /dev/shm take the kernel seconds.
	heavy bool
}

// maxOpenings is the most descriptors that a process sends of its space.
const maxOpenings = 3

// opening is a file that a process opens for the spawner.
type opening struct {
	name string
	how  uintptr
}

// receive takes what was opened: the namespaces that are new or, where they are not,
// what stays mounted, or nothing.
func (s *space) receive(fds []int) (err error) {
	for _, ns := range []*int{&s.mounts, &s.users} {
		if *ns < 0 && len(fds) > 0 {
			*ns, fds = fds[0], fds[1:]
		}
	}
	if len(fds) > 0 {
		s.left, err = newLeftMounts(fds)
	}
	return err
}

// noSpace is before there is one.
var noSpace = space{mounts: -1, users: -1}

func (s space) close() {
	for _, fd := range []int{s.mounts, s.users} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if s.left != nil {
		s.left.close()
	}
}

// Descriptors of a process that waits, after the usual three.
const (
	waitFD = 3 // the control socket
	logFD  = 4 // the first that is free: what comes over that
)

// Bounds on what compile and launch add, beside maxLastCalls.
const (
	compiledCalls = 60
	launchCalls   = 10
)

// begin begins to make a sandbox that waits: in a copy of the template or, where
// left has that, in the space that an earlier one has left, which is the new one's
// then. It goes on by itself.
func (m *sandboxMaker) begin(left space) (s *sandbox, err error) {
	s = &sandbox{end: -1, control: -1, log: -1, space: left, program: m.program()}
	if last := len(m.users) - 1; left.users < 0 && last >= 0 {
		s.space.users, m.users = m.users[last], m.users[:last]
	}
	defer func() {
		if err != nil {
			m.abandon(s)
			s = nil
		}
	}()
	if s.network, err = m.networks.take(); err != nil {
		return s, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return s, os.NewSyscallError("socketpair", err)
	}
	s.control = pair[0]
	s.seat = m.seats.take(s.program, pair[1])
	m.compile(s)
	flags := uint64(unix.CLONE_NEWPID | unix.CLONE_FILES)
	if s.network.ipc == nil {
		flags |= unix.CLONE_NEWIPC
	}
	if s.pid, s.end, err = s.program.start(flags); err != nil {
		return s, fmt.Errorf("start a process: %w", err)
	}
	return s, nil
}

// program returns one with room for all that a sandbox needs.
func (m *sandboxMaker) program() *program {
	last := len(m.programs) - 1
	if last < 0 {
		return newProgram(compiledCalls + maxLastCalls + launchCalls)
	}
	p := m.programs[last]
	m.programs = m.programs[:last]
	return p
}

// arrive returns when a sandbox that was begun waits, or why it does not.
func (s *sandbox) arrive() error {
	for !s.seat.isLeft() {
		// As long as the spawner has the process's end of the socket, that does not tell
		// of its death.
		fds := []unix.PollFd{{Fd: int32(s.control), Events: unix.POLLIN}, {Fd: int32(s.end), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, -1); n > 0 {
			break
		} else if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
	}
	s.seat.giveBack()
	fds, err := receiveFDs(s.control)
	if err == nil {
		return s.space.receive(fds)
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	status, err := s.bury()
	s.pid = 0
	if err != nil {
		return err
	}
	if _, err := s.program.failed(); err != nil {
		return err
	}
	return fmt.Errorf("a sandbox ended with status %#x", uint32(status))
}

// receiveFDs takes a message, and the descriptors that come with it.
func receiveFDs(socket int) ([]int, error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(maxOpenings*4))
	n, oobn, flags, _, err := ownerConn(socket).ReadMsgUnix(b[:], oob)
	if errors.Is(err, unix.ECONNRESET) { // it died with something unread
		return nil, io.EOF
	}
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	fds, err := rights(oob[:oobn])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		// Nobody could tell which of them these are.
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("take what a sandbox has opened: %w", unix.EMFILE)
	}
	return fds, err
}

// hasArrived reports whether arrive would return at once.
func (s *sandbox) hasArrived() bool { return !s.isSilent() }

// waits reports whether the process, which has arrived, still waits.
func (s *sandbox) waits() bool { return s.isSilent() }

// isSilent reports whether the process lives, and has said nothing that was not heard.
func (s *sandbox) isSilent() bool {
	var b [1]byte
	_, _, err := unix.Recvfrom(s.control, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return errors.Is(err, unix.EAGAIN)
}

// compile writes the program of a sandbox as far as it is the same for all builds:
// what needs rights, then giving them up, then waiting for what launch adds.
func (m *sandboxMaker) compile(s *sandbox) {
	p := s.program
	p.call("start a session", unix.SYS_SETSID)
	// The spawner's own limit is Go's doing.
	p.call("set limit of open files", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, place(p, m.files), 0)
	// What the build before left as it was stays. /proc is of its processes.
	own, first, alone := ownMounts(m.owner), s.space.mounts < 0, s.space.users < 0
	if s.space.left != nil {
		own = slices.DeleteFunc(own, func(f fsMount) bool { return f.stays })
	}
	if first {
		p.call("enter the template", unix.SYS_SETNS, uintptr(m.template), unix.CLONE_NEWNS)
		p.call("copy the template", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	} else {
		p.call("enter a mount namespace", unix.SYS_SETNS, uintptr(s.space.mounts), unix.CLONE_NEWNS)
		for _, f := range own {
			p.call("unmount "+f.target[1:], unix.SYS_UMOUNT2, p.text(f.target), unix.MNT_DETACH)
		}
	}
	p.call("enter the network", unix.SYS_SETNS, uintptr(s.network.ns), unix.CLONE_NEWNET)
	if s.network.ipc != nil {
		p.call("enter an IPC namespace", unix.SYS_SETNS, uintptr(s.network.ipc.ns), unix.CLONE_NEWIPC)
	}
	for _, f := range own {
		fstype := p.text(f.fstype)
		p.call("mount "+f.fstype+" on "+f.target[1:], unix.SYS_MOUNT, fstype, p.text(f.target), fstype, f.flags, p.text(f.data))
	}
	if m.settings {
		for _, place := range machineSettings() {
			name := p.text(place)
			for _, flags := range readOnlyBind() {
				p.call("protect "+place[1:], unix.SYS_MOUNT, name, name, 0, flags, 0).unless(unix.ENOENT)
			}
		}
	}
	p.call("set umask", unix.SYS_UMASK, 0o022)
	// The namespace that the rest is owned by is another one: in this, the
	// builder could have no rights to it even if it had any.
	if !alone {
		p.call("enter a user namespace", unix.SYS_SETNS, uintptr(s.space.users), unix.CLONE_NEWUSER)
	}
	s.seat.leave(p)
	p.call("redirect", unix.SYS_DUP3, uintptr(m.seats.null), 0, 0)
	if alone {
		p.call("make a user namespace", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
		p.write("/proc/self/setgroups", "deny")
		p.write("/proc/self/uid_map", fmt.Sprintf("%[1]d %[1]d 1", sandboxUID))
		p.write("/proc/self/gid_map", fmt.Sprintf("%[1]d %[1]d 1", sandboxGID))
	}
	var opened []opening
	if first {
		opened = append(opened, opening{"/proc/self/ns/mnt", unix.O_RDONLY})
	}
	if alone {
		opened = append(opened, opening{"/proc/self/ns/user", unix.O_RDONLY})
	}
	if !first && s.space.left == nil { // it will be a build's again
		opened = append(opened, leftPlaces()...)
	}
	ready, fds := p.message(len(opened))
	for i, o := range opened {
		// The upper half of a result is zero, and is overwritten by the next.
		p.call("open "+o.name[1:], unix.SYS_OPENAT, atFDCWD, p.text(o.name), o.how|unix.O_CLOEXEC, 0).to = address(fds[4*i:])
	}
	p.add(m.last)
	p.call("say that it waits", unix.SYS_SENDMSG, waitFD, ready, unix.MSG_NOSIGNAL).least = 1
	// Nothing that others have may stay for longer because this waits.
	p.call("close descriptors: close_range", unix.SYS_CLOSE_RANGE, waitFD+1, ^uintptr(0)>>1, 0)
	log, _ := p.message(1)
	p.call("wait for a build", unix.SYS_RECVMSG, waitFD, log, unix.MSG_CMSG_CLOEXEC).least = 1
}

// launch gives the process its log, and a program that ends in the exec of the
// builder. Its mounts are attached.
func (s *sandbox) launch(l *launch, log int) error {
	p := s.program
	for fd := uintptr(1); fd <= 2; fd++ {
		p.call("redirect", unix.SYS_DUP3, logFD, fd, 0)
	}
	if l != nil {
		if l.personality != addrNoRandomize {
			p.setPersonality(l.personality)
		}
		p.call("enter "+buildDir, unix.SYS_CHDIR, p.text(buildDir))
	}
	s.clock = p.bytes(int(unsafe.Sizeof(unix.Timespec{})))
	p.call("read the clock", unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, address(s.clock))
	s.builder = len(p.calls)
	if l == nil {
		p.call("end", unix.SYS_EXIT_GROUP, 0)
	} else {
		name := p.text(l.builder)
		p.call("find the builder", unix.SYS_FACCESSAT, atFDCWD, name, unix.F_OK)
		p.call("execute the builder", unix.SYS_EXECVE, name, p.texts(l.args), p.texts(l.env))
	}
	if err := unix.Sendmsg(s.control, []byte{0}, unix.UnixRights(log), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("give a sandbox its log: %w", err)
	}
	return nil
}

// message is the address of a struct msghdr, of linux/socket.h, for a byte and n
// descriptors, whose places are at fds.
func (p *program) message(n int) (header uintptr, fds []byte) {
	iov := place(p, struct{ base, size uintptr }{address(p.bytes(1)), 1})
	m := struct{ name, nameSize, iov, iovs, control, controlSize, flags uintptr }{iov: iov, iovs: 1}
	if n > 0 {
		// A call may write eight bytes to the last place.
		control := p.bytes(unix.CmsgSpace(4*n) + 8)
		cmsg := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(control)))
		cmsg.Level, cmsg.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
		cmsg.SetLen(unix.CmsgLen(4 * n))
		m.control, m.controlSize = address(control), uintptr(unix.CmsgSpace(4*n))
		fds = control[unix.CmsgLen(0):]
	}
	return place(p, m), fds
}

// write adds calls that write text to a file. It is left open.
func (p *program) write(file, text string) {
	open := p.call("open "+file, unix.SYS_OPENAT, atFDCWD, p.text(file), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	p.pass(open, 1, 0)
	p.call("write "+file, unix.SYS_WRITE, 0, p.text(text), uintptr(len(text))).least = len(text)
}

// bury waits for the process to be a zombie and ends that. Its pid means nothing
// then.
func (s *sandbox) bury() (status unix.WaitStatus, err error) {
	for {
		_, err := unix.Wait4(s.pid, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return status, fmt.Errorf("wait for the builder: %w", err)
		}
		return status, nil
	}
}

// reap is bury for one that was launched.
func (s *sandbox) reap() (e ending, err error) {
	var now, realtime unix.Timespec
	if e.status, err = s.bury(); err != nil {
		return e, err
	}
	for clock, t := range map[int32]*unix.Timespec{unix.CLOCK_MONOTONIC: &now, unix.CLOCK_REALTIME: &realtime} {
		if err := unix.ClockGettime(clock, t); err != nil {
			return e, fmt.Errorf("read the clock: %w", err)
		}
	}
	if s.began() {
		e.took = now.Nano() - s.execAt()
	}
	s.space.heavy = e.took > int64(heavyBuild)
	e.started = realtime.Nano() - e.took
	return e, nil
}

// execAt is when the process called exec, by the monotonic clock, or 0.
func (s *sandbox) execAt() int64 {
	return (*unix.Timespec)(unsafe.Pointer(unsafe.SliceData(s.clock))).Nano()
}

// began reports whether the process got so far.
func (s *sandbox) began() bool { return s.execAt() > 0 }

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
