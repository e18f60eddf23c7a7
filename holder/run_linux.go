package holder

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"storefs/outlet"
)

// Options of Run.
type Options struct {
	// Args are the arguments of the server, its name first.
	Args []string
	// Alive reports whether the mount to which the files belong is still there.
	Alive func(files []*os.File) bool
	// Detach gives it up, for good.
	Detach func(files []*os.File) error
	// UpgradeTime is how long a new program may take until it can begin; zero is
	// half a minute.
	UpgradeTime time.Duration
}

// holder is what Run knows. Everything in it is touched by the goroutine of Run
// alone.
type holder struct {
	Options
	program string // what servers are started from
	env     []string

	current  *process // nil between a death and the next start
	next     *process // the one that is to take current's place
	newer    string   // the program of next
	files    []*os.File
	deaths   int  // in a row
	stopping bool // a signal came
	told     bool // the service manager knows that the mount is ready
	out      *outlet.Outlet

	events  chan any
	signals chan os.Signal
	restart <-chan time.Time // when to start the next server, if current is nil
	overdue <-chan time.Time // when to kill current, if it has not parted by then
	late    <-chan time.Time // when to call next off, if it cannot begin by then
}

// statusInterrupted is the exit status of all commands that a signal ends.
const statusInterrupted = 130

// Events of holder.events, besides signals.
type (
	came struct {
		from *process
		packet
	}
	died struct {
		who *process
		death
	}
	hushed struct{} // the current server is not listened to any more
)

// Run is a holder's whole life. It returns the exit status.
func Run(o Options) int {
	h := &holder{
		Options: o,
		program: "/proc/self/exe",
		events:  make(chan any),
		signals: make(chan os.Signal, 8),
	}
	defer h.flush()
	h.UpgradeTime = cmp.Or(h.UpgradeTime, upgradeTime)
	signal.Notify(h.signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	// Who is called so hears signals: those before this would have ended it.
	_ = os.WriteFile("/proc/self/comm", []byte(Name), 0)
	// Whether anybody reads what it says or not, it lives.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	adopt, state := os.Getenv(envAdopt), os.Getenv(envState)
	for _, name := range []string{envAdopt, envState, envLink} {
		os.Unsetenv(name)
	}
	h.env = environment()
	var err error
	switch {
	case adopt != "":
		err = h.adopt(adopt)
	case state != "":
		err = h.resume(state)
	default:
		h.stored()
		err = h.start()
	}
	if err != nil {
		h.say("%v", err)
		return 1
	}
	return h.run()
}

// environment is that of servers: the service manager is this process's to talk
// to.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES":
		default:
			env = append(env, v)
		}
	}
	return env
}

// say waits for nobody who reads: callers of the mount wait for this process.
func (h *holder) say(format string, args ...any) {
	if h.out == nil {
		h.out = outlet.New(os.Stderr, os.Stderr)
	}
	fmt.Fprintf(h.out, "storefs: "+format+"\n", args...)
}

// flush ends what was said, before the process ends, or becomes another program.
func (h *holder) flush() {
	if h.out != nil {
		h.out.Flush(slowness)
	}
}

// start starts a server in the place of none.
func (h *holder) start() error {
	p, err := start(h.program, h.Args, h.env, func(s *socket) error { return s.send(packetTake, "", h.files...) })
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	h.current = p
	h.listen(p)
	return nil
}

// listen makes p's packets and its death events.
func (h *holder) listen(p *process) {
	go func() {
		for {
			packet, err := p.socket.receive()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				h.events <- hushed{}
				return
			}
			if err != nil {
				break
			}
			h.events <- came{p, packet}
		}
		// What it has said counts before that it is dead.
		h.events <- died{p, p.wait()}
	}()
}

// run returns the exit status.
func (h *holder) run() int {
	for {
		var status int
		var end bool
		select {
		case s := <-h.signals:
			status, end = h.stop(s)
		case e := <-h.events:
			switch e := e.(type) {
			case came:
				status, end = h.take(e)
			case died:
				status, end = h.bury(e)
			}
		case <-h.overdue:
			_ = h.current.signal(unix.SIGKILL)
		case <-h.late:
			h.callOff(fmt.Sprintf("the new program was not ready to begin after %s", h.UpgradeTime))
		case <-h.restart:
			if err := h.start(); err != nil {
				return h.giveUp(err.Error())
			}
		}
		if end {
			return status
		}
	}
}

// stop passes a signal on.
func (h *holder) stop(s os.Signal) (status int, end bool) {
	h.stopping = true
	if h.current == nil {
		return h.giveUp("interrupted"), true
	}
	if s, ok := s.(unix.Signal); ok {
		_ = h.current.signal(s)
	}
	return 0, false
}

// take takes a packet in.
func (h *holder) take(e came) (status int, end bool) {
	switch e.kind {
	case packetStandingBy:
		e.from.stands = true
		if e.from == h.next {
			h.late = nil
			h.part(e.text == heir)
		}
	case packetHold:
		if len(h.files) == 0 {
			h.files = e.files
			h.store()
			return 0, false
		}
	case packetReady:
		e.from.readyAt = time.Now()
		if !h.told {
			h.told = true
			h.tell(sd.SdNotifyReady)
		}
		if e.from == h.current && h.newer != "" {
			h.say("upgraded: %s (pid %d) serves the mount now", h.newer, e.from.pid)
			return h.become(h.newer)
		}
	case packetEnding:
		e.from.ending = true
		h.unstore()
		closeAll(h.files)
		h.files = nil
		TellStatus("")
		h.tell(sd.SdNotifyStopping)
	case packetStatus:
		if e.from == h.current && !e.from.ending {
			TellStatus(e.text)
		}
	case packetUpgrade:
		h.upgrade(e.text)
	case packetCallOff:
		h.callOff("called off")
	}
	closeAll(e.files)
	return 0, false
}

// begin lets the current server begin.
func (h *holder) begin() {
	if err := h.current.socket.send(packetTake, "", h.files...); err != nil {
		_ = h.current.signal(unix.SIGKILL)
	}
}

// bury decides what follows the death of a server.
func (h *holder) bury(e died) (status int, end bool) {
	defer e.who.close()
	switch e.who {
	case h.next:
		h.next, h.newer, h.late = nil, "", nil
		h.refuse("the new program ended before it could serve: " + e.how)
		return 0, false
	case h.current:
		h.current, h.overdue = nil, nil
		// Callers wait: not for what may never be ready.
		h.callOff("")
	default:
		return 0, false // it was called off
	}
	switch {
	case e.who.ending || len(h.files) == 0:
		if h.next != nil {
			h.next.kill()
		}
		switch {
		case !e.killed || e.who.ending: // who ends by itself has said why
		case h.stopping:
			return statusInterrupted, true // before it could hear a signal
		default:
			h.say("the server (pid %d) died: %s; there is nothing that another one could go on with", e.who.pid, e.how)
		}
		return e.status, true
	case h.stopping:
		return h.giveUp("the server ended without giving the mount up: " + e.how), true
	case h.next != nil:
		// As it was meant, or it died a little earlier than that.
		h.current, h.next = h.next, nil
		h.begin()
		return 0, false
	}
	if h.newer != "" {
		// It had begun, and this program is still the one before.
		h.say("the new program does not serve (%s): going back to the one before", e.how)
		h.newer = ""
	}
	if !e.who.quick() {
		h.deaths = 0
	}
	h.deaths++
	if h.deaths >= maxDeaths {
		return h.giveUp(fmt.Sprintf("the server died %d times in a row, the last time by: %s", h.deaths, e.how)), true
	}
	delay := time.Duration(0)
	if h.deaths > 1 {
		delay = firstDelay << (h.deaths - 2)
	}
	h.say("the server (pid %d) died: %s; starting it again", e.who.pid, e.how)
	h.restart = time.After(delay)
	return 0, false
}

// giveUp leaves the mount to nobody: callers get errors instead of waiting for
// ever.
func (h *holder) giveUp(why string) int {
	h.say("the mount is given up: %s", why)
	if err := h.Detach(h.files); err != nil {
		h.say("%v", err)
	}
	h.unstore()
	closeAll(h.files)
	return 1
}

// upgrade starts program beside the current server. It takes that one's place
// when it says that it could begin.
func (h *holder) upgrade(program string) {
	if len(h.files) == 0 {
		h.refuse("there is nothing that another server could go on with")
		return
	}
	if h.next != nil || h.newer != "" {
		h.refuse("another upgrade is under way")
		return
	}
	next, err := start(program, h.Args, h.env, nil)
	if err != nil {
		h.refuse(err.Error())
		return
	}
	h.next, h.newer, h.late = next, program, time.After(h.UpgradeTime)
	h.listen(next)
}

// callOff ends an upgrade, unless its program can begin: then it does.
func (h *holder) callOff(why string) {
	next := h.next
	if next == nil || next.stands {
		return
	}
	h.next, h.newer, h.late = nil, "", nil
	next.kill()
	next.socket.close() // also if somebody else has the other end, its end is waited for
	h.refuse(why)
}

func (h *holder) refuse(why string) {
	if h.current != nil {
		_ = h.current.socket.send(packetRefused, why)
	}
}

// part tells the current server to leave the mount to the next one. If that is an
// heir, this process may die from now on.
func (h *holder) part(heir bool) {
	who := h.current
	if who == nil || who.parted {
		return
	}
	who.parted = true
	var told []*os.File
	if heir {
		told = h.bequeath()
		defer closeAll(told)
	}
	if who.socket.send(packetPart, "", told...) != nil {
		_ = who.signal(unix.SIGKILL)
		return
	}
	h.overdue = time.After(partTime)
}
