package normaliser

import (
	"container/heap"
	"math/bits"
	"slices"
)

// pool is a number of slots, with the buildable goals that want some. The users
// share the slots: whoever holds fewest gets the next one, so that a user who
// wants very much does not keep others waiting. Within that, goals come in the
// order of readyQueue.
//
// Goals in the background hold slots that nobody else wants, and are no reason
// for anybody to wait: see graph.start.
type pool struct {
	number   byte // of its builders: see builder.Job.Pool
	slots    int
	perUser  int // slots that one user may hold; 0: no limit
	used     int
	holders  map[*goal]struct{} // who have slots
	outgrown int                // of them that are outgrown
	strays   int                // of them that stray
	held     [maxUsers]int      // slots by the user for whose sake they are held
	// ready are the goals by who wants them: a goal that several users want may
	// be started on the share of any of them. No queue is empty.
	ready    map[flags]*readyQueue
	prepared []*goal // those in these that are

	idle   readyQueue         // goals in the background
	spare  map[*goal]struct{} // those of them that run
	spared int                // slots that these hold
}

func (p *pool) push(g *goal) {
	// A goal that holds locks keeps other processes waiting.
	if g.idle = g.background() && g.state != locked; g.idle {
		heap.Push(&p.idle, g)
		return
	}
	if p.ready == nil {
		p.ready = map[flags]*readyQueue{}
	}
	g.queue = g.flags & flagUsers
	q := p.ready[g.queue]
	if q == nil {
		q = &readyQueue{}
		p.ready[g.queue] = q
	}
	heap.Push(q, g)
	if g.prepared = g.state == prepared; g.prepared {
		p.prepared = append(p.prepared, g)
	}
}

func (p *pool) remove(g *goal) {
	if g.idle {
		heap.Remove(&p.idle, g.position)
		g.idle = false
		return
	}
	if g.prepared {
		g.prepared = false
		p.prepared = slices.DeleteFunc(p.prepared, func(o *goal) bool { return o == g })
	}
	q := p.ready[g.queue]
	heap.Remove(q, g.position)
	if len(*q) == 0 {
		delete(p.ready, g.queue)
	}
}

// raised restores the order after the level of g changed.
func (p *pool) raised(g *goal) {
	if g.idle {
		heap.Fix(&p.idle, g.position)
		return
	}
	heap.Fix(p.ready[g.queue], g.position)
}

// take gives g the slots that it needs, free takes them back.
func (p *pool) take(g *goal) {
	g.holds = p.needs(g)
	p.used += g.holds
	if g.run != nil && g.kind == kindExpr && g.run.pool != p.number {
		g.run.strays = true
		p.strays++
	}
	if p.holders == nil {
		p.holders = map[*goal]struct{}{}
	}
	p.holders[g] = struct{}{}
	if !g.background() {
		p.held[g.payer] += g.holds
		return
	}
	if p.spare == nil {
		p.spare = map[*goal]struct{}{}
	}
	p.spare[g] = struct{}{}
	p.spared += g.holds
}

func (p *pool) free(g *goal) {
	p.used -= g.holds
	if g.run.strays {
		g.run.strays = false
		p.strays--
	}
	delete(p.holders, g)
	if g.run.outgrown {
		g.run.outgrown = false
		p.outgrown--
	}
	if _, ok := p.spare[g]; ok {
		delete(p.spare, g)
		p.spared -= g.holds
		return
	}
	p.held[g.payer] -= g.holds
}

// adopt is for g, which runs and is not in the background any more. It counts
// as somebody's whose limit it does not exceed, or as nobody's.
func (p *pool) adopt(g *goal) {
	if _, ok := p.spare[g]; !ok {
		return
	}
	delete(p.spare, g)
	p.spared -= g.holds
	g.payer = max(p.payer(g.flags&flagUsers, g.holds), nobody)
	p.held[g.payer] += g.holds
}

// next is the goal that gets its slots now, nil if none does; its payer is set.
// What runs in the background does not count: it gives way.
// One that needs more than there are waits for them, and lets no other pass: it
// would never come to its turn.
func (p *pool) next() *goal {
	used := p.used - p.spared
	if used >= p.slots {
		return nil
	}
	g := p.first()
	if g == nil || used+p.needs(g) > p.slots {
		return nil
	}
	return g
}

// giveWay stops as many goals in the background as hold slots that are taken
// twice: those that began last. They begin anew when slots are free.
func (p *pool) giveWay() {
	over := p.used - p.slots
	for g := range p.spare {
		if g.cancelled {
			over -= g.holds
		}
	}
	for over > 0 {
		var last *goal
		for g := range p.spare {
			if !g.cancelled && (last == nil || g.run.since.After(last.run.since)) {
				last = g
			}
		}
		if last == nil {
			return
		}
		over -= last.holds
		last.cancelled = true
		last.run.cancel()
	}
}

// nextIdle is the goal in the background that gets its slots now, nil if none
// does; kept is how many slots must stay free. What waits because its users hold as many
// as they may is no reason for it to wait.
func (p *pool) nextIdle(kept int) *goal {
	if len(p.idle) == 0 || p.used+p.needs(p.idle[0]) > p.slots-kept || p.first() != nil {
		return nil
	}
	return p.idle[0]
}

// maxPrepared is the most goals of a pool that are prepared before there is a slot: for
// more of them than builders end at a time, it is not their preparation that takes
// the time.
const maxPrepared = 8

// nextToPrepare is the goal that is to be prepared for the slot that is free next, nil if
// enough are.
func (p *pool) nextToPrepare() *goal {
	if len(p.prepared) >= min(p.slots, maxPrepared) {
		return nil
	}
	var best *goal
	for users, q := range p.ready {
		g := q.next()
		if g == nil {
			continue
		}
		payer := p.payer(users, p.needs(g))
		if payer < 0 {
			continue
		}
		g.payer = payer
		if best == nil || p.before(g, best) {
			best = g
		}
	}
	return best
}

// needs is how many slots g takes: as many as its builder uses processors, but
// not more than there are.
func (p *pool) needs(g *goal) int {
	switch {
	case g.mode != modeBuild || g.replan:
		return 1
	case g.cores == 0:
		return p.slots
	}
	return min(g.cores, p.slots)
}

// first is the goal that gets the next slot, nil if none wants, or may have, one;
// its payer is set.
func (p *pool) first() *goal {
	var best *goal
	for users, q := range p.ready {
		g := (*q)[0]
		payer := p.payer(users, p.needs(g))
		if payer < 0 {
			continue
		}
		g.payer = payer
		if best == nil || p.before(g, best) {
			best = g
		}
	}
	return best
}

// before orders two goals of different queues.
func (p *pool) before(a, b *goal) bool {
	if al, bl := a.state == locked, b.state == locked; al != bl {
		return al
	}
	if p.held[a.payer] != p.held[b.payer] {
		return p.held[a.payer] < p.held[b.payer]
	}
	return less(a, b)
}

// payer is the one among users who holds fewest slots, -1 if none of them may
// hold more of them. What needs more than a user may hold runs when that one
// holds none.
func (p *pool) payer(users flags, more int) int {
	if users == 0 {
		return nobody
	}
	payer := -1
	for f := users / flagUser; f != 0; f &= f - 1 {
		u := bits.TrailingZeros64(uint64(f))
		if p.perUser > 0 && u != nobody && p.held[u] > 0 && p.held[u]+more > p.perUser {
			continue
		}
		if payer < 0 || p.held[u] < p.held[payer] {
			payer = u
		}
	}
	return payer
}

// readyQueue is a heap: what a blocked lookup needs comes first, then the
// longest remaining path, then whatever came into the graph first.
type readyQueue []*goal

var _ heap.Interface = (*readyQueue)(nil)

// next is the first one that could be prepared, nil if all are prepared, or nothing is
// to be prepared for the one that comes next: to build is not what it needs. The
// few that are prepared are at the top.
func (q readyQueue) next() *goal {
	look := []int{0}
	var best *goal
	for len(look) > 0 {
		i := look[len(look)-1]
		look = look[:len(look)-1]
		switch {
		case i >= len(q):
		case q[i].state == prepared || q[i].state == locked:
			look = append(look, 2*i+1, 2*i+2)
		case best == nil || less(q[i], best):
			best = q[i]
		}
	}
	if best == nil || best.kind != kindExpr || best.mode != modeBuild || best.replan {
		return nil
	}
	return best
}

func (q readyQueue) Len() int { return len(q) }

func (q readyQueue) Less(i, j int) bool { return less(q[i], q[j]) }

func less(a, b *goal) bool {
	// A goal that holds locks keeps other processes waiting.
	if al, bl := a.state == locked, b.state == locked; al != bl {
		return al
	}
	if au, bu := a.flags&flagUrgent, b.flags&flagUrgent; au != bu {
		return au > bu
	}
	if a.level != b.level {
		return a.level > b.level
	}
	return a.seq < b.seq
}

func (q readyQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].position, q[j].position = i, j
}

// Push is for package heap.
func (q *readyQueue) Push(x any) {
	g := x.(*goal)
	g.position = len(*q)
	*q = append(*q, g)
}

// Pop is for package heap.
func (q *readyQueue) Pop() any {
	old := *q
	g := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return g
}
