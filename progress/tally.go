package progress

import (
	"slices"
	"time"

	"storefs/event"
	"storefs/store"
)

// tally counts the goals of a stream. A goal that shows up in the middle of
// its life, because somebody else had asked for it before, counts from there,
// unless join has counted it.
type tally struct {
	total, done, failed int
	unnamed             int                          // of total: they were there when it joined, and nothing was heard of them yet
	joined              time.Time                    // what was added before that is among them
	waiting             map[store.Path]time.Duration // expected durations, 0 unknown
	waitingWork         time.Duration                // their sum
	waitingUnknown      int                          // how many of them are unknown
	running             []*job                       // oldest first
	byGoal              map[store.Path]*job

	known    time.Duration // the sum of all durations that were recorded or seen
	knownNum int
}

type job struct {
	goal     store.Path
	started  time.Time
	expected time.Duration
	phase    string
	apart    bool // in a slot for substitution
}

func newTally() *tally {
	return &tally{waiting: map[store.Path]time.Duration{}, byGoal: map[store.Path]*job{}}
}

// take notes e, and reports whether e ended a goal.
func (t *tally) take(e event.Event) bool {
	switch e.Kind {
	case event.Added:
		if e.Time.Before(t.joined) {
			break
		}
		if t.idle() {
			// The stream of a whole store never ends; each burst of work is
			// counted from one.
			t.total, t.done, t.failed = 0, 0, 0
		}
		t.add(e.Goal, e.Expected)
	case event.Started:
		expected := e.Expected
		if d, ok := t.waiting[e.Goal]; ok {
			t.unwait(e.Goal)
			expected = max(expected, d)
		} else if t.byGoal[e.Goal] == nil {
			t.meet()
		}
		if j := t.byGoal[e.Goal]; j != nil {
			// It begins anew.
			expected = max(expected, j.expected)
			t.running = slices.DeleteFunc(t.running, func(o *job) bool { return o == j })
		}
		j := &job{goal: e.Goal, started: e.Time, expected: expected, apart: e.Text == event.SlotApart}
		t.byGoal[e.Goal] = j
		t.running = append(t.running, j)
	case event.Phase:
		if j := t.byGoal[e.Goal]; j != nil {
			j.phase = e.Text
		}
	case event.Freed:
		// What has come to no phase waits again, for a substitute that is to be made.
		if j := t.byGoal[e.Goal]; j != nil && j.apart && j.phase == "" {
			delete(t.byGoal, e.Goal)
			t.running = slices.DeleteFunc(t.running, func(o *job) bool { return o == j })
			t.total-- // as add counts it again
			t.add(e.Goal, j.expected)
		}
	case event.Done, event.Failed:
		t.leave(e.Goal)
		t.done++
		if e.Kind == event.Failed {
			t.failed++
		} else if e.Duration > 0 {
			t.known += e.Duration
			t.knownNum++
		}
		return true
	case event.Dropped:
		t.leave(e.Goal)
		t.total--
	case event.Missed:
		// Any of them may have ended.
		*t = *newTally()
	}
	return false
}

func (t *tally) idle() bool { return len(t.waiting) == 0 && len(t.running) == 0 && t.unnamed == 0 }

// join notes that n goals which nobody has named were waiting at now. It may be one
// too few, as events of the time before may still come: then the total grows by
// it when it starts. It is never one too many, which would stay.
func (t *tally) join(n int, now time.Time) {
	t.total += n
	t.unnamed += n
	t.joined = now
}

// meet counts a goal that was never seen.
func (t *tally) meet() {
	if t.unnamed > 0 {
		t.unnamed--
	} else {
		t.total++
	}
}

func (t *tally) add(p store.Path, expected time.Duration) {
	if t.byGoal[p] != nil {
		return
	}
	if d, ok := t.waiting[p]; ok {
		if d > 0 || expected == 0 {
			return
		}
		t.unwait(p) // its duration is known only now
		t.total--
	}
	t.total++
	t.waiting[p] = expected
	if expected > 0 {
		t.waitingWork += expected
		t.known += expected
		t.knownNum++
	} else {
		t.waitingUnknown++
	}
}

func (t *tally) unwait(p store.Path) {
	d, ok := t.waiting[p]
	if !ok {
		return
	}
	delete(t.waiting, p)
	if d > 0 {
		t.waitingWork -= d
	} else {
		t.waitingUnknown--
	}
}

// leave takes p out of the goals that wait or run; one that was never seen is
// counted, so that done is never more than total.
func (t *tally) leave(p store.Path) {
	if _, ok := t.waiting[p]; ok {
		t.unwait(p)
		return
	}
	j := t.byGoal[p]
	if j == nil {
		t.meet()
		return
	}
	delete(t.byGoal, p)
	t.running = slices.DeleteFunc(t.running, func(o *job) bool { return o == j })
}

// left estimates the time until all is done: the work that is left, divided by
// the goals that run now, and never less than the longest of those. Goals of
// unknown duration count as the average of the known ones. It is 0 if nothing
// is known at all.
func (t *tally) left(now time.Time) time.Duration {
	if t.knownNum == 0 {
		return 0
	}
	mean := t.known / time.Duration(t.knownNum)
	work := t.waitingWork + mean*time.Duration(t.waitingUnknown)
	var longest time.Duration
	for _, j := range t.running {
		expected := j.expected
		if expected == 0 {
			expected = mean
		}
		rest := max(0, expected-now.Sub(j.started))
		work += rest
		longest = max(longest, rest)
	}
	return max(longest, work/time.Duration(max(1, len(t.running))))
}
