package normaliser

import "container/heap"

// pool is a number of slots, with the buildable goals that want one.
type pool struct {
	slots int
	used  int
	ready readyQueue
}

func (p *pool) free() bool { return p.used < p.slots && len(p.ready) > 0 }

// readyQueue is a heap: what a blocked lookup needs comes first, then the
// longest remaining path, then whatever came into the graph first.
type readyQueue []*goal

var _ heap.Interface = (*readyQueue)(nil)

func (q readyQueue) Len() int { return len(q) }

func (q readyQueue) Less(i, j int) bool {
	a, b := q[i], q[j]
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
