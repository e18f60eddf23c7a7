package state

import (
	"context"
	"errors"
	"fmt"
	"os"

	"storefs/db"
	"storefs/event"
	"storefs/store"
	"storefs/tree"
)

// Delete makes paths invalid and removes them, with the closure expressions
// that were only normal forms of them, and returns everything that it deleted.
// Outputs that a derivation in the store makes stay known, so that they can be
// realised again. Nothing is deleted if something else refers to one of paths, or a
// build uses it (store.ErrReferenced). It waits for whoever holds the locks of paths.
func (s *State) Delete(ctx context.Context, paths ...store.Path) ([]store.Path, error) {
	unlock, err := s.Lock(ctx, paths, nil)
	if err != nil {
		return nil, err
	}
	defer unlock()
	deleted, trash, err := s.unregister(ctx, paths)
	s.publish(event.Event{Kind: event.Deleted, Paths: deleted})
	for _, t := range trash {
		err = errors.Join(err, tree.RemoveAll(t))
	}
	return deleted, err
}

// unregister makes paths invalid and moves them out of real/, so that nothing
// is in the way of whoever makes them again. What is in builds/ when the
// process is killed is swept by the next owner.
func (s *State) unregister(ctx context.Context, paths []store.Path) (deleted []store.Path, trash []string, err error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	if err := s.roots.check(paths); err != nil {
		return nil, nil, fmt.Errorf("delete: %w", err)
	}
	if err := s.Touch(); err != nil {
		return nil, nil, err
	}
	s.era++
	if deleted, err = s.db.Delete(ctx, paths...); err != nil {
		if errors.Is(err, db.ErrInDoubt) {
			// What is not valid, the next owner sweeps, and nobody reads any more.
			s.left.Store(true)
			for _, p := range paths {
				s.exprs.remove(p)
			}
		}
		return nil, nil, err
	}
	for _, p := range deleted {
		s.exprs.remove(p)
		// Nothing depends on whether they are there.
		_ = os.Remove(s.filesOf(p))
		t := s.newScratch("deleted")
		e := moveOut(s.Real(p), t)
		switch {
		case e == nil:
			trash = append(trash, t)
		case !errors.Is(e, os.ErrNotExist):
			s.left.Store(true)
			err = errors.Join(err, fmt.Errorf("delete %s: %w", p, e))
		}
	}
	return deleted, trash, err
}
