package normaliser

import (
	"cmp"
	"context"
	"slices"
	"time"

	"storefs/event"
	"storefs/store"
)

// Status is what a Normaliser is doing.
type Status struct {
	Requests  int `json:"requests"`  // that have not ended
	Waiting   int `json:"waiting"`   // goals with unfinished inputs
	Buildable int `json:"buildable"` // goals that wait for a slot
	Done      int `json:"done"`      // since it began, and the following two
	Failed    int `json:"failed"`
	Dropped   int `json:"dropped"`
	// Counts are what became of all goals since it began, with what requests found
	// to need nothing: see Result.
	Counts event.Counts `json:"counts"`

	Jobs           int `json:"jobs"`           // slots for builds
	SubstituteJobs int `json:"substituteJobs"` // slots for substitution

	// Held says why nothing is started beside what runs, "" if that is not so.
	Held string `json:"held,omitempty"`

	Running []Running `json:"running"` // longest first
	// Waiters are the callers that wait, those who came first are first.
	Waiters []Waiter `json:"waiters"`
	// Remaining is an estimate by recorded durations: the longest path that is
	// left or, if that is more, the work that is left, each goal's as often as it
	// takes slots, shared by those that who wants something may hold. What was never
	// built counts as the average of what was; 0 if nothing was, or if nothing is to be
	// built.
	Remaining time.Duration `json:"remaining"`
	// Unknown is how many goals that is.
	Unknown int `json:"unknown,omitempty"`
	// Estimates scores the durations that were expected of the last builds.
	Estimates Estimates `json:"estimates"`
}

// Running is a goal that has a worker, and is not only prepared.
type Running struct {
	Goal  store.Path `json:"goal"`
	Phase string     `json:"phase,omitempty"` // one of the phases of package event
	Since time.Time  `json:"since"`           // when it got its slot
	Freed time.Time  `json:"freed,omitzero"`  // when it gave that back: its builder has ended
	// Expected is how long it took the last time, 0 if that is not known.
	Expected time.Duration `json:"expected,omitempty"`
	// Slots is how many slots it has, or had, 0 if that is one.
	Slots int `json:"slots,omitempty"`
	// Apart says that they are, or were, slots for substitution.
	Apart bool `json:"apart,omitempty"`
	// Waiters are the goals and the callers that wait for just this one.
	Waiters int `json:"waiters"`
	// Background says that nobody needs it now: see Request.Background.
	Background bool `json:"background,omitempty"`
	// Check says that it is realised, and built again to be compared.
	Check bool `json:"check,omitempty"`
}

// Status tells what is going on now. It is the zero Status after Close.
func (n *Normaliser) Status() Status {
	var s Status
	answered := make(chan struct{})
	if n.post(func(gr *graph) { s = gr.status(n.callers); close(answered) }) {
		<-answered
		s.Counts = s.Counts.Plus(n.settled.get())
	}
	return s
}

func (gr *graph) status(c *callers) Status {
	s := Status{
		Requests:       len(gr.requests),
		Waiting:        gr.counts[waiting],
		Buildable:      gr.counts[buildable] + gr.counts[prepared],
		Done:           gr.counts[done],
		Failed:         gr.counts[failed],
		Dropped:        gr.counts[dropped],
		Counts:         gr.outcomes,
		Jobs:           gr.builds.slots,
		SubstituteJobs: gr.subs.slots,
		Held:           gr.hold,
		Running:        []Running{},
		Estimates:      gr.scores.estimates(),
	}
	o := newOutlook(gr, time.Now())
	var wanted []*goal
	for _, g := range gr.goals {
		if g.run != nil && g.state != prepared {
			s.Running = append(s.Running, g.running())
		}
		if !g.background() {
			wanted = append(wanted, g)
		}
	}
	slices.SortFunc(s.Running, func(a, b Running) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Goal, b.Goal))
	})
	s.Waiters = gr.waiters(c, o)
	s.Remaining, s.Unknown = o.remaining(wanted, gr.usable())
	return s
}

// usable is how many slots for builds there are for those who want something: with a
// limit for each user, it may not be all.
func (gr *graph) usable() int {
	p := &gr.builds
	if p.perUser == 0 || gr.users.goals[nobody] > 0 {
		return p.slots
	}
	n := 0
	for _, goals := range gr.users.goals {
		if goals > 0 {
			n += p.perUser
		}
	}
	return max(1, min(p.slots, n))
}

// running describes g, which has a worker.
func (g *goal) running() Running {
	r := Running{
		Goal: g.path, Phase: g.run.phase.get(), Since: g.run.since, Expected: g.expected, Slots: g.severalSlots(), Apart: g.pool != nil && g.pool.number == poolOfSubstitution,
		Waiters: g.live + len(g.requests), Background: g.background(), Check: g.kind == kindCheck,
	}
	switch g.state {
	case locked:
		r.Phase = event.PhaseLock
	case registering:
		r.Freed = g.run.freed
	}
	return r
}

// Wanted reports whether there is a goal for p, a derivation or a path: it is
// being realised, or waits for its turn.
func (n *Normaliser) Wanted(p store.Path) bool {
	return n.live.covers(key{kindExpr, p}, wants{}) || n.live.covers(key{kindPath, p}, wants{})
}

// Plan is what a request would have to do.
type Plan struct {
	Build      []store.Path `json:"build"`      // derivations, inputs first
	Substitute []store.Path `json:"substitute"` // paths, and the expressions whose text is missing
	Unknown    []store.Path `json:"unknown"`    // what nothing can make, or cannot be read
	// Expected is how long the builds took the last time, all together.
	Expected time.Duration `json:"expected"`
}

// Plan says what realising the targets would do if every substitute yields what
// it promises. It changes nothing.
func (n *Normaliser) Plan(ctx context.Context, targets []store.Path) (Plan, error) {
	p := newPlanner(ctx, n.store, n.substituter)
	for _, t := range targets {
		if _, err := n.planTarget(p, t, false, nil, &Target{}); err != nil {
			return Plan{}, n.gone(ctx, err)
		}
	}
	pl := Plan{Build: []store.Path{}, Substitute: []store.Path{}, Unknown: []store.Path{}}
	for _, nd := range p.plan.nodes {
		switch {
		case nd.failure != nil:
			pl.Unknown = append(pl.Unknown, nd.path)
		case nd.mode == modeBuild:
			pl.Build = append(pl.Build, nd.path)
			pl.Expected += nd.expected
		case nd.mode == modeSubstitute:
			pl.Substitute = append(pl.Substitute, nd.path)
		}
	}
	return pl, nil
}
