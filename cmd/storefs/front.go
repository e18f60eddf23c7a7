package main

import (
	"bytes"
	"context"
	"errors"
	iofs "io/fs"
	"time"

	"storefs/daemon"
	"storefs/event"
	"storefs/fs"
	"storefs/normaliser"
	"storefs/state"
	"storefs/store"
)

// names is the state directory as the mount sees it.
type names struct{ state *state.State }

var _ fs.Store = names{}

// Lookup asks for validity last: what becomes valid in between is still known.
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

// byName realises by names, as the mount asks.
type byName struct {
	dir store.Dir
	normaliser.Realiser
}

var _ fs.Realiser = byName{}

func (b byName) Realise(ctx context.Context, name string) error {
	p, err := b.dir.Join(name)
	if err != nil {
		return err
	}
	return b.Realiser.Realise(ctx, p)
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

// forward tells the mount what became valid and what was deleted, until the
// subscription is closed.
func forward(sub *event.Subscription, to *fs.Server) {
	for {
		events, ok := sub.Next(context.Background())
		if !ok {
			return
		}
		changed := false
		for _, e := range events {
			switch e.Kind {
			case event.Valid:
				changed = true
			case event.Deleted:
				gone := make([]string, len(e.Paths))
				for i, p := range e.Paths {
					gone[i] = p.Base()
				}
				to.Deleted(gone)
			}
		}
		if changed {
			to.Changed()
		}
	}
}
