package normaliser

import (
	"context"
	"slices"
	"sync"

	"storefs/event"
	"storefs/store"
	"storefs/storeexpr"
)

// A derivation is cut off when it was never realised, which its having no
// successor says, and all of its outputs are valid: it makes what another one has
// made, because what differs between the two makes no difference to their
// outputs. Most often that is how something of a known hash is fetched, below
// both. It gets its successor then, and from then on it is one that was realised.

// cutOff reports whether drv, whose wanted outputs are valid, is cut off.
func cutOff(s Validity, drv store.Path, d *storeexpr.Derivation) (bool, error) {
	if _, has, err := s.Successor(drv); err != nil || has {
		return false, err
	}
	outs := make([]store.Path, len(d.Outputs))
	for i, o := range d.Outputs {
		outs[i] = o.Path
	}
	return allValid(s, outs)
}

func allValid(s Validity, paths []store.Path) (bool, error) {
	for _, p := range paths {
		if valid, err := s.Valid(p); err != nil || !valid {
			return false, err
		}
	}
	return true, nil
}

// keep is the outcome of a goal that turned out to need nothing. It gives drv its
// successor if that was cut off.
func (n *Normaliser) keep(ctx context.Context, drv store.Path, cut bool) (outcome string, err error) {
	if !cut {
		return event.OutcomeReused, nil
	}
	return event.OutcomeCutOff, n.store.Normalised(ctx, drv)
}

// effort orders outcomes by how much was done: a closure has that of the element
// that took most.
func effort(outcome string) int {
	return slices.Index([]string{event.OutcomeReused, event.OutcomeCutOff, event.OutcomeGathered, event.OutcomeSubstituted, event.OutcomeBuilt}, outcome)
}

// ofClosure is the outcome of a closure, of whose elements the most that was done is that:
// it was done for them, and told and counted there.
func ofClosure(most string) string {
	if effort(most) > effort(event.OutcomeGathered) {
		return event.OutcomeGathered
	}
	return most
}

// settled are the counts of what needed no goal since the Normaliser began.
type settled struct {
	mu     sync.Mutex
	counts event.Counts
}

func (s *settled) add(c event.Counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts = s.counts.Plus(c)
}

func (s *settled) get() event.Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// found is what the walk for a request came upon that needs nothing; what that
// needs in turn was not looked at. Later walks, for goals that need something else
// than was thought, come upon what the request has counted, and are not counted.
type found struct {
	reused int
	cutOff []store.Path
}

func (p *planner) found() found {
	var f found
	for _, rec := range p.seen {
		switch {
		case rec.index != realised:
		case rec.cutOff:
			f.cutOff = append(f.cutOff, rec.path)
		default:
			f.reused++
		}
	}
	return f
}

// maxKeeping bounds the successors that are written at once for a request. They
// share transactions.
const maxKeeping = 64

// keepAll gives what was cut off its successors, and says of which that failed.
func (n *Normaliser) keepAll(ctx context.Context, drvs []store.Path) map[store.Path]error {
	if len(drvs) == 0 {
		return nil
	}
	var (
		mu     sync.Mutex
		failed = map[store.Path]error{}
		all    sync.WaitGroup
		turns  = make(chan struct{}, maxKeeping)
	)
	for _, drv := range drvs {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			if err := n.store.Normalised(ctx, drv); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[drv] = err
			}
		})
	}
	all.Wait()
	return failed
}
