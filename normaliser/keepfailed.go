package normaliser

// keepsFailed reports whether the scratch directory of j, which has failed, is to stay.
// Who joins later, while the directory is being removed, comes too late.
func (n *Normaliser) keepsFailed(j *job) (keep bool) {
	if j.goal == nil {
		return false // it was built for nobody who waits
	}
	return n.within(func(gr *graph) { keep = gr.keepsFailed(j.goal) }) && keep
}

// keepsFailed reports whether a request that waits for g has KeepFailed. Requests come
// and go while a builder runs, and flags are never taken back: so it is looked for when
// the builder has failed.
func (gr *graph) keepsFailed(g *goal) bool {
	anybody := false
	for r := range gr.requests {
		anybody = anybody || r.KeepFailed
	}
	if !anybody {
		return false
	}
	gr.search++
	g.mark = gr.search
	stack := []*goal{g}
	for len(stack) > 0 {
		g := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for r := range g.requests {
			if r.KeepFailed {
				return true
			}
		}
		for _, e := range g.waiters {
			if !e.dead && e.from.mark != gr.search {
				e.from.mark = gr.search
				stack = append(stack, e.from)
			}
		}
	}
	return false
}
