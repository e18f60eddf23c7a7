package timeline

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"storefs/event"
)

// Step is a goal on the path that decided how long a run took.
type Step struct {
	Goal   *Goal
	Waited time.Duration // for a slot, after its last input
	Took   time.Duration // from its start until others could use what it made
}

// CriticalPath is the goals that waited for each other, back from the one that
// ended last: each waited for the one before it longest. Only a run that was
// interrupted has waited for what is unfinished.
func (r *Run) CriticalPath() []Step {
	var last *Goal
	for _, g := range r.order {
		if g.ran() && (g.Outcome != unfinished || r.interrupted) && (last == nil || g.Ended.After(last.Ended)) {
			last = g
		}
	}
	var steps []Step
	// What is built of its own outputs cannot have run; a count bounds what bad
	// input could do.
	for g := last; g != nil && len(steps) <= len(r.order); {
		ready, in := r.ready(g)
		end := g.Usable()
		if g == last {
			end = g.Ended // the caller waits for that
		}
		steps = append(steps, Step{Goal: g, Waited: max(0, g.Started.Sub(ready)), Took: max(0, end.Sub(g.Started))})
		g = in
	}
	slices.Reverse(steps)
	return steps
}

// maxSteps is how many steps of a path are told, the longest ones.
const maxSteps = 20

// Explain writes what decided how long the run took, and what one slot more
// than there were would have saved if builders had not been slower for it. The
// counts are those of the run, of what was no goal too.
func (r *Run) Explain(w io.Writer, counts event.Counts, slots int, duration func(time.Duration) string) {
	steps := r.CriticalPath()
	switch {
	case len(steps) > 0:
	case r.interrupted, counts.Failed > 0:
		fmt.Fprintln(w, "critical path: none, nothing had begun")
		return
	default:
		fmt.Fprintln(w, "critical path: none, nothing had to be done")
		return
	}
	var took, waited time.Duration
	for _, s := range steps {
		took += s.Took
		waited += s.Waited
	}
	fmt.Fprintf(w, "critical path: %d of the goals, %s at work and %s waiting for a slot\n", len(steps), duration(took), duration(waited))
	if idle := r.idle(steps, slots); idle >= leastIdle && idle >= waited/10 {
		fmt.Fprintf(w, "  %s of the waiting while this build left a slot free: others had it, or --load, short memory or a busy machine held it back\n", duration(idle))
	}
	told := longest(steps)
	skipped := 0
	for i, s := range steps {
		if !told[i] {
			skipped++
			continue
		}
		if skipped > 0 {
			fmt.Fprintf(w, "     …  (%d shorter)\n", skipped)
			skipped = 0
		}
		line := fmt.Sprintf("  %7s %s", duration(s.Took), strings.TrimSuffix(s.Goal.Path.Name(), ".drv"))
		if run := s.Goal.phase(event.PhaseBuild); run > 0 && run < s.Took*9/10 {
			line += fmt.Sprintf(" (its builder %s)", duration(run))
		}
		if s.Waited > s.Took/10 && s.Waited >= time.Millisecond {
			line += fmt.Sprintf(", after %s without a slot", duration(s.Waited))
		}
		if s.Goal.Outcome == unfinished {
			line += ", unfinished"
		}
		fmt.Fprintln(w, line)
	}
	if skipped > 0 {
		fmt.Fprintf(w, "     …  (%d shorter)\n", skipped)
	}
	if r.interrupted {
		return // nobody knows how long it would have taken
	}
	now, more := r.Replay(slots), r.Replay(slots+1)
	saved := max(0, now-more)
	if saved < now/100 {
		fmt.Fprintf(w, "one more slot than %d would have saved next to nothing\n", slots)
		return
	}
	fmt.Fprintf(w, "one more slot than %d would have saved about %s of %s, had the machine room for it\n", slots, duration(saved), duration(now))
}

// leastIdle is what is told of.
const leastIdle = 20 * time.Millisecond

// idle is for how long steps waited while the goals of the run held so few of the slots
// that there was room.
func (r *Run) idle(steps []Step, slots int) time.Duration {
	type change struct {
		at   time.Time
		more int
	}
	var changes []change
	for _, g := range r.order {
		if !g.Apart && g.Freed.After(g.Started) {
			changes = append(changes, change{g.Started, g.Holds}, change{g.Freed, -g.Holds})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return a.at.Compare(b.at) })
	var idle time.Duration
	// Steps follow each other, and so do their waits.
	used, next := 0, 0
	for _, s := range steps {
		from, needs := s.Goal.Started.Add(-s.Waited), min(s.Goal.Holds, slots)
		for ; next < len(changes) && !changes[next].at.After(from); next++ {
			used += changes[next].more
		}
		for !s.Goal.Apart && from.Before(s.Goal.Started) {
			to := s.Goal.Started
			if next < len(changes) {
				to = earlier(to, changes[next].at)
			}
			if used+needs <= slots {
				idle += to.Sub(from)
			}
			if from = to; next < len(changes) && !changes[next].at.After(from) {
				used += changes[next].more
				next++
			}
		}
	}
	return idle
}

// longest picks the steps that are told.
func longest(steps []Step) map[int]bool {
	index := make([]int, len(steps))
	for i := range steps {
		index[i] = i
	}
	slices.SortStableFunc(index, func(a, b int) int {
		return cmp.Compare(steps[b].Took+steps[b].Waited, steps[a].Took+steps[a].Waited)
	})
	told := map[int]bool{}
	for _, i := range index[:min(len(index), maxSteps)] {
		told[i] = true
	}
	return told
}

// phase is how long the goal was in a phase.
func (g *Goal) phase(name string) time.Duration {
	var sum time.Duration
	for i, p := range g.Phases {
		if p.Name != name {
			continue
		}
		end := g.Ended
		if i+1 < len(g.Phases) {
			end = g.Phases[i+1].Start
		}
		sum += end.Sub(p.Start)
	}
	return sum
}
