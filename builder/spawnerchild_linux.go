package builder

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spawnerName is the argv[0] by which a process knows that it is a spawner.
const spawnerName = "storefs-spawner"

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
// small heap, so that none of its children has much to carry.
type spawnerProcess struct {
	conn    ownerConn
	sending sync.Mutex
	maker   *sandboxMaker

	mu   sync.Mutex
	pids map[uint64]int // of the builds that run
}

// beSpawner serves its owner until that has gone.
func beSpawner() {
	// The signal belongs to the thread; the first one lives as long as the
	// process.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		os.Exit(1)
	}
	// Its goroutines wait in system calls, which keep what Go calls a processor
	// until it is taken from them. Whoever comes back from one finds another.
	runtime.GOMAXPROCS(max(4, runtime.NumCPU()))
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
	p := &spawnerProcess{conn: conn, maker: maker, pids: make(map[uint64]int)}
	if err := p.try(); err != nil {
		return err
	}
	p.send(frame{kind: frameReady})
	for {
		f, err := reader.next()
		if err != nil {
			return nil
		}
		p.take(f)
	}
}

// try makes a sandbox of which nothing comes.
func (p *spawnerProcess) try() error {
	s, err := p.maker.start(nil, p.maker.null)
	if err != nil {
		return err
	}
	defer p.maker.recycle(s)
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

func (p *spawnerProcess) send(f frame) {
	p.sending.Lock()
	defer p.sending.Unlock()
	p.conn.send(f)
}

// take does what a frame says. Builds are begun one after the other: it takes less
// time than to hand them on, and the kernel would let them wait for each other.
func (p *spawnerProcess) take(f frame) {
	switch f.kind {
	case frameBuild:
		l, err := parseLaunch(f.body)
		var s *sandbox
		if err == nil {
			s, err = p.maker.start(l, f.fd)
		}
		if err != nil {
			unix.Close(f.fd)
			m := message{says: saysFailed, errno: errnoOf(err), text: err.Error()}
			p.send(frame{kind: frameFailed, id: f.id, body: m.append(nil)})
			return
		}
		p.mu.Lock()
		p.pids[f.id] = s.pid
		p.mu.Unlock()
		go p.see(f.id, s, f.fd)
	case frameKill:
		p.mu.Lock()
		defer p.mu.Unlock()
		if pid := p.pids[f.id]; pid != 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	case frameForget:
		p.maker.trees.forget(f.id)
	}
}

// see waits for the end of a build, and tells of it. It keeps the log open until
// then: its owner is not to be woken for the end of that first.
func (p *spawnerProcess) see(id uint64, s *sandbox, log int) {
	answer := frame{kind: frameEnded, id: id}
	e, err := p.end(id, s)
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
	p.send(answer)
	// The kernel likes to run who is woken by the processor that wakes it: what
	// follows, that nobody waits for, takes longer than to find another one.
	_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	p.maker.recycle(s)
	unix.Close(log)
}

// end waits for the end of a process. While it is a zombie its pid is its own.
func (p *spawnerProcess) end(id uint64, s *sandbox) (ending, error) {
	err := s.wait()
	p.mu.Lock()
	delete(p.pids, id)
	p.mu.Unlock()
	if err != nil {
		return ending{}, fmt.Errorf("wait for the builder: %w", err)
	}
	return s.reap()
}
