package normaliser

import (
	"container/heap"
	"math"
	"time"

	"storefs/builder"
	"storefs/event"
	"storefs/store"
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
	if p != event.PhaseScan || s.j.kind != kindExpr || s.returned {
		return
	}
	select {
	case s.n.scans <- struct{}{}:
		s.scanning = true
		s.giveBack()
	default:
	}
}

// relayed is called when the builder of the goal next was started in the place of
// this one's, which has ended.
func (s *slotHolder) relayed(next store.Path) {
	select {
	case s.n.scans <- struct{}{}:
		s.scanning = true
	default: // as many scan without a slot already, but it has none any more
	}
	s.returned = true
	s.n.post(func(gr *graph) { gr.relayed(s.j.goal, next) })
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
	if g.state != running {
		return // it has been taken
	}
	kept := gr.counts[registering] >= maxRegistering && !g.relayed
	hasty := kept || len(g.requests) > 0 || gr.closing
	if first := g.pool.first(); first != nil && !g.placed {
		for _, e := range g.waiters {
			w := e.from
			if !e.dead && !g.relayed && w.unfinished-w.built == 1 && gr.poolOf(w) == g.pool && less(w, first) {
				kept = true
				hasty = hasty || !w.startsEarly()
			}
		}
	}
	if hasty {
		gr.hurryUp(g)
	}
	if kept {
		return
	}
	gr.set(g, registering)
	g.run.freed = time.Now()
	gr.events.Publish(event.Event{Kind: event.Freed, Time: g.run.freed, Goal: g.path})
	for _, e := range g.waiters {
		if !e.dead {
			gr.ripen(e.from)
		}
	}
}

// relayed takes the slot of g, whose builder has ended, for next, whose builder was
// started at that.
func (gr *graph) relayed(g *goal, next store.Path) {
	g.relayed = true
	gr.takeBack(g)
	// What was stopped meanwhile, without a slot, ends.
	if w := gr.goals[key{kindExpr, next}]; w != nil && w.state == prepared {
		if w.pool != g.pool {
			// It was to come to another pool, and has a slot of the one before now.
			w.pool.remove(w)
			w.pool = g.pool
			w.pool.push(w)
		}
		w.payer = max(w.pool.payer(w.flags&flagUsers, w.pool.needs(w)), nobody)
		gr.give(w)
	}
}

// relay lets what is prepared in p start by itself, at the end of a builder of the same
// pool, where what would be given that one's slot is certain: where the first who
// waits for one is prepared, whoever's slot it was. See builder.Relay.
func (gr *graph) relay(p *pool) {
	if gr.ranked {
		for g := range p.holders {
			p.outgrow(g)
		}
	}
	if len(p.prepared) == 0 {
		return
	}
	// A builder that strays in the other pool is followed by one of this pool at its end.
	first := p.first()
	open := gr.builds.strays+gr.subs.strays == 0 && gr.hold == "" && p.perUser == 0 && len(p.ready) == 1 && p.used <= p.slots && p.outgrown == 0 &&
		gr.counts[registering] < maxRegistering/2 && gr.scansLeft() && first != nil && first.state == prepared
	for _, g := range p.prepared {
		// What needs more slots than one waits for them, and lets no other pass.
		open = open && p.needs(g) == 1
	}
	for _, g := range p.prepared {
		// One that has come to another pool is not the heir of those in the first.
		r := builder.Relay{Open: open && g.run.pool == p.number, Rank: g.rank()}
		if r == g.run.relay || !r.Open && !g.run.relay.Open {
			continue
		}
		g.run.relay = r
		select { // what it has not heard of is old now
		case <-g.run.relays:
		default:
		}
		g.run.relays <- r
	}
}

// outgrow looks whether those who wait for g, which runs, are needed more by now than
// what its builder knows.
func (p *pool) outgrow(g *goal) {
	if !g.run.outgrown && g.heir() > g.run.heir {
		g.run.outgrown = true
		p.outgrown++
	}
}

// poolOfSubstitution is the Job.Pool of builds that only a substitute needs. All others
// are in the pool 0.
const poolOfSubstitution = 1

// rank is a number for what decides who gets a slot first: it is higher.
func (g *goal) rank() int64 {
	r := int64(min(g.level, math.MaxInt64/4))
	if g.flags&flagUrgent != 0 {
		r += math.MaxInt64 / 2
	}
	return r
}

// maxHeirs is the most waiters of a goal that are looked at to see who comes after it.
const maxHeirs = 64

// heir is the rank that another goal must exceed to have the slot of g at its end: that
// of those who wait for g, and who may be buildable then. No builder follows a walk.
func (g *goal) heir() int64 {
	if g.kind != kindExpr || g.mode != modeBuild || g.replan || len(g.waiters) > maxHeirs {
		return builder.NoHeir
	}
	r := int64(math.MinInt64)
	for _, e := range g.waiters {
		if !e.dead {
			r = max(r, e.from.rank())
		}
	}
	return r
}

// place lets those begin who need no more of g than that its outputs are in place.
// If g has kept its slot for one of them, that is free now.
func (gr *graph) place(g *goal) {
	if g.placed || !g.hasWorker() {
		return
	}
	g.placed = true
	for _, e := range g.waiters {
		if !e.dead {
			e.from.inPlace++
		}
	}
	gr.takeBack(g)
	for _, e := range g.waiters {
		if !e.dead {
			gr.proceed(e.from)
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

// hurryUp lets the registration of g, which has a worker, not take its time.
func (gr *graph) hurryUp(g *goal) {
	g.run.hasty.Store(true)
	gr.hurry()
}

// isRipe reports whether g waits for registrations and for nothing else.
func (g *goal) isRipe() bool {
	return g.state == waiting && g.unfinished > 0 && g.unfinished == g.built && !g.startsEarly()
}

// ripen notes g if it is ripe.
func (gr *graph) ripen(g *goal) {
	if g.isRipe() && !g.ripe {
		g.ripe = true
		heap.Push(&gr.ripe, g)
	}
}

// hasten sees to it that what is ripe, and needed more than what will have the next
// slot, does not wait for registrations that take their time.
func (gr *graph) hasten() {
	for len(gr.ripe) > 0 {
		g := gr.ripe[0]
		if first := gr.poolOf(g).first(); g.isRipe() && first != nil && g.flags&flagUrgent <= first.flags&flagUrgent && g.level <= first.level {
			return
		}
		heap.Pop(&gr.ripe)
		g.ripe = false
		if !g.isRipe() {
			continue
		}
		for _, e := range g.inputs {
			if !e.dead {
				e.to.run.hasty.Store(true)
			}
		}
		gr.hurry()
	}
}

// ripeQueue is a heap in the order of readyQueue, as it was when goals came into
// it. Some have ended, or are not ripe any more.
type ripeQueue []*goal

var _ heap.Interface = (*ripeQueue)(nil)

func (q ripeQueue) Len() int           { return len(q) }
func (q ripeQueue) Less(i, j int) bool { return less(q[i], q[j]) }
func (q ripeQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push is for package heap.
func (q *ripeQueue) Push(x any) { *q = append(*q, x.(*goal)) }

// Pop is for package heap.
func (q *ripeQueue) Pop() any {
	old := *q
	g := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return g
}
