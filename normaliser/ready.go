package normaliser

import (
	"container/heap"
	"math/bits"
)

// pool is a number of slots, with the buildable goals that want some. The users
// share the slots: whoever holds fewest gets the next one, so that a user who
// wants very much does not keep others waiting. Within that, goals come in the
// order of readyQueue.
type pool struct {
	slots   int
	perUser int // slots that one user may hold; 0: no limit
	used    int
	held    [maxUsers]int // slots by the user for whose sake they are held
	// ready are the goals by who wants them: a goal that several users want may
	// be started on the share of any of them. No queue is empty.
	ready map[flags]*readyQueue
}

func (p *pool) push(g *goal) {
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
}

func (p *pool) remove(g *goal) {
	q := p.ready[g.queue]
	heap.Remove(q, g.position)
	if len(*q) == 0 {
		delete(p.ready, g.queue)
	}
}

// raised restores the order after the level of g changed.
func (p *pool) raised(g *goal) { heap.Fix(p.ready[g.queue], g.position) }

// next is the goal that gets its slots now, nil if none does; its payer is set.
// One that needs more than there are waits for them, and lets no other pass: it
// would never come to its turn.
func (p *pool) next() *goal {
	if p.used >= p.slots {
		return nil
	}
	g := p.first()
	if g == nil || p.used+p.needs(g) > p.slots {
		return nil
	}
	return g
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
		payer := p.payer(users)
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
// hold another one.
func (p *pool) payer(users flags) int {
	if users == 0 {
		return nobody
	}
	payer := -1
	for f := users / flagUser; f != 0; f &= f - 1 {
		u := bits.TrailingZeros64(uint64(f))
		if p.perUser > 0 && u != nobody && p.held[u] >= p.perUser {
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
