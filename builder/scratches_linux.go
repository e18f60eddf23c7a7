package builder

import (
	"crypto/sha256"
	"encoding/binary"
	"os"
	"slices"
	"sync"

	"storefs/store"
	"storefs/tree"
)

// inputsKey stands for a list of inputs, as they were in an era.
type inputsKey [sha256.Size]byte

func keyOf(inputs []store.Info, era uint64) inputsKey {
	text := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+64*len(inputs)), era)
	for _, in := range inputs {
		text = append(text, inputLetter(in.Kind))
		text = append(text, in.Path.Base()...)
		text = append(text, '\n')
	}
	return sha256.Sum256(text)
}

const (
	// maxIdle is the most scratch directories, and the most networks, that wait.
	maxIdle = 64
	// maxIdleSets is the number of scratch directories up to which another is made
	// rather than that the stubs of one are exchanged: they may be wanted again.
	maxIdleSets = 8
)

// scratches are the scratch directories of a Local. Those that are not in use
// wait, empty, for the next build: a builder finds nothing in one of what another
// did, and one that it left in any way unlike a new one is removed.
type scratches struct {
	dir   string // where they are
	spare bool   // they wait; otherwise each build has a new one
	real  string
	ids   identity
	gone  func(number uint64) // called before one is removed that a tree may stand on

	mu     sync.Mutex
	idle   []*scratch // the one that was used last is the last
	last   uint64
	oldest uint64 // those with a number below it are removed when they come back
}

// take returns a scratch directory with the stubs of a build's inputs.
func (p *scratches) take(b *build) (*scratch, error) {
	key := keyOf(b.job.Inputs, b.job.Era)
	p.mu.Lock()
	s := p.choose(key)
	p.last++
	number := p.last
	p.mu.Unlock()
	var err error
	if s != nil {
		err = s.renew()
	} else if err = p.makeDir(); err == nil {
		if s, err = newScratch(p.dir, p.prefix(b), p.ids); s != nil {
			s.number = number
		}
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

// makeDir makes the directory where they are, unless it is everybody's.
func (p *scratches) makeDir() error {
	if !p.spare {
		return nil
	}
	return os.MkdirAll(p.dir, 0o700)
}

// prefix begins the name of a scratch directory: what it is for, if it is for one
// build. To give it another name for each would take as long as to empty it.
func (p *scratches) prefix(b *build) string {
	if p.spare {
		return "scratch"
	}
	return b.job.Drv.Digest()
}

// choose takes an idle scratch directory: the one used last of those that have
// the stubs already, or else the one that was not used for longest.
func (p *scratches) choose(key inputsKey) *scratch {
	chosen := len(p.idle) - 1
	for chosen >= 0 && p.idle[chosen].inputs != key {
		chosen--
	}
	if chosen < 0 {
		if len(p.idle) < maxIdleSets {
			return nil
		}
		chosen = 0
	}
	s := p.idle[chosen]
	p.idle = slices.Delete(p.idle, chosen, chosen+1)
	return s
}

// give takes a scratch directory back. All processes of its build must be dead.
func (p *scratches) give(s *scratch) {
	if p.spare {
		if fresh, err := s.empty(); err == nil && fresh {
			s = p.add(s)
		}
	}
	if s != nil {
		p.remove(s)
	}
}

// forget removes the idle ones, and those in use when they come back.
func (p *scratches) forget() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.oldest = nil, p.last+1
	p.mu.Unlock()
	for _, s := range idle {
		p.remove(s)
	}
}

// add adds an idle one, and returns the one that is too many, or nil.
func (p *scratches) add(s *scratch) *scratch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.number < p.oldest {
		return s
	}
	p.idle = append(p.idle, s)
	if len(p.idle) <= maxIdle {
		return nil
	}
	// In one assignment, the element might be read after the others have moved.
	oldest := p.idle[0]
	p.idle = slices.Delete(p.idle, 0, 1)
	return oldest
}

func (p *scratches) remove(s *scratch) {
	p.gone(s.number)
	s.close()
	_ = tree.RemoveAll(s.dir)
}

// close removes the idle ones, and the directory where they were.
func (p *scratches) close() {
	p.forget()
	if p.spare {
		_ = os.Remove(p.dir) // it may be another's too
	}
}
