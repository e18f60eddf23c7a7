package normaliser

import (
	"time"

	"storefs/event"
	"storefs/store"
)

// merge brings a plan into the graph, sharing the goals that are there already.
// What it changes is settled by the caller.
//
// The work is proportional to the plan, apart from flags, which are handed down
// each edge at most once, and the search for cycles, which happens only if
// goals that were there before got new inputs.
//
// The plan is that of a new request, or of by, a goal in the graph: then what
// has failed since by is there counts as failed. attach is called when all
// goals are there, before anybody is told of them.
func (gr *graph) merge(p *plan, o *origin, by *goal, attach func(goals []*goal)) {
	goals := make([]*goal, len(p.nodes))
	var fresh, relinked, joined []*goal
	for i := range p.nodes {
		n := &p.nodes[i]
		g := gr.goals[n.key]
		isNew := g == nil
		if isNew {
			if f := gr.failedFor(n.key, by); f != nil {
				goals[i] = f
				continue
			}
			g = gr.add(n, o, by)
			fresh = append(fresh, g)
		}
		goals[i] = g
		if n.mode == modeLive {
			joined = append(joined, g)
		}
		if !isNew && (gr.spared(g, n) || !gr.adapt(g, n)) {
			continue
		}
		if gr.linkDeps(g, n.deps, goals) && !isNew {
			relinked = append(relinked, g)
			if g.state == buildable {
				gr.set(g, waiting)
			}
		}
	}
	if attach != nil {
		attach(goals)
	}
	gr.breakCycles(relinked)
	gr.handDown(goals)
	gr.raiseInputs(joined)
	gr.announce(fresh)
	for i, g := range goals {
		if f := p.nodes[i].failure; f != nil && (g.state == waiting || g.state == buildable) && !gr.spared(g, &p.nodes[i]) {
			g.failure, g.blame, g.depth = &rootCause{Failure: *f}, nil, 0
			gr.fail(g)
			continue
		}
		gr.proceed(g)
	}
	for _, g := range fresh {
		// What would have needed it has failed before.
		if !g.wanted() {
			gr.released = append(gr.released, release{g, false})
		}
	}
}

// current reports whether all that the plan took for live still is.
func (gr *graph) current(p *plan) bool {
	for i := range p.nodes {
		if n := &p.nodes[i]; n.mode == modeLive {
			if g := gr.goals[n.key]; g == nil || !g.wants.covers(n.wants) {
				return false
			}
		}
	}
	return true
}

// spared reports whether g, which others may build, is not to fail because n
// is for somebody who may not.
func (gr *graph) spared(g *goal, n *node) bool {
	return refusedBuild(n.failure) && g.flags&flagMayBuild != 0
}

// adapt changes a live goal to what a newer plan found; it reports whether the
// inputs of the node are to become its own.
func (gr *graph) adapt(g *goal, n *node) bool {
	if !g.wants.covers(n.wants) {
		g.wants = g.wants.union(n.wants)
		gr.live.set(g.key, g.wants)
	}
	if n.mode == modeLive {
		return false
	}
	if g.state != waiting && g.state != buildable {
		// Its worker began with fewer wants; when it ends, it is planned again
		// if that is not enough.
		return false
	}
	if g.mode == n.mode {
		g.replan = g.replan || n.replan
		return true
	}
	switch {
	case g.mode == modeBuild && n.mode == modeTry && !g.replan:
		// It is to be built for the sake of others anyway.
		return false
	case g.mode == modeTry:
		gr.unlinkInputs(g, true)
	}
	g.mode, g.expected, g.cores, g.replan = n.mode, n.expected, n.cores, n.replan
	if g.state == buildable {
		gr.set(g, waiting) // its pool may be another one now
	}
	return true
}

// linkDeps links g to the goals of deps that it does not wait for yet, and
// reports whether there were any.
func (gr *graph) linkDeps(g *goal, deps []int32, goals []*goal) bool {
	for _, e := range g.inputs {
		if !e.dead {
			e.to.lastWaiter = g
		}
	}
	added := false
	for _, d := range deps {
		in := goals[d]
		switch {
		case in.state == failed && g.mode == modeTry:
			gr.stopTrying(g)
			return true
		case in.state == failed:
			g.failedInputs = append(g.failedInputs, in)
			gr.doomed = append(gr.doomed, doom{g, in})
			if g.blame == nil {
				g.blame, g.failure, g.depth = in, in.failure, in.depth+1
			}
		case in.lastWaiter != g && !in.state.ended():
			in.lastWaiter = g
			gr.link(g, in)
			added = true
		}
	}
	return added
}

// handDown gives flags and levels to the inputs of the goals, which are in
// topological order with the inputs first.
func (gr *graph) handDown(goals []*goal) {
	for i := len(goals) - 1; i >= 0; i-- {
		g := goals[i]
		if c := g.cost(); g.level < c {
			gr.raise(g, c)
		}
		for _, e := range g.inputs {
			if e.dead {
				continue
			}
			gr.inherit(e.to, g)
			gr.raise(e.to, g.level+e.to.cost())
		}
	}
}

// maxRaised bounds the inputs that are looked at below a plan. Levels only
// order goals: that those far below are too low for a while does no harm, but
// to raise all of a long chain each time that one more waits for it would.
const maxRaised = 1000

// raiseInputs gives higher levels to what is below the goals at which a plan
// ended.
func (gr *graph) raiseInputs(joined []*goal) {
	queue := joined
	for i := 0; i < len(queue) && i < maxRaised; i++ {
		g := queue[i]
		for _, e := range g.inputs {
			if l := g.level + e.to.cost(); !e.dead && e.to.level < l {
				gr.raise(e.to, l)
				queue = append(queue, e.to)
			}
		}
	}
}

// raise makes the level of g at least l.
func (gr *graph) raise(g *goal, l time.Duration) {
	if g.level >= l {
		return
	}
	g.level = l
	gr.ranked = true
	if g.queued() {
		g.pool.raised(g)
	}
}

// inherit makes all who want g want in, which it needs.
func (gr *graph) inherit(in, g *goal) {
	gr.flag(in, g.inherited())
	for _, r := range gr.flagless {
		if _, own := r.own[g]; own {
			r.see(in)
		}
	}
}

// flag adds flags to g and to all that it needs.
func (gr *graph) flag(g *goal, f flags) {
	type visit struct {
		goal *goal
		add  flags
	}
	stack := []visit{{g, f}}
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		add := v.add &^ v.goal.flags
		if add == 0 {
			continue
		}
		gr.addFlags(v.goal, add)
		for _, e := range v.goal.inputs {
			if !e.dead {
				stack = append(stack, visit{e.to, v.goal.inherited()})
			}
		}
	}
}

func (gr *graph) addFlags(g *goal, add flags) {
	queued := g.queued()
	if queued {
		g.pool.remove(g)
	}
	if !g.state.ended() {
		gr.users.count(add&^g.flags, 1)
	}
	g.flags |= add
	gr.ranked = true
	if queued {
		if g.state != locked {
			g.pool = gr.poolOf(g)
		}
		g.pool.push(g)
	}
	if g.run != nil && g.run.wanted != nil && !g.background() {
		// It is somebody's now, and stays.
		close(g.run.wanted)
		g.run.wanted = nil
		if g.state == running {
			g.pool.adopt(g)
		}
	}
	for b := add & gr.observing; b != 0; b &= b - 1 {
		r := gr.observers[b&-b]
		r.observed = append(r.observed, g.path)
	}
}

// announce tells readers of new goals: first the requests that want to know
// which are theirs, then everybody.
func (gr *graph) announce(fresh []*goal) {
	for _, r := range gr.observers {
		r.tell()
	}
	for _, r := range gr.flagless {
		r.tell()
	}
	now := time.Now()
	for _, g := range fresh {
		gr.events.Publish(event.Event{Kind: event.Added, Time: now, Goal: g.path, Expected: g.expected})
	}
}

// breakCycles looks for cycles through goals that got new inputs, and fails one
// goal of each: a path goal if there is one, because it can try its next
// substitute. Goals without such a past cannot close a cycle: whatever waits
// for them is newer.
func (gr *graph) breakCycles(relinked []*goal) {
	gr.search++
	for _, g := range relinked {
		for g.mark != gr.search && !g.state.ended() {
			if around := gr.cycleFrom(g); around != nil {
				gr.breakCycle(around)
				gr.search++
			}
		}
	}
}

// cycleFrom finds a cycle among what g needs, if there is one. It does not look
// again at goals that this search has been through.
func (gr *graph) cycleFrom(g *goal) []*edge {
	type visit struct {
		goal *goal
		next int
	}
	stack := []visit{{goal: g}}
	var way []*edge // way[i] leads from stack[i] to stack[i+1]
	g.mark, g.onPath = gr.search, true
	defer func() {
		for _, v := range stack {
			v.goal.onPath = false
		}
	}()
	for len(stack) > 0 {
		v := &stack[len(stack)-1]
		if v.next == len(v.goal.inputs) {
			v.goal.onPath = false
			stack = stack[:len(stack)-1]
			if len(way) > 0 {
				way = way[:len(way)-1]
			}
			continue
		}
		e := v.goal.inputs[v.next]
		v.next++
		switch {
		case e.dead:
		case e.to.mark != gr.search:
			e.to.mark, e.to.onPath = gr.search, true
			stack = append(stack, visit{goal: e.to})
			way = append(way, e)
		case e.to.onPath:
			way = append(way, e)
			for i := range way {
				if way[i].from == e.to {
					return way[i:]
				}
			}
		}
	}
	return nil
}

// breakCycle ends one need of a cycle.
func (gr *graph) breakCycle(around []*edge) {
	at := len(around) - 1
	for i, e := range around {
		if e.from.kind == kindPath {
			at = i
			break
		}
	}
	paths := make([]store.Path, 0, len(around))
	for i := range around {
		paths = append(paths, around[(at+i)%len(around)].from.path)
	}
	e := around[at]
	if back := around[(at+1)%len(around)]; len(around) == 2 && back.from.mode == modeTry {
		// A substitute for a path is the very derivation that makes it.
		gr.stopTrying(back.from)
		gr.proceed(back.from)
		return
	}
	f := cycleFailure(paths)
	gr.unlink(e, true)
	if e.from.kind == kindPath {
		e.from.substitutes.why = append(e.from.substitutes.why, f)
		gr.proceed(e.from)
		return
	}
	e.from.failure, e.from.blame, e.from.depth = &rootCause{Failure: *f}, nil, 0
	gr.fail(e.from)
}
