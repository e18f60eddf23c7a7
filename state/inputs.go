package state

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"storefs/store"
)

// Inputs are what a build begins with. Until they are released they are roots (Nix
// calls such roots temporary): Delete refuses them.
type Inputs struct {
	// Infos is the whole closure, sorted by path.
	Infos []store.Info
	// Era is the one that they are of. It ends when a path is deleted or replaced:
	// what was mounted of one before is not to be used in a later one.
	Era uint64

	drv   store.Path // what is built of them
	state *State
	since since
	gone  store.Path // what was replaced since; "": nothing
}

// temporaryRoots are the inputs of all builds. Few run at a time, and little is ever deleted:
// so whoever deletes looks through all of them.
type temporaryRoots struct {
	mu  sync.Mutex
	all map[*Inputs]struct{}
}

// Inputs gives paths, which drv is to be built of, with everything that they refer to,
// like Requisites. The caller releases them.
func (s *State) Inputs(drv store.Path, paths []store.Path) (*Inputs, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	infos, err := s.Requisites(paths)
	if err != nil {
		return nil, err
	}
	in := &Inputs{Infos: infos, Era: s.era, drv: drv, state: s, since: s.since()}
	s.roots.mu.Lock()
	defer s.roots.mu.Unlock()
	if s.roots.all == nil {
		s.roots.all = make(map[*Inputs]struct{})
	}
	s.roots.all[in] = struct{}{}
	return in, nil
}

// Release says that the build has ended, and what came of it is registered, or never
// will be.
func (in *Inputs) Release() {
	u := &in.state.roots
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.all, in)
}

// Err says which of them was replaced since: the build may have seen it damaged, or half
// removed, and nothing that it made is to be registered. It is nil if none was, or if
// there are no inputs.
func (in *Inputs) Err() error {
	if in == nil {
		return nil
	}
	in.state.roots.mu.Lock()
	defer in.state.roots.mu.Unlock()
	if in.gone == "" {
		return nil
	}
	return fmt.Errorf("its input %s was repaired while it was built; build it again", in.gone)
}

func (in *Inputs) has(p store.Path) bool {
	_, found := slices.BinarySearchFunc(in.Infos, p, func(i store.Info, p store.Path) int {
		return cmp.Compare(i.Path, p)
	})
	return found
}

// check refuses what builds use, with store.ErrReferenced. The caller has the gate, so
// that no build begins meanwhile.
func (u *temporaryRoots) check(paths []store.Path) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for in := range u.all {
		for _, p := range paths {
			if in.drv == p || in.has(p) {
				return fmt.Errorf("%s: %w by the running build of %s", p, store.ErrReferenced, in.drv)
			}
		}
	}
	return nil
}

// spoil says that p is replaced.
func (u *temporaryRoots) spoil(p store.Path) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for in := range u.all {
		if in.has(p) {
			in.gone = p
		}
	}
}
