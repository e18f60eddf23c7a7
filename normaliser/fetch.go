package normaliser

import (
	"fmt"

	"storefs/store"
)

// mustBuild is why the request of a caller who may start no build ends.
func mustBuild(drv store.Path) error {
	return fmt.Errorf("%s would have to be built: %w", drv, store.ErrNotAllowed)
}

// refusedBuild reports whether f only says that somebody may start no build:
// it is nobody else's failure.
func refusedBuild(f *store.Failure) bool { return f != nil && f.Cause == store.CauseNotAllowed }

// refused is the first failure in the plan of that kind, nil if there is none.
func (p *plan) refused() *store.Failure {
	for i := range p.nodes {
		if f := p.nodes[i].failure; refusedBuild(f) {
			return f
		}
	}
	return nil
}
