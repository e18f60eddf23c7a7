package builder

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"storefs/store"
	"storefs/sysmon"
)

// spawner is a process that makes sandboxes for this one: with a heap so small,
// and namespaces so far prepared, that a sandbox takes a tenth of the time that
// it takes a child of this process.
type spawner struct {
	conn  *net.UnixConn
	table *begunTable // nil once it is dead
	watch *sysmon.Watch

	sending sync.Mutex

	mu     sync.Mutex
	last   uint64
	builds map[uint64]begun // those that have not ended
	gone   bool

	ended chan struct{} // closed when the process is dead and nobody reads conn
}

// errSpawnerDied is the error of a build whose spawner is dead and did not let the
// builder begin.
var errSpawnerDied = errors.New("start a sandbox: the process that starts builders has died")

// errKilled is why a spawner that somebody killed before it was ready could not be
// started. That it cannot be does not follow.
var errKilled = errors.New("it was killed by SIGKILL")

// begun is a build that a spawner has.
type begun struct {
	drv    store.Path
	answer chan<- report
}

// startSpawner starts a spawner, and returns when it can make sandboxes.
func startSpawner(c spawnerConfig, ids identity) (*spawner, error) {
	if !canClone {
		return nil, fmt.Errorf("start a spawner: not on %s", runtime.GOARCH)
	}
	slack, err := sysmon.Slack()
	if err != nil {
		return nil, fmt.Errorf("start a spawner: %w", err)
	}
	c.Slack = slack
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "spawner")
	defer theirs.Close()
	conn, err := unixConn(pair[0])
	if err != nil {
		return nil, err
	}
	table, tableFile, err := newBegunTable()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start a spawner: %w", err)
	}
	defer tableFile.Close()
	pid, dead, err := startSpawnerProcess(theirs, tableFile, ids, slack)
	if err != nil {
		conn.Close()
		table.unmap()
		return nil, diagnose("start a spawner: fork/exec /proc/self/exe: "+err.Error(), errnoOf(err))
	}
	theirs.Close()
	reader := newFrameReader(conn)
	if err = (frame{kind: frameConfig, body: text, fd: -1}).send(conn); err == nil {
		var f frame
		if f, err = reader.next(); err == nil && f.kind != frameReady {
			m := parseMessage(f.body)
			err = m.refusal()
		}
	}
	if err != nil {
		conn.Close()
		if status := <-dead; status.Signal() == unix.SIGKILL {
			err = errKilled
		}
		table.unmap()
		return nil, fmt.Errorf("start a spawner: %w", err)
	}
	s := &spawner{conn: conn, table: table, watch: sysmon.Of(pid, slack), builds: make(map[uint64]begun), ended: make(chan struct{})}
	go s.listen(reader, dead)
	go s.watch.Except() // builds need not wait for that
	return s, nil
}

// unixConn makes a connection of a descriptor, which it takes over.
func unixConn(fd int) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(fd), "spawner")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// idleSlack is how much later than it wanted the kernel may wake a thread of a spawner
// that waits for a time, while that begins; and later the thread which Go has to watch
// over the others. It would wake each tenth of a millisecond, in the place of a builder,
// while builds begin and end.
const idleSlack = 10 * time.Millisecond

// startSpawnerProcess runs this program again. dead says how it has ended. This
// process has the timer slack slack.
func startSpawnerProcess(conn, table *os.File, ids identity, slack int) (pid int, dead <-chan unix.WaitStatus, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	started := make(chan error)
	ended := make(chan unix.WaitStatus, 1)
	go func() {
		defer close(ended)
		// The process is told of the death of the thread that made it: so this
		// one waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		// The new process has that of the thread which makes it, in all of its threads.
		_ = sysmon.SetSlack(int(idleSlack))
		files := []uintptr{0: null.Fd(), 1: null.Fd(), 2: os.Stderr.Fd(), spawnerFD: conn.Fd(), begunFD: table.Fd()}
		// What comes to the files has descriptors behind them on the way.
		if limit := (unix.Rlimit{}); unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Cur > 2*spawnerTableFD {
			files = append(files, slices.Repeat([]uintptr{^uintptr(0)}, spawnerTableFD-len(files))...) // none
			files = append(files, null.Fd())
		}
		// Package os would start another process first, to see what the kernel can do
		// that is not needed here: 2 ms.
		child, err := syscall.ForkExec("/proc/self/exe", []string{spawnerName}, &syscall.ProcAttr{
			Dir:   "/",
			Env:   []string{},
			Files: files,
			Sys: &syscall.SysProcAttr{
				// Its mount namespace it makes itself: what its program is mapped
				// from, its libraries too, is of this one, and keeps nothing alive
				// that is unmounted here.
				Cloneflags:                 namespaces&^unix.CLONE_NEWNS | unix.CLONE_NEWNET,
				UidMappings:                ids.uids,
				GidMappings:                ids.gids,
				GidMappingsEnableSetgroups: ids.setgroups,
				// It is the builder's user, which nothing has to be changed to
				// later, with rights that its children give up.
				Credential:  &syscall.Credential{Uid: sandboxUID, Gid: sandboxGID, NoSetGroups: !ids.setgroups},
				AmbientCaps: append(setUpCaps(), unix.CAP_SYS_CHROOT), // setns
				Setsid:      true,
			},
		})
		_ = sysmon.SetSlack(slack)
		runtime.KeepAlive(null)
		runtime.KeepAlive(conn)
		runtime.KeepAlive(table)
		pid = child
		started <- err
		for err == nil {
			var status unix.WaitStatus
			if _, err := unix.Wait4(child, &status, 0, nil); !errors.Is(err, unix.EINTR) {
				ended <- status
				return
			}
		}
	}()
	err = <-started
	return pid, ended, err
}

// listen hands answers on until the process is dead.
func (s *spawner) listen(reader *frameReader, dead <-chan unix.WaitStatus) {
	defer close(s.ended)
	for {
		f, err := reader.next()
		if err != nil {
			break
		}
		s.answer(f.id, f.report())
	}
	s.conn.Close()
	<-dead
	s.watch.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	for id, b := range s.builds {
		m := message{says: saysUnbegun}
		if s.table.may(id) {
			m.says = saysLost
		}
		b.answer <- report{message: m}
		close(b.answer)
	}
	clear(s.builds)
	s.table.unmap()
	s.table = nil
}

// answer gives a build its report, unless it has one.
func (s *spawner) answer(id uint64, r report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.builds[id]; ok {
		r.next = s.builds[r.ending.next].drv
		b.answer <- r
		close(b.answer)
		delete(s.builds, id)
	}
}

// report is what an answer says.
func (f frame) report() report {
	if f.kind != frameEnded {
		return report{message: parseMessage(f.body)}
	}
	e, err := parseEnding(f.body)
	if err != nil {
		return report{message: message{says: saysFailed, text: err.Error()}}
	}
	return report{message: message{says: saysEnded}, ending: e}
}

// alive reports whether the process could take a build.
func (s *spawner) alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.gone
}

// close ends the process and with it all that it runs.
func (s *spawner) close() {
	s.conn.Close()
	<-s.ended
}

func (s *spawner) send(f frame) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return f.send(s.conn)
}

// forget tells that a scratch directory goes.
func (s *spawner) forget(scratch uint64) {
	_ = s.send(frame{kind: frameForget, id: scratch, fd: -1})
}

// spawn starts a process that follows l, for drv, and writes what the builder writes
// to log. With errSpawnerDied, s is of no more use.
func (s *spawner) spawn(drv store.Path, l *launch, log *os.File) (*child, error) {
	answer := make(chan report, 1)
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return nil, errSpawnerDied
	}
	s.last++
	id := s.last
	s.builds[id] = begun{drv, answer}
	s.mu.Unlock()
	if id%sysmon.LookAgain == 0 {
		go s.watch.Except()
	}

	body := l.append(nil)
	if len(body) > maxFrame {
		// The kernel would say so too. The process would take it for no frame, and end,
		// and all builds with it.
		s.answer(id, report{message: message{says: saysNoExec, text: unix.E2BIG.Error()}})
	} else if err := s.send(frame{kind: frameBuild, id: id, body: body, fd: int(log.Fd())}); err != nil { // Fd makes it block, as a builder expects
		s.mu.Lock()
		delete(s.builds, id)
		s.mu.Unlock()
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
			return nil, errSpawnerDied // what is not whole is not taken
		}
		return nil, fmt.Errorf("start a sandbox: %w", err)
	}
	// Where the connection is broken, that is what is reported.
	c := &child{
		reports: answer,
		kill:    func() { _ = s.send(frame{kind: frameKill, id: id, fd: -1}) },
	}
	if l.held {
		c.grant = func() { _ = s.send(frame{kind: frameGo, id: id, fd: -1}) }
		c.relay = func(r Relay) { _ = s.send(frame{kind: frameRelay, id: id, body: r.append(nil), fd: -1}) }
	}
	return c, nil
}
