package timeline

import (
	"container/heap"
	"time"

	"storefs/store"
)

// Replay is how long the goals that ran would have taken in so many slots: each
// as long as it did, with as many of them as it would take, in the order of the
// longest remaining path, which the next run will know. Of slots for substitution there
// are as many as were used.
func (r *Run) Replay(slots int) time.Duration {
	pools := [2]replayPool{{slots: max(1, slots)}, {slots: max(1, len(r.apart))}}
	for i := range pools {
		pools[i].free = pools[i].slots
	}
	ready := func(j *job) { heap.Push(&pools[j.pool].ready, j) }
	for _, j := range r.jobs() {
		if j.unfinished == 0 {
			ready(j)
		}
	}
	// Two kinds of moments: slots become free, and, a little later, what was
	// built is in the store, so that others may use it.
	var now time.Duration
	var moments momentQueue
	for {
		for i := range pools {
			p := &pools[i]
			for j := p.next(); j != nil; j = p.next() {
				j.has = j.takes(p.slots)
				p.free -= j.has
				heap.Push(&moments, moment{at: now + j.slot, job: j})
			}
		}
		if len(moments) == 0 {
			return now
		}
		// What happens at the same time is seen at once.
		for now = moments[0].at; len(moments) > 0 && moments[0].at == now; {
			m := heap.Pop(&moments).(moment)
			p := &pools[m.job.pool]
			if !m.done {
				// As in the normaliser, the slot is kept for who waits for nothing else,
				// if that one is needed more than who could have it now.
				if m.job.rest == 0 || len(p.ready) == 0 || !m.job.isAwaitedMoreThan(p.ready[0]) {
					p.free += m.job.has
					m.job.has = 0
				}
				heap.Push(&moments, moment{at: now + m.job.rest, job: m.job, done: true})
				continue
			}
			p.free += m.job.has
			for _, w := range m.job.waiters {
				if w.unfinished--; w.unfinished == 0 {
					ready(w)
				}
			}
		}
	}
}

// replayPool is slots with those who want one.
type replayPool struct {
	slots, free int
	ready       readyJobs
}

// next is who gets its slots now, nil if nobody does. One that needs more than are free
// waits for them, and lets no other pass.
func (p *replayPool) next() *job {
	if len(p.ready) == 0 || p.ready[0].takes(p.slots) > p.free {
		return nil
	}
	return heap.Pop(&p.ready).(*job)
}

// job is a goal in a replay.
type job struct {
	slot, rest time.Duration // with its slots, and after that
	pool       int           // 1: of those for substitution
	cores      int           // how many those are, if there are so many; 0 is all
	has        int           // how many it has now
	left       time.Duration // the longest path from its start
	waiters    []*job
	unfinished int
	seen       bool
}

// takes is how many of the slots it has.
func (j *job) takes(slots int) int {
	if j.cores == 0 {
		return slots
	}
	return min(j.cores, slots)
}

// isAwaitedMoreThan reports whether something waits for j alone that comes before o.
func (j *job) isAwaitedMoreThan(o *job) bool {
	for _, w := range j.waiters {
		if w.unfinished == 1 && w.pool == o.pool && w.left > o.left {
			return true
		}
	}
	return false
}

// jobs are the goals that ran, with what they wait for.
func (r *Run) jobs() []*job {
	byPath := map[store.Path]*job{}
	var all []*job
	for _, g := range r.order {
		if g.ran() && g.Outcome != unfinished {
			j := &job{slot: max(0, g.Slot()), rest: max(0, g.Usable().Sub(g.Freed)), cores: g.Holds}
			if cores, ok := r.cores[g.Path]; ok {
				j.cores = cores
			}
			if g.Apart {
				j.pool = 1
			}
			byPath[g.Path] = j
			all = append(all, j)
		}
	}
	for p, j := range byPath {
		for _, need := range r.inputs(r.goals[p]) {
			if in := byPath[need.Path]; in != nil {
				in.waiters = append(in.waiters, j)
				j.unfinished++
			}
		}
	}
	for _, j := range sortJobs(all) {
		for _, w := range j.waiters {
			j.left = max(j.left, w.left)
		}
		j.left += j.slot + j.rest
	}
	return all
}

// sortJobs puts those who wait for a job before it.
func sortJobs(all []*job) []*job {
	type frame struct {
		job  *job
		next int
	}
	out := make([]*job, 0, len(all))
	var stack []frame
	enter := func(j *job) {
		if !j.seen {
			j.seen = true
			stack = append(stack, frame{job: j})
		}
	}
	for _, j := range all {
		enter(j)
		for len(stack) > 0 {
			f := &stack[len(stack)-1]
			if f.next < len(f.job.waiters) {
				f.next++
				enter(f.job.waiters[f.next-1])
				continue
			}
			out = append(out, f.job)
			stack = stack[:len(stack)-1]
		}
	}
	return out
}

type readyJobs []*job

func (q readyJobs) Len() int           { return len(q) }
func (q readyJobs) Less(i, j int) bool { return q[i].left > q[j].left }
func (q readyJobs) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push is for package heap.
func (q *readyJobs) Push(x any) { *q = append(*q, x.(*job)) }

// Pop is for package heap.
func (q *readyJobs) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

// moment is when something happens in a replay.
type moment struct {
	at   time.Duration
	job  *job
	done bool // what it made may be used; else it has run, and its slots become free
}

type momentQueue []moment

func (q momentQueue) Len() int           { return len(q) }
func (q momentQueue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q momentQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push is for package heap.
func (q *momentQueue) Push(x any) { *q = append(*q, x.(moment)) }

// Pop is for package heap.
func (q *momentQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}
