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

	Jobs           int `json:"jobs"`           // slots for builds
	SubstituteJobs int `json:"substituteJobs"` // slots for substitution

	Running []Running `json:"running"` // longest first
	// Remaining is an estimate by recorded durations: the longest path that is
	// left or, if that is more, the work that is left shared by the slots.
	Remaining time.Duration `json:"remaining"`
}

// Running is a goal that has a worker.
type Running struct {
	Goal  store.Path `json:"goal"`
	Phase string     `json:"phase,omitempty"` // one of the phases of package event
	Since time.Time  `json:"since"`           // when it got its slot
	// Expected is how long it took the last time, 0 if that is not known.
	Expected time.Duration `json:"expected,omitempty"`
	// Waiters are the goals and the callers that wait for just this one.
	Waiters int `json:"waiters"`
}

// Status tells what is going on now. It is the zero Status after Close.
func (n *Normaliser) Status() Status {
	var s Status
	answered := make(chan struct{})
	if n.post(func(gr *graph) { s = gr.status(); close(answered) }) {
		<-answered
	}
	return s
}

func (gr *graph) status() Status {
	s := Status{
		Requests:       len(gr.requests),
		Waiting:        gr.counts[waiting],
		Buildable:      gr.counts[buildable],
		Done:           gr.counts[done],
		Failed:         gr.counts[failed],
		Dropped:        gr.counts[dropped],
		Jobs:           gr.builds.slots,
		SubstituteJobs: gr.subs.slots,
		Running:        []Running{},
	}
	now := time.Now()
	var longest, work time.Duration
	for _, g := range gr.goals {
		left, level := g.cost(), g.level
		if g.run != nil {
			r := Running{Goal: g.path, Phase: g.run.phase.get(), Since: g.run.since, Expected: g.expected, Waiters: g.live + len(g.requests)}
			if g.state == locked {
				r.Phase = event.PhaseLock
			}
			s.Running = append(s.Running, r)
			spent := min(now.Sub(g.run.since), left)
			left -= spent
			level -= spent
		}
		work += left
		longest = max(longest, level)
	}
	slices.SortFunc(s.Running, func(a, b Running) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Goal, b.Goal))
	})
	s.Remaining = max(longest, work/time.Duration(gr.builds.slots))
	return s
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
		if _, err := n.planTarget(p, t, false, &Target{}); err != nil {
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
