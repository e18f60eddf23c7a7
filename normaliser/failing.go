package normaliser

import (
	"time"

	"storefs/event"
	"storefs/store"
)

// doom: a goal lost an input.
type doom struct {
	goal, blame *goal
}

// inputFailed: for a substitute, that is no more than a reason to try the next.
func (gr *graph) inputFailed(w, in *goal) {
	switch {
	case w.state.ended():
	case w.kind == kindPath:
		w.substitutes.why = append(w.substitutes.why, &in.failure.Failure)
		gr.proceed(w)
	case w.mode == modeTry:
		gr.stopTrying(w)
		gr.proceed(w)
	default:
		w.failedInputs = append(w.failedInputs, in)
		gr.doom(w, in)
	}
}

// stopTrying: no substitute for an output of g, so it must be built.
func (gr *graph) stopTrying(g *goal) {
	gr.unlinkInputs(g, true)
	g.noTry, g.replan = true, true
}

// doom: g cannot succeed. It fails now, or, if something that keeps going
// wants it, once its inputs have ended; but whoever does not keep going hears
// of it now.
func (gr *graph) doom(g, blame *goal) {
	if g.state.ended() {
		return
	}
	if g.blame == nil {
		g.blame, g.failure, g.depth = blame, blame.failure, blame.depth+1
	}
	if g.hasWorker() {
		// It began when this input was in place, and has come to nothing with it.
		gr.stop(g)
		return
	}
	if g.flags&flagKeepGoing == 0 || g.unfinished == 0 {
		gr.fail(g)
		return
	}
	if g.doomed {
		gr.ripen(g)
		return
	}
	g.doomed = true
	if g.state == buildable {
		gr.set(g, waiting)
	}
	gr.ripen(g)
	for r := range g.requests {
		if !r.KeepGoing {
			gr.endRequest(r, nil, false)
		}
	}
	for _, e := range g.waiters {
		if w := e.from; !e.dead && w.mode != modeTry && w.kind != kindPath {
			gr.doomed = append(gr.doomed, doom{w, g})
		}
	}
}

// fail ends g; failure or blame say why.
func (gr *graph) fail(g *goal) {
	var held time.Duration
	if g.run != nil {
		held = g.run.held()
	}
	f := g.tell()
	remembered := gr.isFailure(g)
	gr.set(g, failed)
	gr.count(g)
	gr.events.Publish(event.Event{Kind: event.Failed, Goal: g.path, Failure: f, Duration: held})
	if remembered {
		gr.memory.set(f)
	}
}

// isFailure reports whether the failure of g is one for anybody: a path goal
// that was only tried leaves another way, and what a check was about is valid.
func (gr *graph) isFailure(g *goal) bool {
	if g.kind == kindCheck || g.failure.Cause == store.CauseCancelled && !g.failure.halted || refusedBuild(&g.failure.Failure) || g.background() {
		return false
	}
	if g.kind != kindPath || len(g.requests) > 0 {
		return true
	}
	for _, e := range g.waiters {
		if !e.dead && e.from.mode != modeTry && e.from.kind != kindPath {
			return true
		}
	}
	return false
}
