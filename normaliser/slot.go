package normaliser

import (
	"time"

	"storefs/event"
)

// maxRegistering bounds the goals that register without a slot, and so what
// waits in scratch when the disk is slower than the builders.
const maxRegistering = 256

// slotHolder gives back the slot of a goal once its builder has ended: the next
// builder need not wait until the outputs are scanned and registered. As many
// goals scan without a slot as there are slots; the others keep theirs until they
// have scanned, or outputs would come faster than they are read.
type slotHolder struct {
	n        *Normaliser
	j        *job
	scanning bool
	returned bool
}

func (s *slotHolder) phase(p string) {
	if p != event.PhaseScan || s.j.kind != kindExpr {
		return
	}
	select {
	case s.n.scans <- struct{}{}:
		s.scanning = true
		s.giveBack()
	default:
	}
}

// ended is called when there are outputs, or why there are none.
func (s *slotHolder) ended(err error) {
	if s.scanning {
		<-s.n.scans
	}
	// What is built to be compared is not registered.
	if err != nil || s.returned || s.j.kind != kindExpr {
		return
	}
	s.giveBack()
}

func (s *slotHolder) giveBack() {
	s.returned = true
	s.n.post(func(gr *graph) { gr.takeBack(s.j.goal) })
}

// takeBack takes the slot of a goal whose builder has ended. But what waits for
// nothing else than this goal, and is needed more than anything that could have
// the slot now, gets it: builders take longer than a transaction.
func (gr *graph) takeBack(g *goal) {
	first := g.pool.first()
	hasty, kept := len(g.requests) > 0, gr.counts[registering] >= maxRegistering
	for _, e := range g.waiters {
		w := e.from
		if e.dead || w.unfinished-w.built > 1 {
			continue
		}
		hasty = true
		kept = kept || first != nil && gr.poolOf(w) == g.pool && less(w, first)
	}
	if hasty || kept {
		gr.hurryUp(g)
	}
	if kept {
		return
	}
	gr.set(g, registering)
	g.run.freed = time.Now()
	for _, e := range g.waiters {
		if !e.dead {
			gr.hurryInputs(e.from)
		}
	}
}

// countBuilt tells those who wait for g that it is registering now, or is not any
// more.
func countBuilt(g *goal, change int) {
	for _, e := range g.waiters {
		if !e.dead {
			e.from.built += change
		}
	}
}

// hurryInputs lets no registration take its time on which alone g waits.
func (gr *graph) hurryInputs(g *goal) {
	if g.unfinished == 0 || g.unfinished > g.built || g.hurried {
		return
	}
	g.hurried = true
	for _, e := range g.inputs {
		if !e.dead {
			e.to.run.hasty.Store(true)
		}
	}
	gr.hurry()
}

// hurryUp lets the registration of g, which has a worker, not take its time.
func (gr *graph) hurryUp(g *goal) {
	g.run.hasty.Store(true)
	gr.hurry()
}

// starve notes whether builders are fewer than slots: then there is time for
// registrations, and what they make may be what the slots wait for.
func (gr *graph) starve() {
	for _, p := range []*pool{&gr.builds, &gr.subs} {
		starved := gr.closing || p.used < p.slots && p.first() == nil
		if starved && !p.starved.Swap(starved) && gr.counts[registering] > 0 {
			gr.hurry()
		} else if !starved {
			p.starved.Store(false)
		}
	}
}
