package builder

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spawnerName is the argv[0] by which a process knows that it is a spawner.
const spawnerName = "storefs-spawner"

// maxLeft is the most builds that are over, and have namespaces and networks that
// the next ones could have, while there is always something else to do.
const maxLeft = 8

// spawnerFD is the descriptor of a spawner's connection to its owner.
const spawnerFD = 3

// spawnerConfig is what a spawner has to know before it begins.
type spawnerConfig struct {
	Store, Real, Builds string
	Devices             []string
	// Spare says that what a build leaves as it was may be the next one's.
	Spare bool
	// Nobody says that the spawner's user namespace knows sandboxNobody, who is
	// root outside, and the owner of all that sandboxes have in common.
	Nobody bool
}

// spawnerProcess is the program of the spawner: the first process of a pid
// namespace, so that the kernel ends every builder with it, and the owner of a
// small heap, so that none of its children has much to carry. All that it does
// follows from what its one thread has waited for: to hand it to others would
// take as long as most of it.
type spawnerProcess struct {
	conn   ownerConn
	maker  *sandboxMaker
	builds []*spawned
	idle   bool // there is nothing to do that nobody waits for
}

// spawned is a build that runs.
type spawned struct {
	id  uint64
	box *sandbox
	end int // descriptor of the process, which can be read when it has ended
}

// beSpawner serves its owner until that has gone.
func beSpawner() {
	// The signal belongs to the thread; the first one lives as long as the
	// process.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		os.Exit(1)
	}
	unix.CloseOnExec(spawnerFD)
	// Children are waited for by those who have started them. Go's runtime would
	// have a thread woken by the signal, for nothing. Not to be handled is not the
	// same as to be ignored: then they would be reaped.
	var handler [4]uintptr
	if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&handler)), 0, 8, 0, 0); e != 0 {
		os.Exit(1)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn := ownerConn(spawnerFD)
		if err := serveOwner(conn); err != nil {
			m := message{says: saysFailed, errno: errnoOf(err), text: err.Error()}
			conn.send(frame{kind: frameFailed, body: m.append(nil)})
		}
	}()
	<-served
	os.Exit(1)
}

// serveOwner returns an error if it cannot begin, and nil when the owner has
// gone. An owner that died before the signal was set says nothing more.
func serveOwner(conn ownerConn) error {
	// This thread goes to the mount namespaces of sandboxes, and so nobody else
	// may have its working directory and root.
	runtime.LockOSThread()
	reader := newFrameReader(conn)
	f, err := reader.next()
	if err != nil {
		return err
	}
	var config spawnerConfig
	if err := json.Unmarshal(f.body, &config); err != nil {
		return err
	}
	maker, err := newSandboxMaker(&config)
	if err != nil {
		return err
	}
	if err := maker.enter(); err != nil {
		return err
	}
	p := &spawnerProcess{conn: conn, maker: maker}
	if err := p.try(); err != nil {
		return err
	}
	conn.send(frame{kind: frameReady})
	for {
		if err := p.serve(reader); err != nil {
			return nil
		}
	}
}

// serve waits for something to do, and does it: what somebody waits for first. The
// error says that the owner has gone.
func (p *spawnerProcess) serve(reader *frameReader) error {
	fds := make([]unix.PollFd, 1, 1+len(p.builds))
	fds[0] = unix.PollFd{Fd: int32(p.conn), Events: unix.POLLIN}
	for _, b := range p.builds {
		fds = append(fds, unix.PollFd{Fd: int32(b.end), Events: unix.POLLIN})
	}
	timeout := 0
	if p.idle {
		timeout = -1
	}
	n, err := unix.Poll(fds, timeout)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return err
	case n == 0:
		p.idle = !p.maker.work()
		return nil
	}
	p.idle = false
	ended := false
	for i := len(p.builds) - 1; i >= 0; i-- {
		if fds[1+i].Revents != 0 {
			p.see(p.builds[i])
			p.builds = slices.Delete(p.builds, i, i+1)
			ended = true
		}
	}
	if fds[0].Revents != 0 {
		for {
			f, err := reader.next()
			if err != nil {
				return err
			}
			p.take(f)
			if !reader.has() {
				break
			}
		}
	}
	for len(p.maker.left) > maxLeft {
		p.maker.work()
	}
	if ended {
		// The kernel likes to run who is woken by the processor that wakes it: what
		// follows, that nobody waits for, takes longer than to find another one.
		_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	return nil
}

// try makes a sandbox of which nothing comes.
func (p *spawnerProcess) try() error {
	s, err := p.maker.start(nil, p.maker.null)
	if err != nil {
		return err
	}
	defer p.maker.reclaim(s)
	e, err := s.reap()
	if err != nil {
		return err
	}
	if _, err := s.program.failed(); err != nil {
		return err
	}
	if e.status != 0 {
		return fmt.Errorf("the trial of a sandbox ended with status %#x", uint32(e.status))
	}
	return nil
}

// take does what a frame says.
func (p *spawnerProcess) take(f frame) {
	switch f.kind {
	case frameBuild:
		l, err := parseLaunch(f.body)
		if err == nil {
			err = p.launch(l, f)
		}
		if err != nil {
			unix.Close(f.fd)
			m := message{says: saysFailed, errno: errnoOf(err), text: err.Error()}
			p.conn.send(frame{kind: frameFailed, id: f.id, body: m.append(nil)})
		}
	case frameKill:
		for _, b := range p.builds {
			if b.id == f.id {
				_ = unix.Kill(b.box.pid, unix.SIGKILL)
			}
		}
	case frameForget:
		p.maker.trees.forget(f.id)
	}
}

func (p *spawnerProcess) launch(l *launch, f frame) error {
	s, err := p.maker.start(l, f.fd)
	if err != nil {
		return err
	}
	end, err := unix.PidfdOpen(s.pid, 0)
	if err != nil {
		p.maker.abandon(s)
		return fmt.Errorf("watch the builder: %w", err)
	}
	s.log = f.fd
	p.builds = append(p.builds, &spawned{id: f.id, box: s, end: end})
	return nil
}

// see tells of the end of a build. The log stays open for a while: its owner is
// not to be woken for the end of that as well.
func (p *spawnerProcess) see(b *spawned) {
	answer := frame{kind: frameEnded, id: b.id}
	s := b.box
	e, err := s.reap()
	switch {
	case err != nil:
		answer.kind, answer.body = frameFailed, message{says: saysFailed, errno: errnoOf(err), text: err.Error()}.append(nil)
	case s.program.result.at != 0:
		answer.kind, answer.body = frameFailed, s.failure().append(nil)
	case !s.began():
		m := message{says: saysFailed, text: fmt.Sprintf("the process ended with status %#x before it was the builder", uint32(e.status))}
		answer.kind, answer.body = frameFailed, m.append(nil)
	default:
		answer.body = e.append(nil)
	}
	if s.tree != nil {
		p.maker.trees.leave(s.tree)
	}
	p.conn.send(answer)
	unix.Close(b.end)
	p.maker.left = append(p.maker.left, s)
}
