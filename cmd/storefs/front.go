package main

import (
	"bytes"
	"context"
	"errors"
	iofs "io/fs"
	"time"

	"storefs/builder"
	"storefs/daemon"
	"storefs/fs"
	"storefs/normaliser"
	"storefs/state"
	"storefs/store"
)

// names is the state directory as the mount sees it.
type names struct{ state *state.State }

var _ fs.Store = names{}

// Lookup asks for validity first: what becomes valid after that is still known, and
// a placeholder.
func (n names) Lookup(name string) (fs.Entry, error) {
	p, err := n.state.Store().Join(name)
	if err != nil {
		return fs.Entry{}, err
	}
	db := n.state.DB()
	info, err := db.Info(p)
	if err == nil {
		return fs.Entry{Name: name, Valid: true, Kind: info.Kind}, nil
	}
	if !errors.Is(err, store.ErrNotValid) {
		return fs.Entry{}, err
	}
	known, err := db.Known(p)
	if err == nil {
		return fs.Entry{Name: name, Kind: known.Kind}, nil
	}
	if !errors.Is(err, store.ErrUnknown) {
		return fs.Entry{}, err
	}
	substitutes, serr := db.Substitutes(p)
	if serr != nil {
		return fs.Entry{}, serr
	}
	if len(substitutes) > 0 {
		return fs.Entry{Name: name}, nil
	}
	return fs.Entry{}, err
}

func (n names) List(after string, count int) ([]fs.Entry, error) {
	entries, err := n.state.DB().Names(after, count)
	out := make([]fs.Entry, len(entries))
	for i, e := range entries {
		out[i] = fs.Entry{Name: e.Name, Valid: true, Kind: e.Kind}
	}
	return out, err
}

// lookups realises what callers of the mount are blocked in.
type lookups struct {
	dir        store.Dir
	normaliser *normaliser.Normaliser
	banned     normaliser.Banned // without its Realiser, which is made for each call
	limits     builder.Limits
	orphans    normaliser.Orphans
}

var _ fs.Realiser = lookups{}

func (l lookups) Realise(ctx context.Context, c fs.Call) error {
	p, err := l.dir.Join(c.Name)
	if err != nil {
		return err
	}
	b := l.banned
	b.Realiser = normaliser.RealiserFunc(func(ctx context.Context, p store.Path) error {
		_, err := l.normaliser.Realise(ctx, normaliser.Request{
			Targets: []store.Path{p},
			Caller:  &normaliser.Caller{PID: int(c.PID), UID: c.UID, Command: c.Command},
			NoBuild: c.NoBuild,
			Urgent:  true,
			Limits:  l.limits,
			Orphans: l.orphans,
		})
		return err
	})
	return b.Realise(ctx, p)
}

// control is what the mount's control directory shows.
type control struct {
	dir    store.Dir
	server *daemon.Server
}

var _ fs.Control = control{}

func (c control) Why(name string) ([]byte, error) {
	p, err := c.dir.Join(name)
	if err != nil {
		return nil, err
	}
	y, err := c.server.Why(context.Background(), p)
	if err != nil {
		return nil, err
	}
	if y.State == daemon.StateUnknown {
		return nil, store.ErrUnknown
	}
	return []byte(y.Text()), nil
}

func (c control) Log(name string) ([]byte, error) {
	p, err := c.dir.Join(name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = c.server.Log(context.Background(), p, false, &b)
	if errors.Is(err, iofs.ErrNotExist) {
		err = store.ErrUnknown
	}
	return b.Bytes(), err
}

func (c control) Status() ([]byte, error) {
	s := c.server.Status()
	return []byte(s.Text(time.Now())), nil
}

// waitsFor says in one line what a caller waits for.
func (c control) waitsFor(call fs.Call) string {
	p, err := c.dir.Join(call.Name)
	if err != nil {
		return ""
	}
	now := time.Now()
	for _, w := range c.server.Status().Waiters {
		if w.Path == p && w.PID == int(call.PID) {
			return daemon.Sentence(&w, now)
		}
	}
	return ""
}

func (c control) Waiters() ([]byte, error) {
	s := c.server.Status()
	return []byte(daemon.WaitersText(s.Waiters, time.Now())), nil
}
