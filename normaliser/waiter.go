package normaliser

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"storefs/store"
)

// Waiter is a request with a caller that has not ended, and how far it has come.
type Waiter struct {
	Caller
	Path  store.Path `json:"path"`            // the first target that it still waits for
	More  int        `json:"more,omitempty"`  // how many other targets it still waits for
	Since time.Time  `json:"since"`           // when it came
	Goal  store.Path `json:"goal,omitempty"`  // what Path needs: a derivation, or Path itself
	State string     `json:"state"`           // one of the Wait… words
	Phase string     `json:"phase,omitempty"` // of a running goal: one of the phases of package event
	Began time.Time  `json:"began,omitzero"`  // of a running goal: when it got its slot
	// Expected is how long the goal took the last time, 0 if that is not known.
	Expected time.Duration `json:"expected,omitempty"`
	// Left is an estimate of the time until Path is realised if no slot goes to what
	// others need: the longest path of goals, or all that has to be built over the
	// slots, of which there may be a limit for each user, if that is longer. 0 if something on that path was never built.
	Left time.Duration `json:"left,omitempty"`
	// Goals is how many goals have to end, the goal among them; 0 if they were
	// not counted, because there are very many.
	Goals int `json:"goals,omitempty"`
	// Slowest is what is on now at the begin of that longest path, if that is
	// not the goal itself.
	Slowest *Running `json:"slowest,omitempty"`
}

// What a Waiter waits for.
const (
	WaitPlan  = "planning" // it is found out what has to be done
	WaitInput = "inputs"   // for other goals
	WaitSlot  = "slot"     // for a free slot
	WaitRun   = "running"  // for the goal, which runs
)

// callers are the requests that have a caller, from their first moment on.
type callers struct {
	mu  sync.Mutex
	all map[*call]struct{}
}

// call is a running Realise. Its request is nil until it is in the graph;
// guarded by callers.mu.
type call struct {
	caller  Caller
	targets []store.Path
	since   time.Time
	request *request
}

// enter notes a call; the returned function ends that.
func (c *callers) enter(r Request) (*call, func()) {
	if r.Caller == nil {
		return nil, func() {}
	}
	a := &call{caller: *r.Caller, targets: r.Targets, since: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[a] = struct{}{}
	return a, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.all, a)
	}
}

// posted notes which request of the graph a stands for.
func (c *callers) posted(a *call, r *request) {
	if a == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a.request = r
}

// waiters tells how far each call has come; those that came first are first.
func (gr *graph) waiters(c *callers, o *outlook) []Waiter {
	c.mu.Lock()
	all := make([]Waiter, 0, len(c.all))
	goals := make([]*goal, 0, len(c.all))
	for a := range c.all {
		w := Waiter{Caller: a.caller, Since: a.since, State: WaitPlan}
		var first *goal
		if a.request == nil || a.request.ended {
			w.More = len(a.targets) - 1
			if len(a.targets) > 0 {
				w.Path = a.targets[0]
			}
		} else {
			for i, g := range a.request.targets {
				switch {
				case g == nil || g.state.ended():
				case first == nil:
					first, w.Path = g, a.targets[i]
				default:
					w.More++
				}
			}
		}
		all = append(all, w)
		goals = append(goals, first)
	}
	c.mu.Unlock()
	for i, g := range goals {
		if g != nil {
			o.tell(g, &all[i])
		}
	}
	o.count(goals, all)
	slices.SortFunc(all, func(a, b Waiter) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.PID, b.PID), cmp.Compare(a.Path, b.Path))
	})
	return all
}

// maxOutlook bounds the goals that are looked at for one answer: whoever looks
// on must not hold up those who build.
const maxOutlook = 20_000

// outlook is what lies ahead of goals, each looked at once for all who need it.
type outlook struct {
	gr    *graph
	now   time.Time
	slots int // for one caller
	// typical is what a build counts as that was never seen, 0 if nobody knows.
	typical time.Duration
	ahead   map[*goal]ahead
}

// ahead is the longest path to the end of a goal.
type ahead struct {
	left    time.Duration
	unknown bool  // something on it has no recorded duration
	built   bool  // something on it is built
	first   *goal // where it begins: a goal that waits for no other one
}

func newOutlook(gr *graph, now time.Time) *outlook {
	o := &outlook{gr: gr, now: now, slots: gr.builds.slots, typical: gr.typical(), ahead: map[*goal]ahead{}}
	if most := gr.builds.perUser; most > 0 {
		o.slots = min(o.slots, most)
	}
	return o
}

// tell fills in what w, who waits for g, waits for.
func (o *outlook) tell(g *goal, w *Waiter) {
	w.Goal, w.Expected = g.path, g.expected
	switch {
	case g.run != nil && g.state != prepared:
		r := g.running()
		w.State, w.Phase, w.Began = WaitRun, r.Phase, r.Since
	case g.queued():
		w.State = WaitSlot
	default:
		w.State = WaitInput
	}
	a, ok := o.of(g)
	if !ok {
		return
	}
	if a.built && !a.unknown {
		w.Left = a.left
	}
	if a.first != g && a.first.run != nil && a.first.state != prepared {
		r := a.first.running()
		w.Slowest = &r
	}
}

// of looks below g; false if that is too much.
func (o *outlook) of(g *goal) (ahead, bool) {
	if a, ok := o.ahead[g]; ok {
		return a, true
	}
	type visit struct {
		goal *goal
		next int
		best ahead
	}
	stack := []visit{{goal: g}}
	for {
		if len(o.ahead)+len(stack) > maxOutlook {
			return ahead{}, false
		}
		v := &stack[len(stack)-1]
		if v.next < len(v.goal.inputs) {
			e := v.goal.inputs[v.next]
			if e.dead {
				v.next++
				continue
			}
			a, ok := o.ahead[e.to]
			if !ok {
				stack = append(stack, visit{goal: e.to})
				continue
			}
			v.next++
			if v.best.first == nil || a.left > v.best.left {
				v.best = a
			}
			continue
		}
		a := v.best
		if a.first == nil {
			a.first = v.goal
		}
		a.left += o.left(v.goal)
		a.unknown = a.unknown || v.goal.isUnknown()
		a.built = a.built || v.goal.mode == modeBuild
		o.ahead[v.goal] = a
		stack = stack[:len(stack)-1]
		if len(stack) == 0 {
			return a, true
		}
	}
}

// left is how much longer g is likely to run.
func (o *outlook) left(g *goal) time.Duration {
	if g.isUnknown() && o.typical > 0 {
		return o.lessSpent(g, o.typical)
	}
	return o.lessSpent(g, g.cost())
}

// lessSpent is what is left of the cost of g.
func (o *outlook) lessSpent(g *goal, cost time.Duration) time.Duration {
	if r := g.run; r != nil && g.state != prepared {
		cost -= min(cost, o.now.Sub(r.since))
	}
	return cost
}

// count counts the goals below each of goals, as long as that is not too much:
// those first for whom somebody has waited longest. What they take together is
// more, at times, than the longest path of them.
func (o *outlook) count(goals []*goal, all []Waiter) {
	order := make([]int, len(goals))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return all[i].Since.Compare(all[j].Since) })
	looked := 0
	counted := map[*goal]below{}
	for _, i := range order {
		g := goals[i]
		if g == nil {
			continue
		}
		b, ok := counted[g]
		if !ok {
			b = o.below(g, maxOutlook-looked)
			counted[g] = b
			if looked += b.goals; b.goals == 0 {
				looked = maxOutlook
			}
		}
		all[i].Goals = b.goals
		if all[i].Left > 0 {
			all[i].Left = max(all[i].Left, b.work/time.Duration(o.slots))
		}
	}
}

// below is a goal and all that it needs.
type below struct {
	goals int
	work  time.Duration // of the builds among them, for a single slot
}

// below counts what g needs, and g; nothing if there is more than most.
func (o *outlook) below(g *goal, most int) below {
	o.gr.search++
	g.mark = o.gr.search
	stack := []*goal{g}
	var b below
	for len(stack) > 0 {
		if b.goals++; b.goals > most {
			return below{}
		}
		g := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if p := o.gr.poolOf(g); p == &o.gr.builds {
			b.work += o.left(g) * time.Duration(min(p.needs(g), o.slots))
		}
		for _, e := range g.inputs {
			if !e.dead && e.to.mark != o.gr.search {
				e.to.mark = o.gr.search
				stack = append(stack, e.to)
			}
		}
	}
	return b
}
