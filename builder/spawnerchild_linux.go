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

	"storefs/sysmon"
)

// spawnerName is the argv[0] by which a process knows that it is a spawner.
const spawnerName = "storefs-spawner"

// maxLeft is the most builds that are over, and have namespaces and networks that
// the next ones could have, while there is always something else to do.
const maxLeft = 8

// spawnerFD is the descriptor of a spawner's connection to its owner.
const spawnerFD = 3

// begunFD is the descriptor of the table in which a spawner marks builds.
const begunFD = 4

// spawnerTableFD is a descriptor that a spawner is started with, where so many are
// allowed, and closes: so its table of descriptors is as large from the beginning as it
// will have to be. A table that grows has who opens a file wait for RCU, 5 to 8 ms, if
// threads share it.
const spawnerTableFD = 1023

// spawnerConfig is what a spawner has to know before it begins.
type spawnerConfig struct {
	Store, Real, Builds string
	Devices             []string
	// Spare says that what a build leaves as it was may be the next one's.
	Spare bool
	// Nobody says that the spawner's user namespace knows sandboxNobody, who is
	// root outside, and the owner of all that sandboxes have in common.
	Nobody bool
	// Allowance is of all builders together.
	Allowance allowance
	// Slack is the timer slack that builders have, in nanoseconds: their owner's.
	Slack int
}

// spawnerProcess is the program of the spawner: the first process of a pid
// namespace, so that the kernel ends every builder with it, and the owner of a
// small heap, so that none of its children has much to carry. All that it does
// follows from what its one thread has waited for: to hand it to others would
// take as long as most of it.
type spawnerProcess struct {
	conn   ownerConn
	table  *begunTable
	maker  *sandboxMaker
	builds []*spawned
	held   []*heldLaunch // in the order in which they came
	idle   bool          // there is nothing to do that nobody waits for
}

// heldLaunch is a build that waits for its turn.
type heldLaunch struct {
	id     uint64
	launch *launch
	log    int
	relay  Relay
	tried  bool     // it was tried to give it a sandbox
	box    *sandbox // nil: it has none yet
}

// spawned is a build that runs.
type spawned struct {
	id   uint64
	box  *sandbox
	pool byte
	heir int64
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
	unix.CloseOnExec(begunFD)
	unix.Close(spawnerTableFD)
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
	table, err := mapBegunTable(begunFD)
	if err != nil {
		return err
	}
	unix.Close(begunFD)
	// Builders have what the thread has that makes them.
	if err := sysmon.SetSlack(config.Slack); err != nil {
		return err
	}
	beBatch()
	beExpendable()
	maker, err := newSandboxMaker(&config)
	if err != nil {
		return err
	}
	p := &spawnerProcess{conn: conn, table: table, maker: maker}
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
	const others = 3 // than builds
	fds := make([]unix.PollFd, others, others+len(p.builds))
	fds[0] = unix.PollFd{Fd: int32(p.conn), Events: unix.POLLIN}
	fds[1] = unix.PollFd{Fd: int32(p.maker.networks.bell), Events: unix.POLLIN}
	fds[2] = unix.PollFd{Fd: int32(p.awaited()), Events: unix.POLLIN}
	for _, b := range p.builds {
		fds = append(fds, unix.PollFd{Fd: int32(b.box.end), Events: unix.POLLIN})
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
		p.idle = !p.fit() && !p.maker.work()
		return nil
	}
	p.idle = false
	ended := false
	if fds[1].Revents != 0 {
		p.maker.networks.quiet()
	}
	for i := len(fds) - 1 - others; i >= 0; i-- { // more may be added meanwhile, at the end
		if fds[others+i].Revents != 0 {
			b := p.builds[i]
			p.builds = slices.Delete(p.builds, i, i+1)
			p.see(b)
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
	s, err := p.maker.fit(nil)
	if err != nil {
		return err
	}
	if err := s.launch(nil, p.maker.seats.null); err != nil {
		p.maker.abandon(s)
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
		if f.fd < 0 {
			p.fail(f.id, fmt.Errorf("take the log: %w", unix.EMFILE))
			return
		}
		l, err := parseLaunch(f.body)
		if err != nil {
			unix.Close(f.fd)
			p.fail(f.id, err)
			return
		}
		h := &heldLaunch{id: f.id, launch: l, log: f.fd}
		if l.held {
			p.held = append(p.held, h)
			return
		}
		p.launch(h)
	case frameGo:
		if h := p.release(f.id); h != nil {
			p.launch(h)
		}
	case frameRelay:
		// What is not held any more has been started, and its owner will hear of it.
		if i := p.heldAt(f.id); i >= 0 {
			if r, err := parseRelay(f.body); err == nil {
				p.held[i].relay = r
			}
		}
	case frameKill:
		for _, b := range p.builds {
			if b.id == f.id {
				_ = unix.Kill(b.box.pid, unix.SIGKILL)
			}
		}
		if h := p.release(f.id); h != nil {
			if h.box != nil {
				p.maker.abandon(h.box)
			}
			unix.Close(h.log)
			p.fail(h.id, errors.New("it was not started"))
		}
	case frameForget:
		p.maker.trees.forget(f.id)
	}
}

// heldAt is where a launch is held, -1 if it is not.
func (p *spawnerProcess) heldAt(id uint64) int {
	return slices.IndexFunc(p.held, func(h *heldLaunch) bool { return h.id == id })
}

// release takes a launch from those that are held, nil if it is not.
func (p *spawnerProcess) release(id uint64) *heldLaunch {
	i := p.heldAt(id)
	if i < 0 {
		return nil
	}
	h := p.held[i]
	p.held = slices.Delete(p.held, i, i+1)
	return h
}

// relay starts what takes the place of b, which has ended well, and returns its id,
// 0 if nothing does.
func (p *spawnerProcess) relay(b *spawned) uint64 {
	var next *heldLaunch
	for _, h := range p.held {
		if h.relay.Open && h.launch.pool == b.pool && h.relay.Rank > b.heir && (next == nil || h.relay.Rank > next.relay.Rank) {
			next = h
		}
	}
	if next == nil {
		return 0
	}
	p.release(next.id)
	if !p.launch(next) {
		return 0
	}
	return next.id
}

// awaited is where a sandbox arrives that one of those that are held will be given, when
// there is nothing else to do; -1: that is not so.
func (p *spawnerProcess) awaited() int {
	untried := func(h *heldLaunch) bool { return !h.tried }
	if !p.idle || len(p.maker.begun) == 0 || !slices.ContainsFunc(p.held, untried) {
		return -1
	}
	return p.maker.begun[0].control
}

// fit gives a sandbox to one of those that are held, so that it starts the sooner when
// it may, and reports whether it did.
func (p *spawnerProcess) fit() bool {
	for _, h := range p.held {
		if h.tried || !p.maker.ready() {
			continue
		}
		h.tried = true
		h.box, _ = p.maker.fit(h.launch) // an error comes again, and is told then
		return true
	}
	return false
}

// start starts a build, in the sandbox that it has been given if that still waits.
func (p *spawnerProcess) start(h *heldLaunch) (*spawned, error) {
	s := h.box
	if s != nil && !s.waits() {
		p.maker.abandon(s)
		s = nil
	}
	h.box = nil
	if s == nil {
		var err error
		if s, err = p.maker.fit(h.launch); err != nil {
			return nil, err
		}
	}
	p.table.mark(h.id)
	if err := s.launch(h.launch, h.log); err != nil {
		p.maker.abandon(s)
		return nil, err
	}
	s.log = h.log
	return &spawned{id: h.id, box: s, pool: h.launch.pool, heir: h.launch.heir}, nil
}

// shed lets all go that waits for builds to come, and reports whether there was anything.
func (p *spawnerProcess) shed() bool {
	found := false
	for _, h := range p.held {
		if h.box != nil {
			p.maker.abandon(h.box)
			h.box, found = nil, true
		}
	}
	return p.maker.shed() || found
}

// launch starts a build, and reports whether it could; if not, its owner has been
// told.
func (p *spawnerProcess) launch(h *heldLaunch) bool {
	b, err := p.start(h)
	if err != nil && isShort(errnoOf(err)) && p.shed() {
		b, err = p.start(h)
	}
	if err != nil {
		unix.Close(h.log)
		p.fail(h.id, err)
		return false
	}
	p.builds = append(p.builds, b)
	return true
}

// fail tells that a build has not begun, and why.
func (p *spawnerProcess) fail(id uint64, err error) {
	m := message{says: saysFailed, errno: errnoOf(err), text: err.Error()}
	p.conn.send(frame{kind: frameFailed, id: id, body: m.append(nil)})
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
		if e.status == 0 {
			e.next = p.relay(b)
		}
		answer.body = e.append(nil)
	}
	if s.tree != nil {
		p.maker.trees.leave(s.tree)
	}
	p.conn.send(answer)
	p.maker.networks.stockUp()
	p.maker.left = append(p.maker.left, s)
}
