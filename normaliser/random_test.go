package normaliser

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
	"storefs/store"
)

// check looks for anything in the graph that does not hold together.
func (gr *graph) check() error {
	var counts [numStates]int
	used := map[*pool]int{}
	held := map[*pool][maxUsers]int{}
	queued := map[*pool]int{}
	var wanted users
	for k, g := range gr.goals {
		counts[g.state]++
		liveIn, liveOut, built, inPlace, easy := 0, 0, 0, 0, false
		for _, e := range g.inputs {
			if e.dead {
				continue
			}
			liveIn++
			if e.to.state == registering {
				built++
				easy = easy || e.to.run.patient()
			}
			if e.to.placed {
				inPlace++
			}
			if e.from != g || e.to.state.ended() || gr.goals[e.to.key] != e.to {
				return fmt.Errorf("%s waits for %s, which is %v", g.path, e.to.path, e.to.state)
			}
			if missing := g.inherited() &^ e.to.flags &^ gr.spent; missing != 0 {
				return fmt.Errorf("%s did not hand flags %b down to %s", g.path, missing, e.to.path)
			}
		}
		for _, e := range g.waiters {
			if !e.dead {
				liveOut++
			}
		}
		switch {
		case k != g.key || g.state.ended():
			return fmt.Errorf("%s is %v but still in the graph", g.path, g.state)
		case built != g.built:
			return fmt.Errorf("%s counts %d inputs that are registering, and has %d", g.path, g.built, built)
		case inPlace != g.inPlace:
			return fmt.Errorf("%s counts %d inputs that are in place, and has %d", g.path, g.inPlace, inPlace)
		case g.placed && !g.hasWorker():
			return fmt.Errorf("%s is in place, and %v", g.path, g.state)
		case g.isRipe() && easy && !g.ripe:
			return fmt.Errorf("%s waits for registrations that take their time", g.path)
		case liveIn != g.unfinished || liveOut != g.live:
			return fmt.Errorf("%s counts %d inputs, %d waiters; has %d, %d", g.path, g.unfinished, g.live, liveIn, liveOut)
		case g.state == waiting && g.waits() == 0, g.state != waiting && g.waits() > 0:
			return fmt.Errorf("%s is %v with %d inputs", g.path, g.state, liveIn)
		case g.hasWorker() != (g.run != nil):
			return fmt.Errorf("%s is %v, worker %v", g.path, g.state, g.run)
		case !g.hasWorker() && !g.wanted():
			return fmt.Errorf("nobody wants %s, which is %v", g.path, g.state)
		}
		if g.state == running {
			used[g.pool]++
			_, spare := g.pool.spare[g]
			if spare != g.background() {
				return fmt.Errorf("%s runs in the background: %v, counted %v", g.path, g.background(), spare)
			}
			if !spare {
				h := held[g.pool]
				h[g.payer]++
				held[g.pool] = h
			}
		}
		wanted.count(g.flags, 1)
		if g.queued() {
			queued[g.pool]++
			if g.idle != (g.background() && g.state != locked) {
				return fmt.Errorf("%s is in the wrong queue", g.path)
			}
			q := &g.pool.idle
			if !g.idle {
				q = g.pool.ready[g.queue]
			}
			if q == nil || (*q)[g.position] != g || !g.idle && g.queue != g.flags&flagUsers {
				return fmt.Errorf("%s is not where it says in its queue", g.path)
			}
		}
	}
	for s := waiting; s < done; s++ {
		if counts[s] != gr.counts[s] {
			return fmt.Errorf("%d goals are %v, %d counted", counts[s], s, gr.counts[s])
		}
	}
	for _, p := range []*pool{&gr.builds, &gr.subs, &gr.walks} {
		if used[p] != p.used {
			return fmt.Errorf("%d slots used, %d counted", used[p], p.used)
		}
		outgrown := 0
		for g := range p.holders {
			if g.state != running || g.pool != p {
				return fmt.Errorf("%s holds a slot, and is %v", g.path, g.state)
			}
			if g.run.outgrown {
				outgrown++
			} else if g.heir() > g.run.heir && !gr.closing {
				return fmt.Errorf("%s could be followed by what is needed less than who waits for it", g.path)
			}
		}
		if len(p.holders) != used[p] || outgrown != p.outgrown {
			return fmt.Errorf("%d hold slots, %d outgrown; %d and %d counted", used[p], outgrown, len(p.holders), p.outgrown)
		}
		for _, g := range p.prepared {
			if g.state != prepared || g.pool != p {
				return fmt.Errorf("%s is %v, and counted as prepared", g.path, g.state)
			}
		}
		if p.next() != nil && !gr.closing {
			return errors.New("a slot is free, and a goal waits for it")
		}
		if held[p] != p.held {
			return fmt.Errorf("slots by user: %v, counted %v", held[p], p.held)
		}
		for u, n := range p.held {
			if p.perUser > 0 && u != nobody && n > p.perUser {
				return fmt.Errorf("user %d holds %d slots, may hold %d", u, n, p.perUser)
			}
		}
		queued[p] -= len(p.idle)
		for _, q := range p.ready {
			queued[p] -= len(*q)
			if len(*q) == 0 {
				return errors.New("an empty queue is left over")
			}
		}
		if queued[p] != 0 {
			return fmt.Errorf("%d goals too many or too few in the queues", queued[p])
		}
		spared, stopped := 0, 0
		for g := range p.spare {
			if g.state != running {
				return fmt.Errorf("%s is counted as running in the background, and is %v", g.path, g.state)
			}
			spared += g.holds
			if g.cancelled {
				stopped += g.holds
			}
		}
		if spared != p.spared {
			return fmt.Errorf("%d slots used in the background, counted %d", spared, p.spared)
		}
		if p.used-stopped > p.slots && stopped < spared {
			return errors.New("a goal in the background holds a slot that is taken twice")
		}
	}
	if gr.spare() > gr.idleJobs {
		return fmt.Errorf("%d goals run in the background, %d may", gr.spare(), gr.idleJobs)
	}
	if wanted.goals != gr.users.goals {
		return fmt.Errorf("goals by user: %v, counted %v", wanted.goals, gr.users.goals)
	}
	return nil
}

// checkNow runs check between two messages.
func checkNow(t interface{ Error(...any) }, n *Normaliser) {
	got := make(chan error, 1)
	if n.post(func(gr *graph) { gr.settle(); gr.start(); got <- gr.check() }) {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
}

// randomWorld draws derivations 0…n-1, each needing some before it; some fail,
// some are valid, some have substitutes of which some fail.
func randomWorld(t *rapid.T, w *world, n int) {
	for i := range n {
		name := fmt.Sprint("n", i)
		var inputs []string
		if i > 0 {
			for _, in := range rapid.SliceOfNDistinct(rapid.IntRange(0, i-1), 0, min(i, 4), rapid.ID[int]).Draw(t, "inputs") {
				inputs = append(inputs, fmt.Sprint("n", in))
			}
		}
		w.drv(name, inputs...)
		w.takes[name] = time.Duration(rapid.IntRange(1, 5).Draw(t, "takes")) * time.Second
		switch rapid.IntRange(0, 9).Draw(t, "fate") {
		case 0, 1:
			w.fails[name] = true
		case 2:
			w.makeValid(name)
		case 3, 4:
			var in []store.Path
			if i > 0 {
				in = append(in, path(fmt.Sprint("n", rapid.IntRange(0, i-1).Draw(t, "input of substitute"), ".drv")))
			}
			sub := w.old("s"+name, []string{name}, in...)
			w.fails["s"+name] = rapid.Bool().Draw(t, "substitute fails")
			w.substitute(path(name), sub)
		}
	}
}

// model realises one after the other, by recursion, with -k.
type model struct {
	w     *world
	state map[string]bool // realised or not
	begun map[string]bool
}

func (m *model) realise(name string) bool {
	if ok, seen := m.state[name]; seen {
		return ok
	}
	m.state[name] = false
	m.state[name] = m.make(name)
	return m.state[name]
}

func (m *model) make(name string) bool {
	if m.w.isValid(name) {
		return true
	}
	if len(m.w.subs[path(name)]) > 0 && m.expr(path("s"+name+".store"), "s"+name) {
		return true
	}
	return m.expr(path(name+".drv"), name)
}

func (m *model) expr(p store.Path, name string) bool {
	d, _ := m.w.derivation(p)
	ok := true
	for _, in := range d.Inputs {
		ok = m.realise(short(in.Path)) && ok
	}
	if !ok {
		return false
	}
	m.begun[name] = true
	return !m.w.fails[name]
}

// complaints collects what is wrong, so that rapid can shrink what it drew.
type complaints struct {
	mu   sync.Mutex
	list []string
}

func (c *complaints) Errorf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, fmt.Sprintf(format, args...))
}

func (c *complaints) Error(args ...any) { c.Errorf("%s", fmt.Sprint(args...)) }

// bubble runs f with virtual time, and hands its complaints to rt.
func bubble(t *testing.T, rt *rapid.T, f func(t *testing.T, c *complaints)) {
	c := &complaints{}
	synctest.Test(t, func(t *testing.T) { f(t, c) })
	for _, l := range c.list {
		rt.Error(l)
	}
}

func TestRandomGraphs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		size := rapid.IntRange(1, 40).Draw(rt, "size")
		randomWorld(rt, w, size)
		m := &model{w: w, state: map[string]bool{}, begun: map[string]bool{}}
		var targets []store.Path
		var want []bool
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, size-1), 1, 3, rapid.ID[int]).Draw(rt, "targets") {
			name := fmt.Sprint("n", i)
			targets = append(targets, path(name))
			want = append(want, m.realise(name))
		}
		keepGoing := rapid.Bool().Draw(rt, "keep going")
		jobs := rapid.IntRange(1, 4).Draw(rt, "jobs")
		bubble(t, rt, func(t *testing.T, c *complaints) {
			n := w.start(t, jobs)
			stop := make(chan struct{})
			checked := make(chan struct{})
			go func() {
				defer close(checked)
				for {
					checkNow(c, n)
					select {
					case <-stop:
						return
					case <-time.After(700 * time.Millisecond):
					}
				}
			}()
			res, err := n.Realise(t.Context(), Request{Targets: targets, KeepGoing: keepGoing, Planned: func([]store.Path) {}})
			close(stop)
			<-checked
			if (err == nil) == slices.Contains(want, false) {
				c.Errorf("error %v, targets realised in the model: %v", err, want)
			}
			time.Sleep(time.Hour)
			for _, name := range w.begun() {
				if !m.begun[name] {
					c.Errorf("%s was built", name)
				}
			}
			if len(w.begun()) != len(slices.Compact(sorted(w.begun()))) {
				c.Errorf("built more than once: %v", w.begun())
			}
			if keepGoing || err == nil {
				if keepGoing && len(w.begun()) != len(m.begun) {
					c.Errorf("built %v, the model %v", sorted(w.begun()), m.begun)
				}
				// A substitute that was given up may have ended later.
				if all := n.Status().Counts; all.Built != len(w.built()) || res.Counts != all && len(w.subs) == 0 {
					c.Errorf("counted of the request: %v; of all: %v; built %d", res.Counts, all, len(w.built()))
				}
				for i, target := range res.Targets {
					if target.Realised != want[i] || (target.Failure == nil) != want[i] {
						c.Errorf("%s: %+v, want %v", target.Path, target, want[i])
					}
				}
			}
			checkNow(c, n)
			if s := n.Status(); s.Requests+s.Waiting+s.Buildable+len(s.Running) != 0 {
				c.Errorf("left over: %+v", s)
			}
		})
	})
}

// caller is somebody who comes, and who perhaps goes before it is done.
type caller struct {
	name     string
	want     bool
	after    time.Duration
	stays    bool
	patience time.Duration
	request  Request
}

func randomCaller(t *rapid.T, m *model, size int) caller {
	milliseconds := func(most int, label string) time.Duration {
		return time.Duration(rapid.IntRange(0, most).Draw(t, label)) * time.Millisecond
	}
	name := fmt.Sprint("n", rapid.IntRange(0, size-1).Draw(t, "target"))
	var who *Caller
	if uid := rapid.Uint32Range(0, maxUsers+3).Draw(t, "user"); uid > 0 {
		who = &Caller{UID: uid}
	}
	return caller{
		name: name, want: m.realise(name),
		after:    milliseconds(20000, "after"),
		stays:    rapid.Bool().Draw(t, "stays"),
		patience: milliseconds(5000, "patience"),
		request: Request{
			Targets:    []store.Path{path(name)},
			KeepGoing:  rapid.Bool().Draw(t, "keep going"),
			Urgent:     rapid.Bool().Draw(t, "urgent"),
			Background: rapid.Bool().Draw(t, "background"),
			Jobs:       rapid.IntRange(0, 6).Draw(t, "jobs of request"),
			Orphans:    Orphans{Cancel: rapid.Bool().Draw(t, "cancel"), Grace: milliseconds(3000, "grace")},
			Planned:    func([]store.Path) {},
			Caller:     who,
			NoBuild:    rapid.IntRange(0, 3).Draw(t, "may not build") == 0,
		},
	}
}

// Callers come and go as they like. Nothing is built twice, nothing is left
// over, and whoever stays gets what the model says.
func TestRandomCallers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		size := rapid.IntRange(1, 30).Draw(rt, "size")
		randomWorld(rt, w, size)
		m := &model{w: w, state: map[string]bool{}, begun: map[string]bool{}}
		options := Options{Jobs: rapid.IntRange(1, 4).Draw(rt, "jobs"), JobsPerUser: rapid.IntRange(0, 3).Draw(rt, "jobs per user")}
		callers := make([]caller, rapid.IntRange(1, 8).Draw(rt, "callers"))
		for i := range callers {
			callers[i] = randomCaller(rt, m, size)
		}
		bubble(t, rt, func(t *testing.T, bad *complaints) {
			n := w.startWith(t, options)
			var all sync.WaitGroup
			for _, c := range callers {
				all.Go(func() {
					time.Sleep(c.after)
					ctx := t.Context()
					if !c.stays {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, c.patience)
						defer cancel()
					}
					_, err := n.Realise(ctx, c.request)
					checkNow(bad, n)
					if errors.Is(err, store.ErrCancelled) && !c.stays {
						return
					}
					if c.request.NoBuild && errors.Is(err, store.ErrNotAllowed) {
						return
					}
					if (err == nil) != c.want {
						bad.Errorf("%s: %v, want realised: %v", c.name, err, c.want)
					}
				})
			}
			all.Wait()
			time.Sleep(time.Hour)
			checkNow(bad, n)
			if len(w.built()) != len(slices.Compact(sorted(w.built()))) {
				bad.Errorf("built more than once: %v", w.built())
			}
			if s := n.Status(); s.Requests+s.Waiting+s.Buildable+len(s.Running)+len(s.Waiters) != 0 {
				bad.Errorf("left over: %+v", s)
			}
		})
	})
}
