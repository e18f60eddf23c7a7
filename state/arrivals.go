package state

import (
	"errors"
	"maps"
	"sync"

	"storefs/store"
)

// arrivals are objects in real/ that are being registered: complete, but perhaps
// not on disk, and not valid. Nobody hears of them but builds that need them,
// which can be registered after them only: so a build need not wait until the
// disk has what it begins with.
type arrivals struct {
	mu    sync.RWMutex
	infos map[store.Path]store.Info
}

func (a *arrivals) add(infos []store.Info) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.infos == nil {
		a.infos = make(map[store.Path]store.Info)
	}
	for _, i := range infos {
		a.infos[i.Path] = i
	}
}

func (a *arrivals) remove(infos []store.Info) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range infos {
		delete(a.infos, i.Path)
	}
}

func (a *arrivals) get(p store.Path) (store.Info, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	i, ok := a.infos[p]
	return i, ok
}

func (a *arrivals) all() map[store.Path]store.Info {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return maps.Clone(a.infos)
}

// info is what is known of a path that is valid or being registered. The error
// wraps store.ErrNotValid if it is neither.
func (s *State) info(p store.Path) (store.Info, error) {
	// In this order: what is no arrival any more is in the database.
	if i, ok := s.arrivals.get(p); ok {
		return i, nil
	}
	return s.db.Info(p)
}

// Requisites are paths, each of them valid or an output that is being registered,
// and everything that they refer to, directly or not, sorted by path. The error
// wraps store.ErrNotValid if one of them is neither.
func (s *State) Requisites(paths []store.Path) ([]store.Info, error) {
	infos, err := s.db.RequisitesWith(paths, s.arrivals.get)
	if errors.Is(err, store.ErrNotValid) {
		// It may have become valid after this view of the database began, and been
		// no arrival any more when it was looked for there. What is no arrival any
		// more when all of them are taken is in a view that begins after that.
		now := s.arrivals.all()
		infos, err = s.db.RequisitesWith(paths, func(p store.Path) (store.Info, bool) {
			i, ok := now[p]
			return i, ok
		})
	}
	return infos, err
}
