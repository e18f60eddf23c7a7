package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/daemon"
	"storefs/event"
	"storefs/fs"
	"storefs/normaliser"
	"storefs/prefetch"
	"storefs/pressure"
	"storefs/progress"
	"storefs/state"
	"storefs/store"
	"storefs/substitute"
)

// ownerOptions say how a process owns a state directory.
type ownerOptions struct {
	role   string // the command
	watch  bool   // as a client it only watches
	repeat bool   // what it asks as a client may be asked twice
	jobs   int
	// jobsPerUser and backgroundJobs are those of normaliser.Options.
	jobsPerUser    int
	backgroundJobs int
	limits         builder.Limits // likewise
	load           float64        // see pressure.Options
	sandbox        sandboxFlags
	stop           func() // ends the owner because a client asked for it; nil refuses
	upgrade        func(ctx context.Context, program string) error
	holder         func() int        // the process that holds the mount; nil: there is none
	wait           time.Duration     // for another owner to end
	say            func(line string) // tells people something; nil is stderr
}

// owner is a process that owns a state directory: everything that answers its
// clients.
type owner struct {
	options    ownerOptions
	state      *state.State
	events     *event.Bus
	builder    *builder.Local
	normaliser *normaliser.Normaliser
	library    *library
	denials    *denials
	server     *daemon.Server
	door       door
	vigil      vigil
	foreseen   sync.Once
	prepared   sync.WaitGroup // what was begun ahead of builds
	watching   chan struct{}  // closed when nobody watches the machine any more
	unwatch    func()
	learner    *prefetch.Learner // nil unless something is to be prefetched

	mu      sync.Mutex
	floor   []byte     // see floorSize
	care    *care      // nil unless what is read is to be verified
	mounted *fs.Server // nil unless mounted
	at      string     // the mount point
	untold  bool       // something became valid while nothing was mounted
	parted  bool       // the mount is another process's
	// late is what the mount has to be told that is not there yet, or being taken over, while
	// other commands can come in; arrived is closed when it was told.
	late    []func(*fs.Server)
	arrived chan struct{}
}

// openOwner takes the state over and begins to serve its socket.
func openOwner(a *app, o ownerOptions) (own *owner, err error) {
	if o.say == nil {
		o.say = func(line string) { fmt.Fprintln(a.news(), line) }
	}
	own = &owner{options: o, events: &event.Bus{}, arrived: make(chan struct{})}
	own.state, err = state.Open(a.State, state.Options{Events: own.events, Command: "storefs " + o.role, LockTimeout: o.wait})
	if err != nil {
		return nil, err
	}
	// Others depend on this process from here on, also when nobody reads any more what
	// it says. Builders do not inherit that, as they would if the signal were ignored.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	opened := own.state
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.Close())
		}
	}()
	if o.role != "mount" && state.Held(a.State) {
		// Its server died since this process looked.
		return nil, &state.InUseError{Dir: a.State, Command: "a mount"}
	}
	sandbox, err := o.sandbox.paths()
	if err != nil {
		return nil, err
	}
	own.builder, err = builder.New(builder.Options{
		Store:        own.state.Store(),
		Real:         own.state.RealDir(),
		Builds:       own.state.Builds(),
		Logs:         own.state.Logs(),
		SandboxPaths: sandbox,
		Spare:        filepath.Join(own.state.Builds(), "spare"), // opening the state empties it
		NoSpawner:    o.sandbox.NoSpawner,
		Say:          func(line string) { o.say("storefs: " + line) },
	})
	if err != nil {
		return nil, err
	}
	own.normaliser = normaliser.New(normaliser.Options{
		Store:       goalStore{own.state, &own.vigil},
		Foresee:     own.foresee,
		Builder:     own.builder,
		Substituter: substitute.Registered{DB: own.state.DB()},
		Events:      own.events,
		Jobs:        o.jobs,
		JobsPerUser: o.jobsPerUser,
		Limits:      o.limits,

		BackgroundJobs: o.backgroundJobs,
	})
	own.library = &library{state: own.state, normaliser: own.normaliser, forget: own.forget, replaced: own.replaced, hold: own.hold}
	own.denials = newDenials(own.state.Store(), o.say)
	upgrade := own.upgrade
	if o.upgrade == nil {
		upgrade = nil
	}
	own.server = daemon.New(daemon.Options{
		Hello:     own.hello,
		Realiser:  own.normaliser,
		Adder:     own.library,
		Mover:     own.library,
		Querier:   own.library,
		Records:   own.library,
		Denied:    own.denials.of,
		Caretaker: own.library,
		Trails:    own.library,
		Events:    own.events,
		Mount:     own.mount,
		Stop:      o.stop,
		Upgrade:   upgrade,
	})
	own.watchMachine()
	if o.role != "mount" {
		own.door.delay = time.AfterFunc(quickTime, own.admitLater)
	} else if err := own.admit(); err != nil {
		err = errors.Join(err, own.settle(context.Background()))
		own.release()
		return nil, err
	}
	return own, nil
}

// quickTime is how long a command keeps the socket shut, unless it begins to
// build: most have ended by then, and others that come meanwhile try again within
// milliseconds.
const quickTime = 20 * time.Millisecond

// door is whether other commands can come in.
type door struct {
	mu     sync.Mutex
	delay  *time.Timer // opens it; nil: that is not left to one
	open   bool
	closed bool // for good
	served chan error
}

// admit begins to serve the socket, unless that was done, or is too late.
func (o *owner) admit() error {
	d := &o.door
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open || d.closed {
		return nil
	}
	listener, err := daemon.Listen(o.state.Socket())
	if err != nil {
		return err
	}
	d.open, d.served = true, make(chan error, 1)
	go func() { d.served <- o.server.Serve(listener) }()
	return nil
}

// admitLater does so beside the command, which can do without.
func (o *owner) admitLater() {
	if err := o.admit(); err != nil {
		o.options.say("storefs: other commands have to wait for this one: " + err.Error())
	}
}

// shut lets nobody in any more.
func (o *owner) shut() {
	d := &o.door
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	if d.delay != nil {
		d.delay.Stop()
	}
}

// keepFloor keeps floorSize of nothing, if it was not kept before: a client of a mount may
// have something built before the mount is there.
func (o *owner) keepFloor() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.floor == nil {
		o.floor = make([]byte, floorSize)
	}
}

// foresee prepares for builds: what takes long begins while the graph that needs
// it is planned.
func (o *owner) foresee() {
	o.foreseen.Do(func() {
		if o.options.role != "mount" { // of which one build is wanted at a time
			o.vigil.begin()
			builder.Batch()
		}
		o.keepFloor() // of a mount, it is there
		o.prepared.Go(o.builder.Prepare)
		o.prepared.Go(o.admitLater)
		// The first registration would say what is wrong with it.
		o.prepared.Go(func() { _ = o.state.Touch() })
	})
}

// forgetTime is how long a deletion waits for the kernel to hear of it: callers
// who wait in a LOOKUP (mount --wait=lookup) keep it from that.
const forgetTime = time.Second

// forget tells the builder and the mount of paths that were deleted, and
// waits until the kernel has heard of it: whoever deletes a path and touches it then
// must not get the old one.
func (o *owner) forget(ctx context.Context, deleted []store.Path) {
	names := make([]string, len(deleted))
	for i, p := range deleted {
		names[i] = p.Base()
	}
	o.tell(ctx, func(mounted *fs.Server) { mounted.Deleted(names) })
}

// replaced is forget for a path that was made anew, with the same contents or with others.
func (o *owner) replaced(ctx context.Context, p store.Path, same bool) {
	o.tell(ctx, func(mounted *fs.Server) {
		if same {
			mounted.Replaced(p.Base())
		} else {
			mounted.Deleted([]string{p.Base()})
		}
	})
}

func (o *owner) tell(ctx context.Context, news func(*fs.Server)) {
	o.builder.Forget()
	ctx, cancel := context.WithTimeout(ctx, forgetTime)
	defer cancel()
	o.mu.Lock()
	mounted := o.mounted
	if mounted == nil {
		if o.options.role != "mount" || o.parted {
			o.mu.Unlock()
			return
		}
		o.late = append(o.late, news)
	}
	o.mu.Unlock()
	if mounted != nil {
		news(mounted)
	} else if mounted = o.arrival(ctx); mounted == nil {
		return
	}
	select {
	case <-mounted.Told():
	case <-ctx.Done():
	}
}

// arrival waits for the mount.
func (o *owner) arrival(ctx context.Context) *fs.Server {
	select {
	case <-o.arrived:
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mounted
}

// hold keeps what is replaced from being compared until release is called, and has
// the next server of the mount tell the kernel of it if this one cannot.
func (o *owner) hold(p store.Path) (release func(), err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.parted {
		return nil, fmt.Errorf("another process serves the mount: %w", store.ErrCancelled)
	}
	told, free := func() {}, func() {}
	if o.mounted != nil {
		told = o.mounted.Replacing(p.Base())
	}
	if o.care != nil {
		free = o.care.Hold(p)
	}
	return func() {
		defer free()
		o.mu.Lock()
		defer o.mu.Unlock()
		if !o.parted { // else nobody was told
			told()
		}
	}, nil
}

// watchMachine lets the normaliser start less while the machine is short of
// something.
func (o *owner) watchMachine() {
	gauge := pressure.New(pressure.Options{Load: o.options.load})
	ctx, cancel := context.WithCancel(context.Background())
	o.unwatch, o.watching = cancel, make(chan struct{})
	go func() {
		defer close(o.watching)
		gauge.Run(ctx, o.normaliser.Hold)
	}()
}

func (o *owner) hello() daemon.Hello {
	holder := 0
	if o.options.holder != nil {
		holder = o.options.holder()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return daemon.Hello{
		Holder:       holder,
		Version:      version(),
		PID:          os.Getpid(),
		Role:         o.options.role,
		State:        o.state.Dir(),
		Store:        o.state.Store(),
		Mountpoint:   o.at,
		SandboxPaths: o.options.sandbox.SandboxPath,
	}
}

// mount is what the mount does, nil if there is none.
func (o *owner) mount() *daemon.MountStatus {
	o.mu.Lock()
	m := o.mounted
	o.mu.Unlock()
	if m == nil {
		return nil
	}
	return &daemon.MountStatus{Data: string(m.Data()), Nodes: m.Nodes(), Requests: m.Requests()}
}

// unmountTime is how long a mount that is in use may keep its owner from
// ending. It is detached by then, and new callers do not find it.
const unmountTime = 2 * time.Second

// close ends the owner; this is the order of everything that ends: first the
// mount, whose callers wait for goals; then the clients, who do too; then the
// goals, which build and write to the state; then who has only looked at them; then the
// builder and the state. Clients and goals may take their time until hard ends, which
// cancels them.
func (o *owner) close(hard context.Context) error {
	err := o.unmount()
	o.shut()
	o.server.Drain(hard, func(clients int) {
		o.options.say(fmt.Sprintf("storefs: done; waiting for other commands that use this process: %d (an interrupt cancels what they do)", clients))
	})
	settled := o.settle(hard)
	o.server.Close()
	if o.door.open {
		if e := os.Remove(o.state.Socket()); !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
		err = errors.Join(err, <-o.door.served)
	}
	o.release()
	return errors.Join(err, settled, o.state.Close())
}

// settle ends all that makes or changes anything.
func (o *owner) settle(hard context.Context) error {
	var err error
	o.unwatch()
	<-o.watching
	if o.learner != nil {
		o.learner.Close()
	}
	if o.care != nil {
		err = errors.Join(err, o.care.close())
	}
	if e := o.endGoals(hard); hard.Err() == nil {
		err = errors.Join(err, e) // else it says that builds were cancelled, as was wanted
	}
	return err
}

// release ends what nobody uses any more, but for the state.
func (o *owner) release() {
	o.prepared.Wait()
	// Nobody uses the state any more. What is in the way of that is found by Close, too.
	var settled sync.WaitGroup
	settled.Go(func() { _ = o.state.Settle() })
	o.builder.Close()
	settled.Wait()
}

// endGoals waits for the goals that run: after a failure, what had begun beside it is
// not lost. When that takes more than a second, it says so.
func (o *owner) endGoals(hard context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- o.normaliser.Close(hard) }()
	select {
	case err := <-ended:
		return err
	case <-time.After(time.Second):
	}
	var names []string
	for _, g := range o.normaliser.Status().Running {
		names = append(names, progress.Name(g.Goal))
	}
	if n := len(names) - 5; n > 0 {
		names = append(names[:5], fmt.Sprintf("and %d more", n))
	}
	if len(names) > 0 {
		o.options.say(fmt.Sprintf("storefs: done; waiting for builds that had begun: %s (an interrupt cancels them)", strings.Join(names, ", ")))
	}
	return <-ended
}

func (o *owner) unmount() error {
	o.mu.Lock()
	mounted := o.mounted
	o.mu.Unlock()
	if mounted == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), unmountTime)
	defer cancel()
	err := mounted.Unmount(ctx)
	if isBusy(err) {
		o.options.say(fmt.Sprintf("storefs: %s was unmounted; who is in it still gets errors from now on", o.state.Store()))
		return nil
	}
	return err
}

// upgrade lets program go on with the mount, if it could.
func (o *owner) upgrade(ctx context.Context, program string) error {
	o.mu.Lock()
	mounted := o.mounted
	o.mu.Unlock()
	if mounted != nil && mounted.Held() == nil {
		return fmt.Errorf("the mount does not survive its server (its messages say why): %w", store.ErrRefused)
	}
	return o.options.upgrade(ctx, program)
}

// part ends the owner without its mount, which is left to the next server.
// What runs is cancelled: that one starts it again.
func (o *owner) part() error {
	o.mu.Lock()
	mounted := o.mounted
	o.mounted, o.parted = nil, true
	o.mu.Unlock()
	mounted.Part()
	ended, end := context.WithCancel(context.Background())
	end()
	return o.close(ended)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
