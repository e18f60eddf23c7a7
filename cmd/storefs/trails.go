package main

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"storefs/db"
	"storefs/prefetch"
	"storefs/state"
	"storefs/store"
)

// trails is what the state directory keeps of programs.
type trails struct{ state *state.State }

var _ prefetch.Store = trails{}

// Makeable leaves out what failed: it is for those who ask for it to try again.
func (t trails) Makeable(p store.Path) (makeable, valid bool, err error) {
	d := t.state.DB()
	if valid, err = d.Valid(p); err != nil {
		return false, false, err
	}
	known, err := d.Known(p)
	switch {
	case err == nil:
		f, err := d.Failure(known.Drv)
		return f == nil, valid, err
	case !errors.Is(err, store.ErrUnknown):
		return false, valid, err
	}
	substitutes, err := d.Substitutes(p)
	return len(substitutes) > 0, valid, err
}

func (t trails) Trails(program string) ([]prefetch.Trail, error) {
	kept, err := t.state.DB().Trails(program)
	all := make([]prefetch.Trail, 0, len(kept))
	for _, k := range kept {
		var r prefetch.Trail
		if json.Unmarshal(k.Data, &r) == nil {
			all = append(all, r)
		}
	}
	return all, err
}

func (t trails) SetTrail(r prefetch.Trail) error {
	k := db.Trail{Program: r.Program, First: r.First, Last: r.Last}
	if len(r.Steps) > 0 {
		var err error
		if k.Data, err = json.Marshal(r); err != nil {
			return err
		}
	}
	return t.state.DB().SetTrail(context.Background(), k)
}

// Trails are those of all programs.
func (l *library) Trails() ([]prefetch.Trail, error) { return trails{l.state}.Trails("") }

// AddTrails checks all of them before it keeps any.
func (l *library) AddTrails(ctx context.Context, all []prefetch.Trail) (int, error) {
	for _, t := range all {
		if err := t.Check(l.state.Store()); err != nil {
			return 0, err
		}
	}
	kept := 0
	for _, t := range all {
		have, err := trails{l.state}.Trails(t.Program)
		if err != nil {
			return kept, err
		}
		newer := func(h prefetch.Trail) bool { return h.First == t.First && h.Last >= t.Last }
		if slices.ContainsFunc(have, newer) || ctx.Err() != nil {
			continue
		}
		if err := (trails{l.state}).SetTrail(t); err != nil {
			return kept, err
		}
		kept++
	}
	return kept, ctx.Err()
}
