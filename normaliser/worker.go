package normaliser

import (
	"context"
	"fmt"
	"sync"
	"time"

	"storefs/builder"
	"storefs/event"
	"storefs/store"
	"storefs/substitute"
)

// phase is what a worker is doing, for whoever asks.
type phase struct {
	mu   sync.Mutex
	name string
}

func (p *phase) set(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.name = name
}

func (p *phase) get() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.name
}

// job is what a worker knows of its goal: a copy, for the goal belongs to the
// graph.
type job struct {
	key
	goal      *goal // only to be handed back
	mode      mode
	wants     wants
	replan    bool
	noTry     bool
	mayBuild  bool
	replanned bool // as in goal
	origin    *origin
	attempts  attempts
	run       *run
	wanted    chan struct{} // nil if it is wanted
	pool      byte          // see builder.Job
	heir      int64         // likewise
}

// ending is what a worker found. Exactly one of outcome, err and plan says it.
type ending struct {
	outcome string
	err     error
	plan    *plan // what the goal turned out to need
	top     int32 // in plan: the goal itself or, for path goals, its substitute
	// attempts is how far a path goal has come.
	attempts attempts
	// took is how long the builder took, 0 if none ran.
	took time.Duration
	// tidy, if set, is done when whoever waits for the goal has been told.
	tidy func()
}

// launch begins the worker of g, which has just become running, or prepared.
func (n *Normaliser) launch(g *goal) {
	ctx, cancel := context.WithCancel(n.workers)
	g.run = &run{cancel: cancel, since: time.Now(), resume: make(chan struct{})}
	if g.background() {
		g.run.wanted = make(chan struct{})
	}
	if g.unfinished > 0 {
		g.run.inputs = make(chan struct{})
	}
	if g.state == prepared {
		g.run.start, g.run.waits = make(chan struct{}), true
		g.run.relays = make(chan builder.Relay, 1)
	}
	j := job{
		key: g.key, goal: g, mode: g.mode, wants: g.wants, replan: g.replan, noTry: g.noTry, mayBuild: g.flags&flagMayBuild != 0,
		replanned: g.replanned, origin: g.origin, run: g.run, wanted: g.run.wanted,
	}
	if g.flags&flagMain == 0 {
		g.run.pool = poolOfSubstitution
	}
	g.run.heir = g.heir()
	j.pool, j.heir = g.run.pool, g.run.heir
	if g.substitutes != nil {
		j.attempts = *g.substitutes
	}
	n.start(func() {
		e := n.work(ctx, &j)
		cancelled := ctx.Err() != nil
		cancel()
		n.post(func(gr *graph) { gr.workerEnded(j.goal, &j, e, cancelled) })
		if e.tidy != nil {
			e.tidy()
		}
	})
}

// maxResting is the most goroutines that wait for the next worker's work: they have the
// stack that it takes, which a new one comes to in four steps, with a copy at each.
const maxResting = 32

// start does the work of a worker beside whatever else happens.
func (n *Normaliser) start(work func()) {
	n.running.Add(1)
	select {
	case n.next <- work:
		return
	default:
	}
	go func() {
		for work != nil {
			work()
			n.running.Done()
			work = n.rest()
		}
	}()
}

// rest waits for the next work. There is none if enough wait for it.
func (n *Normaliser) rest() func() {
	defer n.resting.Add(-1)
	if n.resting.Add(1) > maxResting {
		return nil
	}
	select {
	case work := <-n.next:
		return work
	case <-n.workers.Done():
		return nil
	}
}

// work does what the goal is for.
func (n *Normaliser) work(ctx context.Context, j *job) ending {
	switch {
	case j.kind == kindPath:
		return n.substitute(ctx, j)
	case j.replan || j.mode == modeFetch:
		return n.replan(ctx, j)
	case j.mode == modeTry:
		return n.substituted(ctx, j)
	case j.kind == kindCheck:
		return ending{outcome: event.OutcomeBuilt, err: n.check(ctx, j)}
	}
	return n.build(ctx, j)
}

// replan walks what the goal needs again.
func (n *Normaliser) replan(ctx context.Context, j *job) ending {
	p := newPlanner(ctx, n.store, n.substituter)
	p.noBuild = !j.mayBuild
	if j.noTry {
		p.noTry = j.path
	}
	top, err := p.walk(ref{key: j.key, wants: j.wants})
	if err != nil {
		return ending{err: err}
	}
	if top == realised {
		rec := p.seen[j.key]
		outcome, err := n.keep(ctx, j.path, rec != nil && rec.cutOff)
		return ending{outcome: outcome, err: err}
	}
	return ending{plan: &p.plan, top: top}
}

// substituted finishes a derivation whose missing outputs all came from
// substitutes.
func (n *Normaliser) substituted(ctx context.Context, j *job) ending {
	d, err := n.derivation(j.path)
	if err != nil {
		return ending{err: err}
	}
	cut, err := cutOff(n.store, j.path, d)
	if err == nil {
		_, err = n.keep(ctx, j.path, cut)
	}
	return ending{outcome: event.OutcomeGathered, err: err}
}

// substitute takes the next substitute of a path whose expression still needs
// something; on the way it sees whether the last one has made the path valid.
func (n *Normaliser) substitute(ctx context.Context, j *job) ending {
	a := j.attempts
	tried := a.next > 0
	if !a.asked {
		subs, err := n.lookUp(ctx, j.path)
		if err != nil {
			return ending{err: err}
		}
		a.asked, a.list = true, subs
	}
	for {
		valid, err := n.store.Valid(j.path)
		switch {
		case err != nil:
			return ending{err: err}
		case valid && tried:
			return ending{outcome: event.OutcomeSubstituted}
		case valid:
			return ending{outcome: event.OutcomeReused}
		case a.next > len(a.why):
			a.why = append(a.why, fmt.Errorf("%s was realised, but did not make it valid", a.list[a.next-1].Expr))
		}
		if a.next == len(a.list) {
			return ending{err: exhausted(j.path, a.why)}
		}
		p := newPlanner(ctx, n.store, n.substituter)
		p.forPath = j.path
		top, err := p.walk(ref{key: key{kindExpr, a.list[a.next].Expr}, wants: wantAll})
		a.next++
		tried = true
		if err != nil {
			return ending{err: err}
		}
		if top != realised {
			return ending{plan: &p.plan, top: top, attempts: a}
		}
	}
}

func (n *Normaliser) lookUp(ctx context.Context, p store.Path) ([]substitute.Substitute, error) {
	if n.substituter == nil {
		return nil, nil
	}
	return n.substituter.Substitutes(ctx, p)
}

// workerEnded takes a worker's result into the graph.
func (gr *graph) workerEnded(g *goal, j *job, e ending, cancelled bool) {
	gr.working--
	if g.state.ended() {
		g.run = nil // it was dropped with one of its inputs
		return
	}
	held := g.run.held()
	cancelled = cancelled && e.err != nil
	unwanted := !g.wanted()
	// More was wanted of it meanwhile than it looked for.
	more := e.err == nil && e.plan == nil && e.outcome != event.OutcomeBuilt && e.outcome != event.OutcomeCutOff && !j.wants.covers(g.wants) && !unwanted && !gr.closing
	switch {
	case cancelled && (gr.closing || unwanted), e.plan != nil && (gr.closing || unwanted):
		gr.drop(g)
	case g.halted != nil && (cancelled && !g.placed || e.plan != nil || more):
		gr.cancelled(g)
	case (e.err != nil || e.plan != nil) && g.blame != nil:
		gr.set(g, waiting)
		g.run, g.cancelled = nil, false
		gr.doom(g, g.blame)
		return
	case cancelled && !g.placed:
		// Somebody wanted it again while it was being stopped.
		gr.set(g, waiting)
	case e.err != nil:
		f := asFailure(g.path, e.err)
		f.Path, f.Chain = g.path, nil
		if f.Time.IsZero() {
			f.Time = time.Now()
		}
		f.OwnLimit = ownLimit(f, g.origin.limits, gr.limits)
		g.failure = &rootCause{Failure: *f}
		gr.fail(g)
	case e.plan != nil:
		gr.set(g, waiting)
		if g.started { // it begins anew when it has what it needs now
			g.started = false
			gr.events.Publish(event.Event{Kind: event.Freed, Goal: g.path})
		}
		g.run, g.cancelled = nil, false
		gr.expand(g, j, e)
		return
	case more:
		g.replan = true
		gr.set(g, waiting)
	default:
		gr.scores.add(g.expected, e.took)
		gr.lengths.add(e.took)
		gr.finish(g, e.outcome, held)
	}
	g.run, g.cancelled = nil, false
	g.started, g.relayed = false, false // if it has not ended, it begins anew
	gr.proceed(g)
}

// expand gives a waiting goal the inputs that its worker found.
func (gr *graph) expand(g *goal, j *job, e ending) {
	if g.kind != kindPath && !j.mayBuild && g.flags&flagMayBuild != 0 {
		// Somebody who may build wants it now.
		g.replan = true
		gr.proceed(g)
		return
	}
	if g.kind != kindPath {
		// One that was to be built finds no second time that an input is gone.
		g.replanned = g.replanned || !j.replan && j.mode == modeBuild
		g.replan = false
		// What it waits for now is decided anew; nothing is left of the old
		// inputs, for all have ended.
		g.mode = e.plan.nodes[e.top].mode
		g.expected = e.plan.nodes[e.top].expected
		g.cores = e.plan.nodes[e.top].cores
		if !j.wants.covers(g.wants) {
			e.plan.nodes[e.top].replan = true
		}
		gr.merge(e.plan, g.origin, g, nil)
		return
	}
	*g.substitutes = e.attempts
	gr.merge(e.plan, g.origin, g, func(goals []*goal) {
		gr.attempt(g, goals[e.top])
	})
	gr.proceed(g)
}

// attempt makes a path goal wait for its substitute.
func (gr *graph) attempt(g, in *goal) {
	if in.state == failed {
		g.substitutes.why = append(g.substitutes.why, &in.failure.Failure)
		return
	}
	gr.link(g, in)
	gr.breakCycles([]*goal{g})
	if g.unfinished > 0 {
		gr.inherit(in, g)
		gr.raise(in, g.level+in.cost())
	}
}
