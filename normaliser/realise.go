package normaliser

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"storefs/event"
	"storefs/store"
	"storefs/storeexpr"
)

// Realise makes the targets valid, and waits for it until ctx ends; what then
// becomes of the goals, Request.Orphans says.
//
// The result is never nil; it tells of each target. The error is nil if all are
// realised. Else it is, or joins, the *store.Failure of every target that
// failed (without KeepGoing, of the first), or wraps store.ErrCancelled.
func (n *Normaliser) Realise(ctx context.Context, r Request) (*Result, error) {
	call, leave := n.callers.enter(r)
	defer leave()
	var before event.Counts
	for {
		res, theirs, err := n.ask(ctx, r, call)
		res.Counts = res.Counts.After(before)
		if !theirs || ctx.Err() != nil {
			return res, err
		}
		before = res.Counts
	}
}

// ask makes the targets valid. What it cannot is theirs if nothing else was in the way
// than limits of other requests, which this one shared goals with.
func (n *Normaliser) ask(ctx context.Context, r Request, call *call) (_ *Result, theirs bool, _ error) {
	// A plan may end at goals that are in the graph; if they are gone when it
	// gets there, what became of them is found out by walking again, in the end
	// by walking everything.
	for _, live := range []*liveGoals{n.live, n.live, n.live, nil} {
		if r.NoBuild && live != nil {
			continue // what others have goals for may be builds
		}
		res, merged, theirs, err := n.try(ctx, r, live, call)
		if merged {
			return res, theirs, err
		}
	}
	panic("normaliser: a plan that stands alone was not merged")
}

// try makes a plan, and follows it if it still holds.
func (n *Normaliser) try(ctx context.Context, r Request, live *liveGoals, call *call) (_ *Result, merged, theirs bool, _ error) {
	res := &Result{Targets: make([]Target, len(r.Targets))}
	p := newPlanner(ctx, n.store, n.substituter)
	p.live, p.noBuild, p.foresee = live, r.NoBuild, n.foresee
	p.seen = make(map[key]*record, len(r.Targets))
	index := make([]int32, len(r.Targets))
	waits, givenUp := false, false
	var standings []standing
	if !r.Check {
		standings = n.standings(ctx, r.Targets)
	}
	for i, t := range r.Targets {
		var err error
		var known *standing
		if standings != nil {
			known = &standings[i]
		}
		if index[i], err = n.planTarget(p, t, r.Check, known, &res.Targets[i]); err != nil {
			return res, true, false, n.gone(ctx, err)
		}
		waits = waits || index[i] != realised
		givenUp = givenUp || res.Targets[i].Failure != nil && !r.KeepGoing
	}
	refused := p.plan.refused()
	if !waits || givenUp || refused != nil {
		n.settle(ctx, res, index, p.found())
		for i := range res.Targets {
			if index[i] != realised && refused != nil {
				f := *refused
				res.Targets[i].Failure = &f
				res.Failures = append(res.Failures, &f)
			}
		}
		return res, true, false, res.err()
	}
	req, err := n.submit(r, p, index, call)
	if err != nil {
		return res, true, false, err
	}
	if req == nil {
		return res, false, false, nil
	}
	var beside sync.WaitGroup
	beside.Go(func() { n.settle(ctx, res, index, p.found()) })
	v, err := n.await(ctx, req, index, res)
	beside.Wait()
	res.Failures = append(res.Failures, v.roots...)
	res.Counts = res.Counts.Plus(v.counts)
	if err != nil {
		return res, true, false, errors.Join(res.err(), err)
	}
	return res, true, v.theirs && len(res.Failures) == len(v.roots), res.err()
}

// settle finishes the targets that need no goal, counts what needs none, and
// gives what was cut off its successor. Where that fails, a target fails; what is
// none counts as reused, and is cut off the next time.
func (n *Normaliser) settle(ctx context.Context, res *Result, index []int32, f found) {
	failed := n.keepAll(ctx, f.cutOff)
	c := event.Counts{Reused: f.reused + len(failed), CutOff: len(f.cutOff) - len(failed)}
	for i := range res.Targets {
		t := &res.Targets[i]
		if index[i] != realised {
			continue
		}
		if err := failed[t.Path]; err != nil {
			t.Failure = targetFailure(t.Path, err)
			c.Failed, c.Reused = c.Failed+1, c.Reused-1
		}
		if t.Failure != nil {
			res.Failures = append(res.Failures, t.Failure)
			continue
		}
		t.Realised = true
	}
	res.Counts = c
	n.settled.add(c)
}

// gone is the error of a caller whose context ended.
func (n *Normaliser) gone(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("realise: %w: %w", store.ErrCancelled, cause)
	}
	return err
}

// isOutput reports whether t, whose name could be that of an expression of 2004, is
// what a derivation makes: outputs and sources may be called so as well.
func (n *Normaliser) isOutput(t store.Path) bool {
	if t.IsDerivation() {
		return false
	}
	_, _, err := n.store.Known(t)
	return err == nil
}

// planTarget walks what t needs, and finds out what t stands for. What is known of
// it already may be nil.
func (n *Normaliser) planTarget(p *planner, t store.Path, check bool, known *standing, out *Target) (int32, error) {
	out.Path = t
	r := ref{key: key{kindPath, t}, wants: wantAll}
	var e storeexpr.Expr
	if t.IsExpr() && !n.isOutput(t) {
		r.kind = kindExpr
		var err error
		if !check && p.seen[r.key] == nil {
			if known == nil {
				known = &standing{}
				known.outputs, known.ok, err = n.store.Realised(t)
			}
			if err == nil && known.ok {
				out.Paths = known.outputs
				p.seen[r.key] = &record{key: r.key, wants: wantAll, index: realised}
				return realised, nil
			}
		}
		if e, err = n.store.Expr(t); err == nil {
			out.Paths, err = outputsOf(t, e)
		}
		if err != nil {
			out.Paths = []store.Path{t}
		}
		if !t.IsDerivation() && errors.Is(err, store.ErrBadExpr) {
			r.kind = kindPath // a source
		}
	} else {
		out.Paths = []store.Path{t}
	}
	if check {
		r.wants = wantAll
		if r.kind == kindPath {
			drv, _, err := n.store.Known(t)
			if err != nil {
				out.Failure = targetFailure(t, fmt.Errorf("check %s: %w", t, err))
				return realised, nil
			}
			r.path = drv
		}
		r.kind = kindCheck
	}
	p.own, p.ownPath = e, t
	i, err := p.walk(r)
	if err == nil && check && i != realised {
		if f := p.refusedCheck(i); f != nil {
			out.Failure = targetFailure(t, f)
			return realised, nil
		}
	}
	if err == nil && i == realised && r.kind == kindPath {
		// It is valid; as a target, it counts.
		p.seen[r.key] = &record{key: r.key, wants: wantAll, index: realised}
	}
	return i, err
}

// outputs are what the expression t stands for.
func (n *Normaliser) outputs(t store.Path) ([]store.Path, error) {
	e, err := n.store.Expr(t)
	if err != nil {
		return nil, err
	}
	return outputsOf(t, e)
}

func outputsOf(t store.Path, e storeexpr.Expr) ([]store.Path, error) {
	switch e := e.(type) {
	case *storeexpr.Derivation:
		return wantedOutputs(t, e, wantAll)
	case *storeexpr.Closure:
		return e.Roots, nil
	}
	return nil, fmt.Errorf("read %s: neither a derivation nor a closure: %w", t, store.ErrBadExpr)
}

func targetFailure(t store.Path, err error) *store.Failure {
	f := asFailure(t, err)
	f.Chain = []store.Path{t}
	return f
}

// submit posts the plan. The request is nil if the plan does not hold any more.
func (n *Normaliser) submit(r Request, p *planner, index []int32, call *call) (*request, error) {
	req := &request{Request: r, reply: make(chan verdict, 1)}
	pl := p.plan
	begun := make(chan bool, 1)
	begin := func(gr *graph) {
		ok := gr.begin(req, &pl, index)
		if ok {
			n.callers.posted(call, req)
		}
		begun <- ok
	}
	if !n.post(begin) {
		return nil, errClosing
	}
	if !<-begun {
		return nil, nil
	}
	return req, nil
}

// await waits for what comes of a request.
func (n *Normaliser) await(ctx context.Context, req *request, index []int32, res *Result) (verdict, error) {
	var v verdict
	select {
	case v = <-req.reply:
	case <-ctx.Done():
		left := make(chan struct{})
		if n.post(func(gr *graph) { n.leave(gr, req); close(left) }) {
			<-left // Planned is not called any more
		}
		return verdict{}, n.gone(ctx, ctx.Err())
	}
	for i := range res.Targets {
		if index[i] != realised {
			res.Targets[i].Realised = v.realised[i]
			res.Targets[i].Failure = v.failures[i]
			if t := &res.Targets[i]; t.Realised && len(t.Paths) == 1 && t.Paths[0] == t.Path && t.Path.IsExpr() && !n.isOutput(t.Path) {
				// Its text came from a substitute meanwhile.
				if paths, err := n.outputs(t.Path); err == nil {
					t.Paths = paths
				}
			}
		}
	}
	return v, v.err
}

// err is the error of Realise for the result.
func (r *Result) err() error {
	var errs []error
	for _, t := range r.Targets {
		if t.Failure != nil {
			errs = append(errs, t.Failure)
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// begin merges the plan of a request; false if it does not hold any more.
func (gr *graph) begin(req *request, p *plan, index []int32) bool {
	if gr.closing {
		req.reply <- verdict{err: errClosing, failures: make([]*store.Failure, len(index)), realised: make([]bool, len(index))}
		return true
	}
	if !gr.current(p) {
		return false
	}
	gr.requests[req] = struct{}{}
	if req.Jobs > 0 {
		gr.jobs[req.Jobs]++
		gr.setSlots()
	}
	f := flagMain
	if !req.Background {
		gr.demands++
		f |= flagDemand | gr.users.flag(req.Caller)
	}
	if req.Urgent {
		f |= flagUrgent
	}
	if req.KeepGoing {
		f |= flagKeepGoing
	}
	if !req.NoBuild {
		f |= flagMayBuild
	}
	if req.Planned != nil {
		gr.observe(req)
		f |= req.observer
	}
	o := &origin{limits: req.Limits}
	gr.merge(p, o, nil, func(goals []*goal) {
		for _, i := range index {
			if i == realised {
				req.targets = append(req.targets, nil)
				continue
			}
			g := goals[i]
			req.targets = append(req.targets, g)
			if g.requests == nil {
				g.requests = map[*request]struct{}{}
			}
			if _, ok := g.requests[req]; !ok {
				g.requests[req] = struct{}{}
				req.pending++
				if g.state == registering {
					gr.hurryUp(g)
				}
			}
			gr.flag(g, f)
			if req.own != nil {
				req.see(g)
			}
		}
	})
	if !req.KeepGoing {
		for _, g := range req.targets {
			if g != nil && g.doomed {
				gr.endRequest(req, nil, false)
				break
			}
		}
	}
	return true
}

// leave: the caller of req has gone.
func (n *Normaliser) leave(gr *graph, req *request) {
	if req.ended {
		return
	}
	req.left = true
	gr.unobserve(req)
	switch {
	case !req.Orphans.Cancel:
	case req.Orphans.Grace <= 0:
		gr.endRequest(req, store.ErrCancelled, true)
	default:
		req.grace = time.AfterFunc(req.Orphans.Grace, func() {
			n.post(func(gr *graph) { gr.endRequest(req, store.ErrCancelled, true) })
		})
	}
}

// endRequest answers a request with what became of its targets, and releases
// those that have not ended; cancel stops their workers, if nobody else wants
// them.
func (gr *graph) endRequest(req *request, err error, cancel bool) {
	if req.ended {
		return
	}
	req.ended = true
	delete(gr.requests, req)
	if !req.Background {
		gr.demands--
		gr.demanded = time.Now()
	}
	gr.unobserve(req)
	if req.grace != nil {
		req.grace.Stop()
	}
	if req.Jobs > 0 {
		if gr.jobs[req.Jobs]--; gr.jobs[req.Jobs] == 0 {
			delete(gr.jobs, req.Jobs)
		}
		gr.setSlots()
	}
	v := verdict{err: err, counts: req.counts, failures: make([]*store.Failure, len(req.targets)), realised: make([]bool, len(req.targets))}
	failed := false
	for i, g := range req.targets {
		if g == nil {
			continue
		}
		v.realised[i] = g.state == done
		if g.failure != nil && g.state != done && !req.left {
			failed = true
			v.failures[i] = g.report(longChain)
		}
		if !g.state.ended() {
			delete(g.requests, req)
			gr.released = append(gr.released, release{g, cancel})
		}
	}
	if req.left {
		return
	}
	if !failed {
		req.reply <- v
		return
	}
	v.roots, v.theirs = gr.rootCauses(req.targets, req.Limits)
	// Whoever hears of a failure finds it remembered.
	gr.memory.after(func(err error) {
		v.err = errors.Join(v.err, err)
		req.reply <- v
	})
}

// setSlots: builds have the most slots that anybody asked for.
func (gr *graph) setSlots() {
	gr.builds.slots = gr.minSlots
	for j := range gr.jobs {
		gr.builds.slots = max(gr.builds.slots, j)
	}
}
