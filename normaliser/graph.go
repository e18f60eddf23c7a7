package normaliser

import (
	"cmp"
	"fmt"
	"time"

	"storefs/builder"
	"storefs/event"
)

// graph is the goals that have not ended, and what waits for them. One
// goroutine owns it; nothing here does I/O or waits.
//
// A message changes goals and puts what follows from that into the queues
// ended, released and doomed; settle works these off. Nothing recurses along
// the graph.
type graph struct {
	goals    map[key]*goal
	live     *liveGoals // the keys of goals, for planners
	counts   [numStates]int
	outcomes event.Counts // of goals that have ended
	builds   pool         // of builders
	subs     pool         // of substitution, and of builders that only a substitute needs
	walks    pool         // of walks and of what else is local and quick
	requests map[*request]struct{}
	users    users
	jobs     map[int]int // Request.Jobs → requests with it
	minSlots int         // Options.Jobs
	idleJobs int         // Options.BackgroundJobs
	limits   builder.Limits
	demands  int       // requests that are not in the background
	demanded time.Time // when the last of them ended
	calming  bool      // start is called when it is calm
	working  int       // workers
	ripe     ripeQueue // goals that wait, or waited, for registrations only
	seq      uint64
	search   uint64 // number of searches so far
	closing  bool   // nothing is started any more
	hold     string // why nothing is started beside what runs, "" if it is

	observers map[flags]*request // requests with Planned by their flags
	observing flags              // all of these
	flagless  []*request         // requests with Planned for which there was no flag left
	spent     flags              // flags of observers that have ended, still on goals

	recent     map[key]*goal // what failed while goals that live now lived
	recentSize int           // of recent after it was last cleaned

	scores  scores // of the expected durations
	lengths lengths

	ended    []*goal
	released []release
	doomed   []doom

	events *event.Bus
	memory *failureLog
	launch func(*goal) // begins a worker
	hurry  func()      // see Registry
	ranked bool        // since start was called, the rank of a goal rose, or one more waits for another
	// scansLeft reports whether one more goal may scan without a slot.
	scansLeft func() bool
	// later posts a message after a time.
	later func(d time.Duration, message func(*graph))
}

// release: a goal lost somebody who wanted it.
type release struct {
	goal   *goal
	cancel bool // stop its worker, too
}

// set is the only function that changes the state of a goal.
func (gr *graph) set(g *goal, s state) {
	legal := false
	for _, n := range next[g.state] {
		legal = legal || n == s
	}
	if !legal {
		panic(fmt.Sprintf("normaliser: goal %s cannot become %v: it is %v", g.path, s, g.state))
	}
	switch g.state {
	case buildable, locked, prepared:
		g.pool.remove(g)
	case running:
		g.pool.free(g)
	case registering:
		countBuilt(g, -1)
	}
	gr.counts[g.state]--
	g.state = s
	gr.counts[s]++
	switch s {
	case buildable, locked, prepared:
		g.pool = gr.poolOf(g)
		g.pool.push(g)
	case running:
		g.pool.take(g)
	case registering:
		countBuilt(g, 1)
	case done, failed, dropped:
		delete(gr.goals, g.key)
		gr.live.delete(g.key)
		gr.users.count(g.flags, -1)
		gr.ended = append(gr.ended, g)
		if s == failed {
			gr.recall(g)
		}
	}
}

// poolOf is whose slots g needs.
func (gr *graph) poolOf(g *goal) *pool {
	switch {
	case g.kind != kindPath && (g.replan || g.mode != modeBuild):
		return &gr.walks
	case g.kind == kindPath || g.flags&flagMain == 0:
		return &gr.subs
	}
	return &gr.builds
}

// add makes a goal of a node, for the sake of the goal by or of a request.
func (gr *graph) add(n *node, o *origin, by *goal) *goal {
	gr.seq++
	since := gr.seq
	if by != nil {
		since = by.since
	}
	g := &goal{key: n.key, seq: gr.seq, since: since, mode: n.mode, wants: n.wants, expected: n.expected, cores: n.cores, replan: n.replan, origin: o}
	if g.kind == kindPath {
		g.substitutes = &attempts{}
	}
	gr.goals[g.key] = g
	gr.live.set(g.key, g.wants)
	gr.counts[waiting]++
	return g
}

// link makes g wait for in.
func (gr *graph) link(g, in *goal) {
	if len(in.waiters) > 2*in.live+8 {
		in.waiters = compact(in.waiters)
	}
	if len(g.inputs) > 2*g.unfinished+8 {
		g.inputs = compact(g.inputs)
	}
	gr.ranked = true
	e := &edge{from: g, to: in}
	g.inputs = append(g.inputs, e)
	g.unfinished++
	in.waiters = append(in.waiters, e)
	in.live++
	if in.state == registering {
		g.built++
	}
	if in.placed {
		g.inPlace++
	}
	if in.doomed && g.mode != modeTry && g.kind != kindPath {
		gr.doomed = append(gr.doomed, doom{g, in})
	}
}

func compact(edges []*edge) []*edge {
	kept := edges[:0]
	for _, e := range edges {
		if !e.dead {
			kept = append(kept, e)
		}
	}
	clear(edges[len(kept):])
	return kept
}

// unlink ends a need before its input has ended.
func (gr *graph) unlink(e *edge, cancel bool) {
	e.dead = true
	e.from.lessToWaitFor(e.to)
	e.to.live--
	if e.to.state == registering {
		e.from.built--
	}
	gr.released = append(gr.released, release{e.to, cancel})
}

// lessToWaitFor: in has ended, or is not needed any more.
func (g *goal) lessToWaitFor(in *goal) {
	g.unfinished--
	if in.placed {
		g.inPlace--
	}
	if g.unfinished == 0 && g.run != nil && g.run.inputs != nil {
		close(g.run.inputs)
	}
}

// unlinkInputs ends all needs of g.
func (gr *graph) unlinkInputs(g *goal, cancel bool) {
	for _, e := range g.inputs {
		if !e.dead {
			gr.unlink(e, cancel)
		}
	}
	g.inputs = nil
}

// settle works off what follows from the changes of a message.
func (gr *graph) settle() {
	for {
		switch {
		case len(gr.ended) > 0:
			g := gr.ended[0]
			gr.ended = shift(gr.ended)
			gr.afterEnd(g)
		case len(gr.doomed) > 0:
			d := gr.doomed[0]
			gr.doomed = shift(gr.doomed)
			gr.doom(d.goal, d.blame)
		case len(gr.released) > 0:
			r := gr.released[0]
			gr.released = shift(gr.released)
			gr.afterRelease(r)
		default:
			return
		}
	}
}

// shift takes the first element off a queue, and forgets the array once the
// queue is empty.
func shift[T any](q []T) []T {
	var zero T
	q[0] = zero
	if len(q) == 1 {
		return nil
	}
	return q[1:]
}

// proceed moves a waiting goal on whose inputs have all ended.
func (gr *graph) proceed(g *goal) {
	switch {
	case g.state != waiting:
	case g.waits() > 0:
		gr.ripen(g)
	case gr.closing:
		gr.drop(g)
	case g.blame != nil:
		gr.fail(g)
	case g.mode == modeClosure && !g.replan:
		gr.finish(g, ofClosure(g.outcome), 0)
	default:
		gr.set(g, buildable)
	}
}

// afterEnd tells those who wait for g.
func (gr *graph) afterEnd(g *goal) {
	waiters := g.waiters
	g.waiters, g.live = nil, 0
	for _, e := range waiters {
		if e.dead {
			continue
		}
		e.dead = true
		w := e.from
		w.lessToWaitFor(g)
		switch g.state {
		case done:
			if w.mode == modeClosure && effort(g.outcome) > effort(w.outcome) {
				w.outcome = g.outcome
			}
			gr.proceed(w)
		case failed:
			gr.inputFailed(w, g)
		default:
			gr.drop(w)
		}
	}
	gr.unlinkInputs(g, false)
	for r := range g.requests {
		r.pending--
		switch {
		case g.state == dropped:
			gr.endRequest(r, errClosing, false)
		case r.pending == 0 || g.state == failed && !r.KeepGoing:
			gr.endRequest(r, nil, false)
		}
	}
	g.requests, g.lastWaiter = nil, nil
	if g.halted != nil {
		close(g.halted)
	}
}

// finish ends g well.
func (gr *graph) finish(g *goal, outcome string, held time.Duration) {
	g.outcome = cmp.Or(outcome, event.OutcomeReused)
	gr.set(g, done)
	gr.count(g)
	gr.events.Publish(event.Event{Kind: event.Done, Goal: g.path, Text: g.outcome, Duration: held})
	if g.outcome == event.OutcomeBuilt && g.kind == kindExpr {
		gr.memory.cleared(g.path)
	} else {
		gr.memory.clear(g.path)
	}
}

// drop ends a goal that nobody wants, or that will not be run any more.
func (gr *graph) drop(g *goal) {
	if g.state.ended() {
		return
	}
	gr.set(g, dropped)
	gr.events.Publish(event.Event{Kind: event.Dropped, Goal: g.path})
}

// afterRelease drops the goal if nobody wants it and it has not begun. To be prepared,
// or to wait for a lock, is not a beginning.
func (gr *graph) afterRelease(r release) {
	g := r.goal
	switch {
	case g.state.ended() || g.wanted():
	case !g.hasWorker():
		gr.unlinkInputs(g, r.cancel)
		gr.drop(g)
	case r.cancel || g.state == prepared || g.state == locking || g.state == locked:
		gr.stop(g)
	}
}

// stop has the worker of g end. One that waits for a slot gets none for that.
func (gr *graph) stop(g *goal) {
	if g.state == prepared || g.state == locked {
		gr.set(g, locking)
	}
	if !g.cancelled {
		g.cancelled = true
		g.run.cancel()
	}
}

// held reports whether nothing is to be started in p. One goal is always let
// run, or nothing would ever end.
func (gr *graph) held(p *pool) bool {
	return gr.hold != "" && p != &gr.walks && gr.builds.used-gr.builds.spared+gr.subs.used-gr.subs.spared > 0
}

// start gives free slots to the goals that need them most.
func (gr *graph) start() {
	defer gr.hasten()
	if gr.closing {
		return
	}
	pools := []*pool{&gr.walks, &gr.builds, &gr.subs}
	for _, p := range pools {
		for g := p.next(); g != nil && !gr.held(p); g = p.next() {
			gr.give(g)
		}
		p.giveWay()
	}
	for _, p := range []*pool{&gr.builds, &gr.subs} {
		for g := p.nextToPrepare(); g != nil && gr.hold == ""; g = p.nextToPrepare() {
			gr.set(g, prepared)
			gr.working++
			gr.launch(g)
		}
		gr.relay(p)
	}
	gr.ranked = false
	if gr.hold != "" {
		return
	}
	kept := gr.kept()
	for _, p := range pools {
		for g := p.nextIdle(kept); g != nil && gr.spare() < gr.idleJobs; g = p.nextIdle(kept) {
			gr.give(g)
		}
	}
}

// calm is how long after a request the next one is expected. A program that
// wants one path after the other would otherwise stop, each time, what has just
// begun in the background: that costs both more than it is worth.
const calm = time.Second

// kept is how many slots goals in the background leave free for whoever comes
// next.
func (gr *graph) kept() int {
	if gr.demands > 0 {
		return 1
	}
	left := calm - time.Since(gr.demanded)
	if left <= 0 {
		return 0
	}
	if !gr.calming && len(gr.walks.idle)+len(gr.builds.idle)+len(gr.subs.idle) > 0 {
		gr.calming = true
		gr.later(left, func(gr *graph) { gr.calming = false })
	}
	return 1
}

// spare is how many goals run in the background.
func (gr *graph) spare() int { return len(gr.walks.spare) + len(gr.builds.spare) + len(gr.subs.spare) }

// give gives g a slot.
func (gr *graph) give(g *goal) {
	before := g.state
	gr.set(g, running)
	if g.run == nil {
		gr.tellStarted(g)
		gr.working++
		gr.launch(g)
		return
	}
	g.run.since = time.Now()
	if before == locked {
		close(g.run.resume)
	}
	g.pool.outgrow(g)
	if g.run.waits {
		g.run.waits = false
		gr.tellStarted(g)
		close(g.run.start)
	}
}

// tellStarted publishes, once each time that it begins, that the builder or the
// substitute of g has a slot.
func (gr *graph) tellStarted(g *goal) {
	if !g.started && (g.mode == modeBuild && !g.replan || g.mode == modeSubstitute) {
		g.started = true
		e := event.Event{Kind: event.Started, Goal: g.path, Expected: g.expected, Count: g.severalSlots()}
		if g.pool == &gr.subs {
			e.Text = event.SlotApart
		}
		gr.events.Publish(e)
	}
}
