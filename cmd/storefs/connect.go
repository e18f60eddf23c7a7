package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"storefs/daemon"
	"storefs/store"
)

// patience is how long a command waits for an owner that is starting or
// ending.
const patience = 5 * time.Second

// connect calls f with a client of the state's owner. If there is none, this
// process becomes the owner, serves others meanwhile, and ends as owner when f
// has returned and they have gone.
func (a *app) connect(ctx context.Context, o ownerOptions, f func(*daemon.Client) error) (err error) {
	deadline := time.Now().Add(patience)
	for {
		c, err := daemon.Dial(ctx, a.socket(), o.watch)
		if err == nil {
			defer c.Close()
			return f(c)
		}
		if !errors.Is(err, daemon.ErrNoServer) && !errors.Is(err, daemon.ErrClosing) {
			return fmt.Errorf("connect to the owner of %s: %w", a.State, err)
		}
		own, err := openOwner(a, o)
		if err == nil {
			return a.alone(ctx, own, f)
		}
		if !errors.Is(err, store.ErrInUse) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// alone calls f as the owner's own client.
func (a *app) alone(ctx context.Context, own *owner, f func(*daemon.Client) error) (err error) {
	defer func() {
		a.draining.Store(true)
		err = errors.Join(err, own.close(a.hard))
	}()
	c, err := daemon.Dial(ctx, a.socket(), false)
	if err != nil {
		return fmt.Errorf("connect to itself: %w", err)
	}
	defer c.Close()
	return f(c)
}

// socket is where the owner of the state listens, if there is one.
func (a *app) socket() string { return filepath.Join(a.State, "socket") }
