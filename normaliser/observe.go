package normaliser

import (
	"slices"

	"storefs/event"
)

// observe gives req a flag of its own, by which it learns of goals. A request
// for which there is no flag left has a set of them instead.
func (gr *graph) observe(req *request) {
	if gr.observing|gr.spent == ^(flagObserver - 1) {
		for _, g := range gr.goals {
			g.flags &^= gr.spent
		}
		gr.spent = 0
	}
	for b := flagObserver; b != 0; b <<= 1 {
		if (gr.observing|gr.spent)&b == 0 {
			req.observer = b
			gr.observing |= b
			gr.observers[b] = req
			return
		}
	}
	req.own = map[*goal]struct{}{}
	gr.flagless = append(gr.flagless, req)
}

// see is for a request without a flag what graph.flag is for others.
func (r *request) see(g *goal) {
	stack := []*goal{g}
	for len(stack) > 0 {
		g := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if _, seen := r.own[g]; seen {
			continue
		}
		r.own[g] = struct{}{}
		r.observed = append(r.observed, g.path)
		for _, e := range g.inputs {
			if !e.dead {
				stack = append(stack, e.to)
			}
		}
	}
}

func (gr *graph) unobserve(req *request) {
	switch {
	case req.Planned == nil:
	case req.observer == 0:
		gr.flagless = slices.DeleteFunc(gr.flagless, func(r *request) bool { return r == req })
	case gr.observers[req.observer] == req:
		delete(gr.observers, req.observer)
		gr.observing &^= req.observer
		gr.spent |= req.observer
	}
}

// count counts g, which has ended, for everybody and for the requests that need it
// and want to know.
func (gr *graph) count(g *goal) {
	add := func(c *event.Counts) {
		if g.state == failed {
			c.Failed++
		} else {
			c.Add(g.outcome)
		}
	}
	add(&gr.outcomes)
	for b := g.flags & gr.observing; b != 0; b &= b - 1 {
		add(&gr.observers[b&-b].counts)
	}
	for _, r := range gr.flagless {
		if _, own := r.own[g]; own {
			add(&r.counts)
			delete(r.own, g)
		}
	}
}

// tell gives the caller the goals that were found for it since the last time.
func (r *request) tell() {
	if len(r.observed) > 0 {
		r.Planned(r.observed)
		r.observed = nil
	}
}
