package normaliser

import (
	"slices"
	"time"

	"storefs/store"
)

// maxEstimates is how many of the last estimates are scored.
const maxEstimates = 200

// Estimates is how good the last expected durations were.
type Estimates struct {
	// Count is how many builds had one, of the last ones.
	Count int `json:"count"`
	// MedianError is the part by which half of them were wrong at most: 0.1 is a
	// tenth of what the builder took.
	MedianError float64 `json:"medianError"`
}

// scores are the errors of the last estimates.
type scores struct {
	errors []float64
	next   int // the oldest one, once there are maxEstimates
}

// add notes that a builder took so long, where expected was expected.
func (s *scores) add(expected, took time.Duration) {
	if expected <= 0 || took <= 0 {
		return
	}
	e := max(expected-took, took-expected).Seconds() / took.Seconds()
	if len(s.errors) < maxEstimates {
		s.errors = append(s.errors, e)
		return
	}
	s.errors[s.next] = e
	s.next = (s.next + 1) % maxEstimates
}

func (s *scores) estimates() Estimates {
	if len(s.errors) == 0 {
		return Estimates{}
	}
	sorted := slices.Sorted(slices.Values(s.errors))
	return Estimates{Count: len(sorted), MedianError: sorted[len(sorted)/2]}
}

// lengths are how long the last builders took.
type lengths struct {
	took []time.Duration
	sum  time.Duration
	next int // the oldest one, once there are maxEstimates
}

func (l *lengths) add(took time.Duration) {
	if took <= 0 {
		return
	}
	l.sum += took
	if len(l.took) < maxEstimates {
		l.took = append(l.took, took)
		return
	}
	l.sum -= l.took[l.next]
	l.took[l.next] = took
	l.next = (l.next + 1) % maxEstimates
}

// isUnknown reports whether g is to be built, and nothing says how long that takes.
func (g *goal) isUnknown() bool { return g.mode == modeBuild && g.expected == 0 }

// typical is how long a build takes that was never seen: the average of the last ones
// and of those to come that are known, 0 if there are none.
func (gr *graph) typical() time.Duration {
	sum, n := gr.lengths.sum, len(gr.lengths.took)
	for _, g := range gr.goals {
		if g.mode == modeBuild && g.expected > 0 {
			sum, n = sum+g.expected, n+1
		}
	}
	if n == 0 {
		return 0
	}
	return sum / time.Duration(n)
}

// remaining estimates how long it takes until goals have ended, on so many slots: see
// Status.Remaining. unknown is how many of them count as typical.
func (o *outlook) remaining(goals []*goal, slots int) (left time.Duration, unknown int) {
	var longest, work, likely, assumed time.Duration
	whole, built := true, false
	for _, g := range goals {
		if g.isUnknown() {
			unknown++
		}
		built = built || g.mode == modeBuild
		left := o.left(g)
		work += left * time.Duration(min(o.gr.poolOf(g).needs(g), slots))
		likely += left
		assumed += o.lessSpent(g, g.cost())
		if whole {
			a, ok := o.of(g)
			whole = ok
			longest = max(longest, a.left)
		}
	}
	if !whole { // there are too many
		var level time.Duration
		for _, g := range goals {
			level = max(level, g.level-(g.cost()-o.lessSpent(g, g.cost())))
		}
		// The order of goals takes another time for what was never built.
		if unknown > 0 && assumed > 0 {
			level = time.Duration(float64(level) * (float64(likely) / float64(assumed)))
		}
		longest = max(longest, level)
	}
	// How long substitutes take, nobody has recorded.
	if o.typical == 0 || !built {
		return 0, unknown
	}
	return max(longest, work/time.Duration(slots)), unknown
}

// Remaining is Status.Remaining for those of goals that have not ended, if no slot goes
// to others.
func (n *Normaliser) Remaining(goals map[store.Path]bool) time.Duration {
	var left time.Duration
	answered := make(chan struct{})
	if n.post(func(gr *graph) {
		var all []*goal
		// Of goals, most may have ended long ago.
		for key, g := range gr.goals {
			if goals[key.path] {
				all = append(all, g)
			}
		}
		left, _ = newOutlook(gr, time.Now()).remaining(all, gr.usable())
		close(answered)
	}) {
		<-answered
	}
	return left
}
