package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/event"
	"storefs/fs"
	"storefs/normaliser"
	"storefs/progress"
	"storefs/store"
)

type mountCmd struct {
	Background bool `short:"b" negatable:"" help:"Return when the mount is ready, and serve it from the background; messages go to STATE/daemon.log."`

	Wait          string         `enum:"placeholder,lookup" default:"placeholder" help:"Where callers wait for what is not realised: behind a placeholder, or (lookup) in the lookup itself, for use below an overlayfs or an NFS export."`
	FailureTTL    time.Duration  `name:"failure-ttl" default:"60s" placeholder:"TIME" help:"How long the lookup of a path that failed fails at once, without another build. [${default}]"`
	CancelOrphans *time.Duration `placeholder:"TIME" help:"End a build that nobody waits for any more after this time. [never: it goes on]"`
	DenyCommand   []string       `placeholder:"NAME" help:"Commands that start no build (as in /proc/PID/comm). May be repeated."`
	DenyUID       []uint32       `name:"deny-uid" placeholder:"UID" help:"Users who start no build. May be repeated."`
	DenyCgroup    []string       `placeholder:"PATH" help:"Control groups whose processes start no build. May be repeated."`
	AllowOther    bool           `negatable:"" default:"${allow_other}" help:"Let other users see the mount. [yes for root]"`

	jobsFlag
	limitFlags
	sandboxFlags
}

func (*mountCmd) Help() string {
	return `Mounts the store at its store directory, which must be an existing empty directory, and serves it in the foreground until it is interrupted (SIGINT, SIGTERM), or until "storefs umount". Readiness is told to systemd (sd_notify).

Looking up a path that is known but not realised starts its build and waits for it; listing starts nothing. A lookup fails with EIO when a builder failed ("storefs why PATH" says why), ETIMEDOUT when it ran out of time, ENOSPC when the disk is full, EACCES for callers that --deny-… excludes.

All other commands with the same state directory work while it is mounted: they ask this process.`
}

func (c *mountCmd) Run(ctx context.Context, a *app) error {
	if c.Background {
		return c.background(ctx, a)
	}
	return c.serve(ctx, a)
}

func (c *mountCmd) serve(ctx context.Context, a *app) (err error) {
	// With one thread for Go code, a request of ours that some system call of
	// this process waits for would never be read.
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
	// Not inside of what it mounts, whatever that is.
	if err := os.Chdir("/"); err != nil {
		return err
	}
	meter := progress.Start(progress.For(a.stderr, false))
	defer meter.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	own, err := openOwner(a, ownerOptions{role: "mount", jobs: c.Jobs, sandbox: c.sandboxFlags, stop: stop, say: meter.Say})
	if err != nil {
		return err
	}
	var readers sync.WaitGroup
	defer readers.Wait()
	shown := own.events.Subscribe(func(e event.Event) bool { return e.Goal != "" && e.Kind != event.Log })
	defer shown.Close()
	changes := own.events.Subscribe(func(e event.Event) bool { return e.Kind == event.Valid || e.Kind == event.Deleted })
	defer changes.Close()
	readers.Go(func() { show(shown, meter) })
	// Builds end with the mount: whoever stops it does not want to wait for
	// them. The next one goes on where they were.
	ended, end := context.WithCancel(context.Background())
	end()
	defer func() { err = errors.Join(err, own.close(ended)) }()

	if err := builder.Check(); err != nil {
		meter.Say("storefs: nothing can be built here: " + err.Error())
	}
	server, err := fs.Mount(fs.Options{
		Mountpoint:   string(own.state.Store()),
		Real:         own.state.RealDir(),
		State:        own.state.Dir(),
		Store:        names{own.state},
		Realiser:     c.realiser(own),
		Control:      control{own.state.Store(), own.server},
		WaitInLookup: c.Wait == "lookup",
		AllowOther:   c.AllowOther,
		Deny:         fs.Callers{Commands: c.DenyCommand, UIDs: c.DenyUID, Cgroups: c.DenyCgroup},
		Logger:       slog.New(slog.NewTextHandler(lineWriter{meter.Say}, nil)),
	})
	if err != nil {
		return err
	}
	own.setMounted(server)
	readers.Go(func() { forward(changes, server) })
	if _, err := sd.SdNotify(false, sd.SdNotifyReady); err != nil {
		meter.Say("storefs: tell the service manager: " + err.Error())
	}
	// Nobody waits for this one: a mount that is in use when the process ends
	// is served to the last.
	gone := make(chan struct{})
	go func() { server.Wait(); close(gone) }()
	select {
	case <-ctx.Done():
	case <-gone: // somebody used umount(8)
	}
	_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
	return nil
}

// realiser answers blocked lookups.
func (c *mountCmd) realiser(own *owner) fs.Realiser {
	var orphans normaliser.Orphans
	if c.CancelOrphans != nil {
		orphans = normaliser.Orphans{Cancel: true, Grace: *c.CancelOrphans}
	}
	limits := c.limits()
	urgent := normaliser.RealiserFunc(func(ctx context.Context, p store.Path) error {
		_, err := own.normaliser.Realise(ctx, normaliser.Request{
			Targets: []store.Path{p},
			Urgent:  true,
			Limits:  limits,
			Orphans: orphans,
		})
		return err
	})
	return byName{own.state.Store(), normaliser.Banned{Realiser: urgent, Memory: goalStore{own.state}, TTL: c.FailureTTL}}
}

func (o *owner) setMounted(s *fs.Server) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mounted, o.at = s, string(o.state.Store())
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
