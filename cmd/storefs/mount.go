package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/event"
	"storefs/fs"
	"storefs/holder"
	"storefs/normaliser"
	"storefs/notice"
	"storefs/progress"
	"storefs/state"
)

type mountCmd struct {
	Background bool `short:"b" negatable:"" help:"Return when the mount is ready, and serve it from the background; messages go to STATE/daemon.log, those until then to standard error as well."`
	Survive    bool `negatable:"" default:"true" help:"Serve from a process of its own, and start that again when it dies: callers only wait."`

	Wait          string         `enum:"placeholder,lookup" default:"placeholder" help:"Where callers wait for what is not realised: behind a placeholder, or (lookup) in the lookup itself, for use below an overlayfs or an NFS export."`
	Data          string         `enum:"auto,noopen,passthrough,cached" default:"auto" help:"How the contents of files reach the kernel: without a request for each open, read by it from the disk directly (passthrough: for big files; needs CAP_SYS_ADMIN and Linux 6.9), or with one for each open, through its page cache (cached). [${default}: noopen]"`
	FailureTTL    time.Duration  `name:"failure-ttl" default:"60s" placeholder:"TIME" help:"How long the lookup of a path that failed fails at once, without another build; at most 5s where not the build was at fault, as with a full disk. [${default}]"`
	CancelOrphans *time.Duration `placeholder:"TIME" help:"End a build that nobody waits for any more after this time. [never: it goes on]"`
	AllowOther    bool           `negatable:"" default:"${allow_other}" help:"Let other users see the mount. [yes for root]"`
	Export        string         `placeholder:"DIR" type:"existingdir" help:"Show the store in DIR as well, under the name of the store directory, for containers to bind with rslave propagation: they see it come and go. Where mounts are not shared (under systemd they are), DIR is a mount point from then on, and stays one for the next mount: umount DIR ends that. Needs root."`
	Xattrs        bool           `negatable:"" default:"true" help:"Show what is known of store objects as extended attributes (user.storefs.…). [yes]"`

	PrefetchJobs uint `placeholder:"N" default:"0" help:"Learn which paths programs use one after the other and, when one of them begins again, realise what is missing of them ahead of it: up to N builds at a time, in slots that nobody else wants. 0: learn nothing. [${default}]"`

	Verify string `enum:"none,open" default:"none" placeholder:"WHEN" help:"Compare files with the hashes that were recorded when they were registered: none, or (open) each before it is read for the first time after the machine was started, and the names in a directory before one of them is looked up. What is damaged, or missing, is EIO to its reader, and is made anew."`

	policyFlags
	jobsFlag
	limitFlags
	sandboxFlags
}

func (*mountCmd) Help() string {
	return `Mounts the store at its store directory, which must be an existing empty directory, and serves it in the foreground until it is interrupted (SIGINT, SIGTERM, SIGHUP), or until "storefs umount". Readiness, and in a line what it does, is told to systemd (sd_notify). Messages go to stderr; where that is a pipe that nobody reads, they keep nothing waiting: the last ones are dropped, and counted.

Looking up a path that is known but not realised starts its build and waits for it; listing starts nothing. A lookup fails with EIO when a builder failed ("storefs why PATH" says why), ETIMEDOUT when it ran out of time, ENOSPC when the disk is full, EACCES for callers whom a policy keeps from it (--policy, --deny-…; by default indexers, virus scanners and backup programs).

The mount is served by a process of its own, which is started again when it dies, or replaced by "storefs upgrade": callers only wait meanwhile (Linux 6.9 or later; --no-survive serves it from this process). Running builds begin anew. After five deaths in a row the mount is given up.

Why something takes its time shows in .storefs/waiters and .storefs/status, and what is known of NAME, without realising it, in .storefs/info/NAME, .storefs/why/NAME and its extended attributes (getfattr -d).

A process whose environment had STOREFS_NOTIFY=1 when it began is told on its terminal what it waits for, once that takes longer than a second.

All other commands with the same state directory work while it is mounted: they ask this process.`
}

// Validate is for kong, which does not ask embedded structs.
func (c *mountCmd) Validate() error {
	if c.FailureTTL < 0 {
		return fmt.Errorf("--failure-ttl=%s: must not be negative", c.FailureTTL)
	}
	if c.CancelOrphans != nil && *c.CancelOrphans < 0 {
		return fmt.Errorf("--cancel-orphans=%s: must not be negative", *c.CancelOrphans)
	}
	return errors.Join(c.policyFlags.check(), c.jobsFlag.check(), c.limitFlags.check())
}

func (c *mountCmd) Run(ctx context.Context, a *app) error {
	if err := a.findState(); err != nil {
		return err
	}
	if c.Background {
		if err := c.fit(ctx, a); err != nil {
			return err
		}
		return c.background(ctx, a)
	}
	a.serves()
	meter := progress.Start(progress.For(a.stderr, a.outlet, progress.Options{}))
	defer meter.Close()
	link, err := holder.Connect(append([]string{"storefs"}, os.Args[1:]...), meter.Say)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if link == nil {
		// Not of the next server: a mount that is in use goes on without it.
		if err := c.fit(ctx, a); err != nil {
			return err
		}
		if secluded() {
			meter.Say("storefs: this service has mounts of its own, as PrivateTmp= and ProtectSystem= of its unit make them: nobody else sees the store")
		}
	}
	if link == nil && c.Survive {
		meter.Close()
		a.flush()
		// The next program would not hear of a signal that has come: from here on
		// one ends this process.
		signal.Reset(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return becomeHolder()
	}
	return c.serve(ctx, a, meter, link)
}

// secluded reports whether this is a service that a service manager has put in a mount
// namespace of its own.
func secluded() bool {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return false
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return false
	}
	manager, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	return err == nil && manager != ours
}

// fit reports what would keep a mount from beginning, as far as that can be seen
// before anything is made or waited for.
func (c *mountCmd) fit(ctx context.Context, a *app) error {
	if _, err := state.StoreDir(a.State); err != nil {
		return err
	}
	if err := builder.CheckProc(); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := c.present(); err != nil {
		return err
	}
	// Any other owner ends by itself, soon.
	if client, err := a.reach(ctx, true); err == nil {
		defer client.Close()
		if h := client.Hello(); h.Role == "mount" {
			return &state.InUseError{Dir: a.State, Command: "storefs mount", PID: h.PID}
		}
	}
	return nil
}

// serve serves the mount. With a link the process is the server of a holder,
// and may be the next one of a mount that is there already.
func (c *mountCmd) serve(ctx context.Context, a *app, meter *progress.Meter, link *holder.Link) (err error) {
	// With one thread for Go code, a request of ours that some system call of
	// this process waits for would never be read.
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
	// Not inside of what it mounts, whatever that is.
	if err := os.Chdir("/"); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	options := ownerOptions{
		role: "mount", jobs: c.Jobs, jobsPerUser: c.JobsPerUID, backgroundJobs: int(c.PrefetchJobs), load: c.Load, limits: c.limits(),
		sandbox: c.sandboxFlags, stop: stop, say: meter.Say,
	}
	var held *fs.Held
	var lock *os.File
	if link != nil {
		if held, lock, err = takeHeld(ctx, link); err != nil {
			return err
		}
		defer link.Close()
		options.upgrade, options.holder = link.Upgrade, link.Holder
		options.wait = patience
	}
	own, err := openOwner(a, options)
	if err != nil {
		return err
	}
	var readers sync.WaitGroup
	defer readers.Wait()
	shown := own.events.Watch(func(e event.Event) bool { return e.Goal != "" && e.Kind != event.Log })
	defer shown.Close()
	defer own.events.Subscribe(own.tellMount).Close()
	bulletin := newBulletin(own.state.Store(), status(link))
	defer bulletin.close()
	defer own.events.Subscribe(bulletin.take).Close()
	readers.Go(func() { show(shown, meter) })
	// Builds end with the mount: whoever stops it does not want to wait for
	// them. The next one goes on where they were.
	ended, end := context.WithCancel(context.Background())
	end()
	parted := false
	defer func() {
		if !parted {
			err = errors.Join(err, own.close(ended))
		}
	}()

	if link != nil && lock == nil {
		if lock, err = own.state.Hold(); err != nil {
			return err
		}
	}
	unable := builder.Check()
	if unable != nil {
		meter.Say("storefs: nothing can be built here: " + unable.Error())
	}
	pages := control{own.state.Store(), own.server}
	known := facts{own.state, own.normaliser}
	var verifier fs.Verifier
	if c.Verify == "open" {
		care, err := newCare(own.library, meter.Say)
		if err != nil {
			return err
		}
		own.mu.Lock()
		own.care = care
		own.mu.Unlock()
		verifier = care
	}
	own.keepFloor()
	own.vigil.drowse()
	server, err := fs.Mount(fs.Options{
		Mountpoint:   string(own.state.Store()),
		Real:         own.state.RealDir(),
		State:        own.state.Dir(),
		Store:        names{own.state},
		Realiser:     notice.New(c.realiser(own), pages.waitsFor),
		Verifier:     verifier,
		Observer:     c.observer(own, meter.Say),
		Control:      pages,
		Data:         fs.Data(c.Data),
		WaitInLookup: c.Wait == "lookup",
		AllowOther:   c.AllowOther,
		Rules:        c.rules(),
		Denied:       own.denials.add,
		Facts:        known,
		Export:       c.Export,
		NoAttributes: !c.Xattrs,
		Used:         known.used,
		Survive:      link != nil,
		Held:         held,
		Logger:       slog.New(slog.NewTextHandler(lineWriter{meter.Say}, nil)),
	})
	if err != nil {
		return err
	}
	own.setMounted(server)
	if err := c.ready(link, server, lock); err != nil {
		meter.Say("storefs: " + err.Error())
	}
	bulletin.begin()
	own.prepared.Go(warmUp)
	if unable == nil {
		own.prepared.Go(own.builder.Prepare) // whoever touches a path first does not wait for that
	}
	// Nobody waits for this one: a mount that is in use when the process ends
	// is served to the last.
	gone := make(chan struct{})
	go func() { server.Wait(); close(gone) }()
	var part <-chan struct{}
	if link != nil {
		part = link.Parted()
	}
	select {
	case <-ctx.Done():
	case <-gone: // somebody used umount(8)
	case <-part:
		bulletin.close() // the next server has its own
		parted = true
		return own.part()
	}
	bulletin.close()
	if link == nil {
		holder.TellStatus("")
		_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
		return nil
	}
	err = link.Ending()
	if lock != nil {
		lock.Close()
	}
	return err
}

// takeHeld waits until this server may begin, and returns what there is
// already.
func takeHeld(ctx context.Context, link *holder.Link) (*fs.Held, *os.File, error) {
	files, err := link.Take(ctx)
	if err != nil || len(files) == 0 {
		return nil, nil, err
	}
	held, lock, err := heldFrom(files)
	if err != nil {
		link.Close()
	}
	return held, lock, err
}

// ready tells the holder, or the service manager, that the mount can be used.
func (c *mountCmd) ready(link *holder.Link, server *fs.Server, lock *os.File) error {
	if link == nil {
		if _, err := sd.SdNotify(false, sd.SdNotifyReady); err != nil {
			return fmt.Errorf("tell the service manager: %w", err)
		}
		return nil
	}
	if held := server.Held(); held != nil {
		if err := link.Hold(heldFiles(held, lock)); err != nil {
			return fmt.Errorf("give the mount to the holder: %w", err)
		}
	}
	return link.Ready()
}

// status is how the service manager is told what the mount does.
func status(link *holder.Link) func(line string) {
	if link == nil {
		return holder.TellStatus
	}
	return link.Status
}

// realiser answers blocked lookups.
func (c *mountCmd) realiser(own *owner) fs.Realiser {
	l := lookups{
		dir:        own.state.Store(),
		normaliser: own.normaliser,
		banned:     normaliser.Banned{Memory: goalStore{own.state, &own.vigil}, TTL: c.FailureTTL},
		limits:     c.limits(),
	}
	if c.CancelOrphans != nil {
		l.orphans = normaliser.Orphans{Cancel: true, Grace: *c.CancelOrphans}
	}
	return l
}

func (o *owner) setMounted(s *fs.Server) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mounted, o.at = s, string(o.state.Store())
	for _, news := range o.late {
		news(s)
	}
	o.late = nil
	close(o.arrived)
	if o.untold {
		s.Changed()
	}
}

// tellMount tells the mount of what became valid, before whoever waited for that hears
// of it. It wants no event itself. What is deleted, forget tells.
func (o *owner) tellMount(e event.Event) bool {
	if e.Kind == event.Valid {
		o.mu.Lock()
		mounted := o.mounted
		o.untold = mounted == nil
		o.mu.Unlock()
		if mounted != nil {
			mounted.Changed()
		}
	}
	return false
}

// show gives events to the meter until the subscription is closed.
func show(sub *event.Subscription, meter *progress.Meter) {
	for {
		events, ok := sub.Next(context.Background())
		if !ok {
			return
		}
		for _, e := range events {
			meter.Take(e)
		}
	}
}

// lineWriter gives each write, which is a line, to say.
type lineWriter struct{ say func(string) }

func (w lineWriter) Write(p []byte) (int, error) {
	w.say(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func isBusy(err error) bool { return errors.Is(err, unix.EBUSY) }
