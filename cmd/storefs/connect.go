package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"storefs/daemon"
	"storefs/state"
	"storefs/store"
)

// patience is how long a command waits for an owner that is starting or
// ending. While that one waits for others, it does not count: who wants to look can, and
// others wait as long.
const patience = 5 * time.Second

// comeback is how long a command waits for the next server of a mount.
const comeback = time.Minute

// connect calls f with a client of the state's owner. If there is none, this
// process becomes the owner, serves others meanwhile, and ends as owner when f
// has returned and they have gone.
//
// The server of a mount may die under f and come back: then f is called again,
// if o.repeat says that it may be. So it is when another command was the owner, and
// has ended: somebody else is the owner then, perhaps this process.
func (a *app) connect(ctx context.Context, o ownerOptions, f func(*daemon.Client) error) (err error) {
	began := time.Now()
	var lost error         // why f is called again
	var asked daemon.Hello // of the last owner that f was called with
	var drains time.Time   // since when the owner is known to end
	told := false          // that was said
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		c, err := a.reach(ctx, o.watch)
		if err == nil {
			if errors.Is(lost, daemon.ErrGone) && c.Hello().PID == asked.PID {
				c.Close()
				return lost // it is there, and would do so again
			}
			asked = c.Hello()
			err = f(c)
			c.Close()
			if !o.repeat || !gone(err) || ctx.Err() != nil {
				return err
			}
			began, lost = time.Now(), err
		}
		if err != nil && !gone(err) {
			return err
		}
		switch held := state.Held(a.State); {
		case held && time.Since(began) > comeback:
			return fmt.Errorf("%w: the server of the mount does not come back", err)
		case held:
		case lost != nil && (o.watch || asked.Role == "mount"):
			return lost // who has ended the mount wants no other owner in its place
		case errors.Is(err, daemon.ErrClosing) && !o.watch:
			// It takes nobody else, so it ends when they have left.
			if began = time.Now(); drains.IsZero() {
				drains = began
			}
			if !told && time.Since(drains) > time.Second {
				told = true
				fmt.Fprintln(a.news(), "storefs: waiting for the process that has the store open: it ends when the commands that use it, and the builds that it has begun, have")
			}
		default:
			own, err := openOwner(a, o)
			if err == nil {
				return a.alone(ctx, own, f)
			}
			if !errors.Is(err, store.ErrInUse) || time.Since(began) > cmp.Or(a.patience, patience) {
				return err
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gone reports whether err says that there is no owner, or none any more.
func gone(err error) bool {
	return errors.Is(err, daemon.ErrNoServer) || errors.Is(err, daemon.ErrGone) || errors.Is(err, daemon.ErrClosing)
}

// reach connects to the owner, who lets nobody else's commands in.
func (a *app) reach(ctx context.Context, watch bool) (*daemon.Client, error) {
	if err := a.findState(); err != nil {
		return nil, err
	}
	hint := time.AfterFunc(time.Second, a.tellStopped)
	c, err := daemon.Dial(ctx, a.socket(), watch)
	hint.Stop()
	if errors.Is(err, os.ErrPermission) {
		var st unix.Stat_t
		if unix.Lstat(a.socket(), &st) == nil && int(st.Uid) != os.Geteuid() {
			return nil, fmt.Errorf("state %s: it belongs to uid %d, and this is uid %d", a.State, st.Uid, os.Geteuid())
		}
	}
	if err != nil && !gone(err) {
		err = fmt.Errorf("connect to the owner of %s: %w", a.State, err)
	}
	return c, err
}

// tellStopped says why the owner does not answer, if somebody has stopped it: by Ctrl-Z,
// mostly, on the terminal where this command was typed.
func (a *app) tellStopped() {
	owner := state.Owner(a.State)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", owner.PID))
	// PID (COMM) STATE …
	if i := bytes.LastIndexByte(stat, ')'); err == nil && owner.PID != 0 && i >= 0 && bytes.HasPrefix(stat[i:], []byte(") T")) {
		fmt.Fprintf(a.news(), "storefs: waiting for %s (pid %d), which has the store open and is stopped: fg, or kill -CONT %d, lets it go on\n", owner.Command, owner.PID, owner.PID)
	}
}

// dial connects to the owner, and waits for the next server of a mount.
func (a *app) dial(ctx context.Context, watch bool) (*daemon.Client, error) {
	began := time.Now()
	for {
		c, err := a.reach(ctx, watch)
		if err == nil || !gone(err) || !state.Held(a.State) || time.Since(began) > comeback {
			return c, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// alone calls f as the owner's own client.
func (a *app) alone(ctx context.Context, own *owner, f func(*daemon.Client) error) (err error) {
	defer func() {
		a.draining.Store(true)
		defer a.draining.Store(false) // the command may go on, as one that watches does
		// What had begun beside a build that failed, and others, may take their time:
		// whoever waits for them knows what it was.
		failed := ctx.Err() == nil && len(daemon.Failures(err)) > 0
		if failed {
			a.report(err)
			err = &quietError{err}
		}
		e := own.close(a.hard)
		if failed && e != nil {
			a.report(e)
			return
		}
		err = errors.Join(err, e)
	}()
	c, err := own.server.Dial(ctx)
	if err != nil {
		return fmt.Errorf("connect to itself: %w", err)
	}
	defer c.Close()
	return f(c)
}

// socket is where the owner of the state listens, if there is one.
func (a *app) socket() string { return filepath.Join(a.State, "socket") }
