// Package timeline tells where the time of one run went. It reads the events of
// the goals, like package progress, and makes of them a trace for a viewer
// (Chrome's format, which Perfetto reads), the path that decided how long it
// took, and a replay with other numbers of slots. It measures nothing itself.
package timeline

import (
	"slices"
	"time"

	"storefs/event"
	"storefs/store"
)

// Run collects the events of one run. Its methods are called one at a time.
type Run struct {
	goals map[store.Path]*Goal
	order []*Goal // as they came
	free  []bool  // lanes of slots, by number
	apart []bool  // the same of slots for substitution
	needs map[store.Path][]store.Path
	cores map[store.Path]int
	// interrupted: it was stopped before all that it was for had ended.
	interrupted bool
}

// unfinished is the outcome of goals that were at work when the run was over.
const unfinished = "unfinished"

// New is a run of which nothing is known yet.
func New() *Run { return &Run{goals: map[store.Path]*Goal{}} }

// Goal is what became of one goal.
type Goal struct {
	Path    store.Path
	Added   time.Time
	Started time.Time // zero if it never had a slot; the last time, if it had one more than once
	Freed   time.Time // when it gave that slot back
	Ended   time.Time // zero if it is still at work
	Lane    int       // which of the slots it had, from 0
	Holds   int       // how many it had
	Apart   bool      // they were slots for substitution
	// Expected is how long its builder was expected to take, 0 if nobody knew.
	Expected time.Duration
	Outcome  string // one of the outcomes of package event, "failed", "dropped" or unfinished
	Phases   []Phase
}

// Phase is a part of the time until Ended, since Started, or since it waited for a lock.
type Phase struct {
	Name  string
	Start time.Time
}

// Slot is how long the goal had its slot.
func (g *Goal) Slot() time.Duration { return g.Freed.Sub(g.Started) }

// locked reports whether it waits for a lock.
func (g *Goal) locked() bool {
	return !g.Started.IsZero() && len(g.Phases) > 0 && g.Phases[len(g.Phases)-1].Name == event.PhaseLock
}

// ran reports whether it had a slot, and has ended.
func (g *Goal) ran() bool { return !g.Started.IsZero() && !g.Ended.IsZero() }

// Usable is when what it made could be built from: from the moment that it is
// brought into the store, before it is registered.
func (g *Goal) Usable() time.Time {
	for _, p := range g.Phases {
		if p.Name == event.PhaseSync {
			return p.Start
		}
	}
	return g.Ended
}

// Take notes e.
func (r *Run) Take(e event.Event) {
	if e.Goal == "" {
		return
	}
	g := r.goals[e.Goal]
	if g == nil {
		g = &Goal{Path: e.Goal, Added: e.Time, Lane: -1}
		r.goals[e.Goal] = g
		r.order = append(r.order, g)
	}
	switch e.Kind {
	case event.Started:
		r.release(g, e.Time) // it may begin anew
		*g = Goal{Path: g.Path, Added: g.Added, Started: e.Time, Holds: max(1, e.Count), Apart: e.Text == event.SlotApart, Expected: e.Expected}
		g.Lane = r.take(g)
	case event.Phase:
		switch {
		case len(g.Phases) > 0 && e.Time.Before(g.Phases[len(g.Phases)-1].Start):
			return // what was told of its past says as much
		case e.Text == event.PhaseLock:
			r.release(g, e.Time) // it waits for that without a slot
		case g.locked():
			g.Started, g.Freed, g.Lane = e.Time, time.Time{}, r.take(g)
		}
		g.Phases = append(g.Phases, Phase{e.Text, e.Time})
	case event.Freed:
		r.release(g, e.Time)
	case event.Done:
		r.end(g, e.Time, e.Text)
	case event.Failed:
		r.end(g, e.Time, "failed")
	case event.Dropped:
		r.end(g, e.Time, "dropped")
	}
}

func (r *Run) end(g *Goal, at time.Time, outcome string) {
	r.release(g, at)
	g.Ended, g.Outcome = at, outcome
}

// Stop says that the run was over then, be it that something failed, or that it was
// interrupted. What is at work goes on without it, or is stopped.
func (r *Run) Stop(at time.Time, interrupted bool) {
	r.interrupted = interrupted
	for _, g := range r.order {
		if !g.Started.IsZero() && g.Ended.IsZero() {
			r.end(g, at, unfinished)
		}
	}
}

// lanes are those of the slots that g has one of.
func (r *Run) lanes(g *Goal) *[]bool {
	if g.Apart {
		return &r.apart
	}
	return &r.free
}

// take is the number of a free slot for g.
func (r *Run) take(g *Goal) int {
	free := r.lanes(g)
	lane := slices.Index(*free, true)
	if lane < 0 {
		lane = len(*free)
		*free = append(*free, true)
	}
	(*free)[lane] = false
	return lane
}

func (r *Run) release(g *Goal, at time.Time) {
	if !g.Started.IsZero() && g.Freed.IsZero() {
		g.Freed = at
		(*r.lanes(g))[g.Lane] = true
	}
}

// Goals are the paths of all goals.
func (r *Run) Goals() []store.Path {
	all := make([]store.Path, len(r.order))
	for i, g := range r.order {
		all[i] = g.Path
	}
	return all
}

// Needs says which goals each goal waits for. Goals that are not in the run do
// not matter.
func (r *Run) Needs(needs map[store.Path][]store.Path) { r.needs = needs }

// Cores says how many slots goals would take if there were enough, 0 for all that
// there are. The others would take as many as they had.
func (r *Run) Cores(cores map[store.Path]int) { r.cores = cores }

// Counts are the goals that have ended, by outcome.
func (r *Run) Counts() event.Counts {
	var c event.Counts
	for _, g := range r.order {
		if g.Outcome == "failed" {
			c.Failed++
		} else {
			c.Add(g.Outcome)
		}
	}
	return c
}

// ready is when the last thing that g needs could be used, or when g came if that
// was later; last is that thing, nil if nothing of it ran.
func (r *Run) ready(g *Goal) (at time.Time, last *Goal) {
	at = g.Added
	for _, in := range r.inputs(g) {
		if !in.Usable().Before(at) {
			at, last = in.Usable(), in
		}
	}
	return at, last
}

// inputs are the goals that g waited for and that ran. What came to be usable later
// than it began was none of them: a substitute for it, say, that was tried in vain.
func (r *Run) inputs(g *Goal) []*Goal {
	var all []*Goal
	for _, p := range r.needs[g.Path] {
		if in := r.goals[p]; in != nil && in != g && in.ran() && (g.Started.IsZero() || !in.Usable().After(g.Started)) {
			all = append(all, in)
		}
	}
	return all
}
