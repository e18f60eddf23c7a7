package normaliser

import (
	"context"
	"slices"
	"time"

	"storefs/store"
)

// cancelledMessage is what callers are told whose goal Cancel has ended.
const cancelledMessage = "cancelled by storefs cancel"

// Cancel ends the goals of targets, whoever waits for them, and what only they
// need: their callers get a *store.Failure that is store.ErrCancelled, and so does, for
// a moment, who looks them up again (see Banned): a shell that could not execute a file
// looks at once what it is. What is built already, and waits only to be registered, ends
// well. It waits for what it ends, until ctx ends.
//
// For each target it returns the goal that has ended so: its derivation, or itself;
// "" if there was none, or if that has ended otherwise.
func (n *Normaliser) Cancel(ctx context.Context, targets []store.Path) ([]store.Path, error) {
	keys := make([][]key, len(targets))
	for i, t := range targets {
		keys[i] = []key{{kindPath, t}}
		if drv, _, err := n.store.Known(t); err == nil {
			t = drv
		}
		keys[i] = append(keys[i], key{kindExpr, t}, key{kindCheck, t})
	}
	ended := make([]store.Path, len(targets))
	all := make([][]*goal, len(targets))
	if !n.within(func(gr *graph) {
		for i := range keys {
			for _, k := range keys[i] {
				if g := gr.goals[k]; g != nil {
					gr.halt(g)
					all[i] = append(all[i], g)
				}
			}
		}
	}) {
		return ended, nil
	}
	for i, goals := range all {
		for _, g := range goals {
			if err := g.awaitEnd(ctx); err != nil {
				return nil, n.gone(ctx, err)
			}
			if g.state != done {
				ended[i] = g.path
			}
		}
	}
	return ended, nil
}

// CancelAll is Cancel of all that is asked for, or still runs. It returns the goals
// that were asked for, or ran.
func (n *Normaliser) CancelAll(ctx context.Context) ([]store.Path, error) {
	var goals []*goal
	n.within(func(gr *graph) {
		for r := range gr.requests {
			goals = append(goals, r.targets...)
		}
		for _, g := range gr.goals {
			if g.hasWorker() && !g.wanted() {
				goals = append(goals, g) // it goes on, though nobody waits for it any more
			}
		}
		goals = slices.DeleteFunc(goals, func(g *goal) bool { return g == nil || g.state.ended() })
		for _, g := range goals {
			gr.halt(g)
		}
	})
	var ended []store.Path
	for _, g := range goals {
		if err := g.awaitEnd(ctx); err != nil {
			return nil, n.gone(ctx, err)
		}
		if g.state != done {
			ended = append(ended, g.path)
		}
	}
	slices.Sort(ended)
	return slices.Compact(ended), nil
}

// within has the graph's goroutine call f, and waits until it has; false if that has
// ended.
func (n *Normaliser) within(f func(*graph)) bool {
	asked := make(chan struct{})
	if !n.post(func(gr *graph) { f(gr); close(asked) }) {
		return false
	}
	<-asked
	return true
}

// halt has g end without what it is for.
func (gr *graph) halt(g *goal) {
	if g.halted == nil {
		g.halted = make(chan struct{})
	}
	switch {
	case g.state.ended():
	case g.placed: // others may use it already, and the disk is all that it waits for
	case g.hasWorker():
		gr.stop(g)
	default:
		gr.unlinkInputs(g, true)
		gr.cancelled(g)
	}
}

// cancelled ends g, which was halted, if it has not failed by itself.
func (gr *graph) cancelled(g *goal) {
	if g.blame == nil {
		g.failure = &rootCause{
			Failure: store.Failure{Path: g.path, Cause: store.CauseCancelled, Message: cancelledMessage, Time: time.Now()},
			halted:  true,
		}
	}
	gr.fail(g)
}

// awaitEnd waits for a goal that was halted: whoever has waited may read its state.
func (g *goal) awaitEnd(ctx context.Context) error {
	select {
	case <-g.halted:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
