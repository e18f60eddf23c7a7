package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"storefs/daemon"
	"storefs/event"
	"storefs/progress"
	"storefs/state"
	"storefs/store"
	"storefs/timeline"
)

type statusCmd struct {
	Watch          bool `short:"w" xor:"kept" help:"Go on showing what happens until interrupted, or until the owner of the store ends, if it had one to begin with. With --json: the status, then one event a line, and the waiters whenever they change."`
	PrintBuildLogs bool `short:"L" help:"With --watch: show what builders write."`
	Kept           bool `xor:"kept" help:"List nothing but the scratch directories that build --keep-failed has left: how much of the disk each takes up, for how long it has been there, and where it is; the oldest first."`
}

func (*statusCmd) Help() string {
	return `Shows who owns the store, where it is mounted, which goals run, what became of others (see build --help), who waits for what: the processes that are blocked in the mount, and the commands that build; and how many scratch directories --keep-failed has left (--kept lists them).

In the mount, .storefs/status and .storefs/waiters show the same to everybody who may use it.`
}

func (c *statusCmd) Run(ctx context.Context, a *app) error {
	if c.Kept {
		return c.kept(ctx, a)
	}
	o := ownerOptions{role: "status", repeat: true, watch: true}
	if c.Watch {
		return c.follow(ctx, a, o)
	}
	return a.connect(ctx, o, func(client *daemon.Client) error {
		s, err := client.Status(ctx)
		if err != nil {
			return err
		}
		kept, err := state.Kept(a.State)
		if err != nil {
			return err
		}
		return a.print(statusAndKept{s, kept}, func(w io.Writer) {
			fmt.Fprint(w, s.Text(time.Now()))
			if len(kept) > 0 {
				fmt.Fprintf(w, "kept of failed builds, until storefs delete removes them: %d (status --kept lists them), %s\n", len(kept), filepath.Dir(kept[0])+"/kept-*")
			}
		})
	})
}

// kept needs no owner: the directories are nobody's but their user's.
func (*statusCmd) kept(ctx context.Context, a *app) error {
	if err := a.findState(); err != nil {
		return err
	}
	if _, err := state.StoreDir(a.State); err != nil {
		return err
	}
	all, err := state.MeasureKept(ctx, a.State)
	if err != nil {
		return err
	}
	return a.print(all, func(w io.Writer) {
		now := time.Now()
		for _, k := range all {
			size := byteCount(k.Size)
			if k.Partial {
				size = "more than " + size // some of it is closed to who asks
			}
			fmt.Fprintf(w, "%10s  %7s  %s\n", size, progress.Duration(now.Sub(k.Since)), k.Path)
		}
	})
}

// byteCount writes a number of bytes for people.
func byteCount(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	x, i := float64(n)/(1<<10), 0
	for x >= 1023.95 { // it would be written as 1024.0
		x, i = x/(1<<10), i+1
	}
	return fmt.Sprintf("%.1f %ciB", x, units[i])
}

// follow watches the owner of the store, and if there was none to begin with, one after
// the other: it is itself in nobody's way.
func (c *statusCmd) follow(ctx context.Context, a *app, o ownerOptions) error {
	for unserved := false; ; {
		err := a.connect(ctx, o, func(client *daemon.Client) error {
			if h := client.Hello(); h.Role == o.role && h.PID == os.Getpid() {
				if unserved {
					return nil // that was said
				}
				unserved = true
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				return a.print(s, func(w io.Writer) { fmt.Fprintln(w, s.Headline()) })
			}
			err := c.watch(ctx, a, client)
			if err == nil && state.Held(a.State) {
				err = daemon.ErrClosing // and another one will come
			}
			return err
		})
		if errors.Is(err, daemon.ErrClosing) || unserved && gone(err) {
			err = nil
		}
		// The signal may have come while this process still served another command.
		if err != nil || !unserved || ctx.Err() != nil || a.hard.Err() != nil {
			return err
		}
		if err := c.await(ctx, a); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// await waits until the store has an owner, or ctx ends, or nobody reads any more what
// is shown.
func (c *statusCmd) await(ctx context.Context, a *app) error {
	// Whoever comes makes its socket in there. Where so many watch something that the
	// kernel lets nobody else, it is looked at ten times a second.
	pause := -1
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == nil {
		defer unix.Close(fd)
		_, err = unix.InotifyAddWatch(fd, a.State, unix.IN_CREATE|unix.IN_MOVED_TO)
	}
	if err != nil {
		fd, pause = -1, 100
	}
	end, ended, err := os.Pipe()
	if err != nil {
		return err
	}
	defer end.Close()
	defer ended.Close()
	defer context.AfterFunc(ctx, func() { ended.Close() })()
	fds := []unix.PollFd{
		{Fd: int32(fd), Events: unix.POLLIN},
		{Fd: int32(end.Fd()), Events: unix.POLLIN},
		{Fd: int32(a.stdout.Fd())},
	}
	soon := 0 // a socket may be seen before anybody listens at it
	for {
		client, err := a.reach(ctx, true)
		if err == nil {
			client.Close()
			return nil
		}
		if !gone(err) && ctx.Err() == nil {
			return err
		}
		wait := pause
		if soon > 0 {
			soon, wait = soon-1, 20
		}
		if _, err := unix.Poll(fds, wait); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch %s: %w", a.State, os.NewSyscallError("poll", err))
		}
		if ctx.Err() != nil {
			return nil
		}
		if err := noReader(a.stdout); err != nil {
			return fmt.Errorf("print the status: %w", err)
		}
		if fds[2].Revents != 0 {
			fds[2].Fd = -1 // it says nothing else
		}
		if fds[0].Revents != 0 {
			soon = 50
			var events [4096]byte
			_, _ = unix.Read(fd, events[:])
		}
	}
}

// statusAndKept is what --json prints.
type statusAndKept struct {
	daemon.Status
	Kept []string `json:"kept,omitempty"` // scratch directories of failed builds
}

func (c *statusCmd) watch(ctx context.Context, a *app, client *daemon.Client) error {
	watched, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	out := &watchedFile{news{a, a.stdout, new(atomic.Bool)}, leave}
	var show func(daemon.Seen)
	if a.JSON {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		show = func(s daemon.Seen) {
			// Errors of writing end the watch.
			switch {
			case s.Status != nil:
				_ = enc.Encode(s.Status)
			case s.Event != nil:
				_ = enc.Encode(s.Event)
			case s.Waiters != nil:
				_ = enc.Encode(s)
			}
		}
	} else {
		meter := progress.Start(progress.For(a.stdout, out, progress.Options{Logs: c.PrintBuildLogs, Tails: !c.PrintBuildLogs}))
		defer meter.Close()
		clock := timeline.NewClock()
		take := func(e event.Event) {
			e.Time = clock.Since(e.Time)
			meter.Take(e)
		}
		show = func(s daemon.Seen) {
			switch {
			case s.Status != nil:
				meter.Say(s.Status.Headline())
				meter.Wait(daemon.Watched(s.Status.Waiters))
				for _, e := range s.Status.Events() {
					take(e)
				}
				meter.Join(s.Status.Waiting+s.Status.Buildable, time.Now())
			case s.Event != nil:
				take(*s.Event)
			case s.Waiters != nil:
				meter.Wait(daemon.Watched(*s.Waiters))
			default:
				meter.Expect(s.Remaining)
			}
		}
	}
	err := client.Watch(watched, c.PrintBuildLogs, func(s daemon.Seen) {
		show(s)
		// SIGPIPE says so too, but does not end an owner.
		if err := noReader(a.stdout); err != nil {
			leave(err)
		}
	})
	if cause := context.Cause(watched); cause != nil && ctx.Err() == nil {
		return fmt.Errorf("print the status: %w", cause)
	}
	if errors.Is(err, store.ErrCancelled) && ctx.Err() != nil {
		return nil // that is how watching ends
	}
	return err
}

// watchedFile ends what writes to it with the first error.
type watchedFile struct {
	news
	fail context.CancelCauseFunc
}

func (f *watchedFile) Write(p []byte) (int, error) {
	n, err := f.news.Write(p)
	if err != nil {
		f.fail(err)
	}
	return n, err
}

// noReader is the error that writing to f would have if it is a pipe or a socket that
// nobody reads any more, else nil.
func noReader(f *os.File) error {
	fds := []unix.PollFd{{Fd: int32(f.Fd())}}
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 || fds[0].Revents&unix.POLLERR == 0 {
		return nil
	}
	return &os.PathError{Op: "write", Path: f.Name(), Err: unix.EPIPE}
}
