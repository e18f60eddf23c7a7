package builder

import (
	"crypto/sha256"
	"fmt"
	"sync"

	"storefs/store"
	"storefs/tree"
)

// inputsKey stands for a list of inputs.
type inputsKey [sha256.Size]byte

func keyOf(inputs []store.Info) (key inputsKey) {
	h := sha256.New()
	for _, in := range inputs {
		fmt.Fprintf(h, "%c%s\n", inputLetter(in.Kind), in.Path.Base())
	}
	h.Sum(key[:0])
	return key
}

// scratches are the scratch directories of a Local. Those that are not in use
// wait, empty, for the next build: a builder finds nothing in one of what another
// did, and one that it left in any way unlike a new one is removed.
type scratches struct {
	builds string
	real   string
	ids    identity
	max    int                  // idle ones
	gone   func(scratch string) // called before one is removed that a tree may stand on

	mu     sync.Mutex
	idle   []*scratch // the one that was used last is the last
	fitted uint64
}

// take returns a scratch directory with the stubs of a build's inputs.
func (p *scratches) take(b *build) (*scratch, error) {
	key := keyOf(b.job.Inputs)
	p.mu.Lock()
	s := p.choose(key)
	p.fitted++
	number := p.fitted
	p.mu.Unlock()
	var err error
	if s == nil {
		s, err = newScratch(p.builds, b.job.Drv, p.ids)
	} else {
		err = s.age()
	}
	if err == nil {
		err = s.fit(b.job.Inputs, key, number, p.real)
	}
	if err != nil && s != nil {
		p.remove(s)
		return nil, err
	}
	return s, err
}

// choose takes an idle scratch directory: one that has the stubs already, or the
// one that was not used for longest.
func (p *scratches) choose(key inputsKey) *scratch {
	if len(p.idle) == 0 {
		return nil
	}
	chosen := -1
	for i, s := range p.idle {
		if s.inputs == key {
			chosen = i
		}
	}
	if chosen < 0 {
		// What many stubs were made for may be wanted again: it is better to
		// have another, up to what may be idle.
		for i, s := range p.idle {
			if len(s.stubs) <= directInputs {
				chosen = i
				break
			}
		}
	}
	if chosen < 0 {
		if len(p.idle) < p.max {
			return nil
		}
		chosen = 0
	}
	s := p.idle[chosen]
	p.idle = append(p.idle[:chosen], p.idle[chosen+1:]...)
	return s
}

// give takes a scratch directory back. All processes of its build must be dead.
func (p *scratches) give(s *scratch) {
	p.mu.Lock()
	keep := p.max > 0
	p.mu.Unlock()
	if keep {
		if fresh, err := s.empty(); err == nil && fresh {
			s = p.add(s)
		}
	}
	if s != nil {
		p.remove(s)
	}
}

// add adds an idle one, and returns the one that is too many, or nil.
func (p *scratches) add(s *scratch) *scratch {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, s)
	if len(p.idle) <= p.max {
		return nil
	}
	s, p.idle = p.idle[0], p.idle[1:]
	return s
}

func (p *scratches) remove(s *scratch) {
	if len(s.stubs) > directInputs {
		p.gone(s.dir)
	}
	_ = tree.RemoveAll(s.dir)
}

// close removes the idle ones.
func (p *scratches) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.max = nil, 0
	p.mu.Unlock()
	for _, s := range idle {
		p.remove(s)
	}
}
