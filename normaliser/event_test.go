package normaliser

import (
	"context"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"storefs/event"
	"storefs/store"
)

// story is what the events of a goal tell.
func story(events []event.Event, goal string) []string {
	var s []string
	for _, e := range events {
		if e.Goal != path(goal) {
			continue
		}
		line := string(e.Kind)
		switch {
		case e.Text != "":
			line += " " + e.Text
		case e.Failure != nil:
			line += " " + strings.Join(names(e.Failure.Chain), ",")
		}
		if e.Duration > 0 {
			line += " " + e.Duration.String()
		}
		if e.Expected > 0 {
			line += " expected " + e.Expected.String()
		}
		s = append(s, line)
		// The graph tells of the slot, and the worker of its phases, at the same time.
		if n := len(s); n > 1 && (s[n-2] == "freed" && line == "phase sync" || s[n-2] == "phase register" && line == "freed") {
			s[n-2], s[n-1] = s[n-1], s[n-2]
		}
	}
	return s
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("good")
		w.expected[path("good.drv")] = 3 * time.Second
		w.drv("late")
		w.drv("bad", "good")
		w.fails["bad"] = true
		top := w.drv("top", "bad", "late")
		w.substitute(path("p"), w.old("cache", []string{"p"}))
		delete(w.known, path("p"))
		var bus event.Bus
		sub := bus.Subscribe(nil)
		n := w.startWith(t, Options{Jobs: 1, Events: &bus})
		w.expected[path("late.drv")] = time.Nanosecond
		n.Realise(t.Context(), Request{Targets: []store.Path{top}})
		if _, err := n.Realise(t.Context(), Request{Targets: paths("p")}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		sub.Close()
		events, _ := sub.Next(t.Context())
		for goal, want := range map[string][]string{
			"good.drv": {"added expected 3s", "started expected 3s", "phase build", "log building good", "phase sync", "freed", "phase register", "done built 1s"},
			"bad.drv":  {"added", "started", "phase build", "log building bad", "failed bad.drv 1s"},
			"top.drv":  {"added", "failed top.drv,bad.drv"},
			"late.drv": {"added expected 1ns", "dropped"},
			"p":        {"added", "started substitution", "freed", "started substitution", "done substituted"},
		} {
			if got := story(events, goal); !slices.Equal(got, want) {
				t.Errorf("%s: %q\nwant %q", goal, got, want)
			}
		}
	})
}

// Each of many requests learns of its goals, and of no others.
func TestPlanned(t *testing.T) {
	for _, requests := range []int{5, 100} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.drv("shared")
			for i := range requests {
				w.drv(fmt.Sprint("own", i), "shared")
			}
			w.quick = true
			n := w.start(t, 2)
			// More than there are flags, but one after the other.
			for range 100 {
				w.drv("before")
				delete(w.valid, path("before"))
				w.mustPlan(t, n, "before", "before.drv")
			}
			w.quick = false
			var all sync.WaitGroup
			for i := range requests {
				all.Go(func() {
					counts := w.mustPlan(t, n, fmt.Sprint("own", i), fmt.Sprint("own", i, ".drv"), "shared.drv")
					if want := (event.Counts{Built: 2}); counts != want {
						t.Errorf("own%d: %v, want %v", i, counts, want)
					}
				})
			}
			all.Wait()
		})
	}
}

// One request more than there are flags learns of what turns out to be necessary, too.
func TestPlannedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var others []store.Path
		for i := range bits.Len64(uint64(^(flagObserver - 1)) / uint64(flagObserver)) {
			others = append(others, w.drv(fmt.Sprint("long", i)))
			w.takes[fmt.Sprint("long", i)] = time.Hour
		}
		w.drv("a")
		w.drv("b")
		w.fails["a"] = true
		w.substitute(path("p"), w.old("first", []string{"p"}, path("a.drv")), w.old("second", []string{"p"}, path("b.drv")))
		delete(w.known, path("p"))
		n := w.start(t, 100)
		for _, p := range others {
			go n.Realise(t.Context(), Request{Targets: []store.Path{p}, Planned: func([]store.Path) {}})
		}
		synctest.Wait()
		counts := w.mustPlan(t, n, "p", "p", "first.store", "a.drv", "second.store", "b.drv")
		if want := (event.Counts{Built: 2, Substituted: 1, Failed: 2}); counts != want {
			t.Errorf("%v, want %v", counts, want)
		}
		time.Sleep(2 * time.Hour)
	})
}

// mustPlan realises a path, and expects these goals to be planned.
func (w *world) mustPlan(t *testing.T, n *Normaliser, name string, want ...string) event.Counts {
	var planned []string
	res, err := n.Realise(t.Context(), Request{
		Targets: []store.Path{path(name)},
		Planned: func(goals []store.Path) { planned = append(planned, names(goals)...) },
	})
	if err != nil {
		t.Error(err)
	}
	if !slices.Equal(sorted(planned), sorted(want)) {
		t.Errorf("%s: planned %v, want %v", name, planned, want)
	}
	return res.Counts
}

// What takes several slots keeps others from them.
func TestRemainingCountsCores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var targets []store.Path
		for i, n := range []string{"0", "4", "2", "1"} {
			p := w.cores(fmt.Sprint("a", i), n)
			w.takes[fmt.Sprint("a", i)], w.expected[p] = 10*time.Second, 10*time.Second
			targets = append(targets, p)
		}
		n := w.start(t, 4)
		go n.Realise(t.Context(), Request{Targets: targets})
		synctest.Wait()
		// 4, 4, 2 and 1 of 4 slots.
		if s := n.Status(); s.Remaining != 27500*time.Millisecond {
			t.Errorf("%v left", s.Remaining)
		}
		time.Sleep(5 * time.Second)
		if s := n.Status(); s.Remaining != 22500*time.Millisecond {
			t.Errorf("%v left", s.Remaining)
		}
		time.Sleep(time.Minute)
	})
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		for name, takes := range map[string]time.Duration{"a": 10, "b": 20, "c": 40} {
			w.takes[name] = takes * time.Second
			w.expected[path(name+".drv")] = takes * time.Second
		}
		w.drv("a")
		w.drv("b", "a")
		w.drv("c")
		top := w.drv("top", "b", "c")
		w.expected[top] = time.Second
		n := w.start(t, 1)
		go n.Realise(t.Context(), Request{Targets: []store.Path{top}})
		synctest.Wait()
		time.Sleep(5 * time.Second)
		s := n.Status()
		// c runs first; all work is to be done in one slot.
		if s.Requests != 1 || s.Waiting != 2 || s.Buildable != 1 || len(s.Running) != 1 || s.Remaining != 66*time.Second {
			t.Errorf("status %+v", s)
		}
		r := s.Running[0]
		if r.Goal != path("c.drv") || r.Phase != event.PhaseBuild || time.Since(r.Since) != 5*time.Second || r.Expected != 40*time.Second || r.Waiters != 1 {
			t.Errorf("running %+v", r)
		}
		text, err := json.Marshal(s)
		if err != nil || !strings.Contains(string(text), `"phase":"build"`) {
			t.Errorf("%s, %v", text, err)
		}
		// With slots for all, the longest path counts.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n.Realise(ctx, Request{Targets: paths("a"), Jobs: 8})
		if s := n.Status(); s.Jobs != 8 || s.Remaining != 35*time.Second || len(s.Running) != 2 {
			t.Errorf("status %+v", s)
		}
		time.Sleep(2 * time.Minute)
		if s := n.Status(); s.Done != 4 || s.Remaining != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// Status says of what registers when it gave its slot back.
func TestStatusOfWhatRegisters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.takes["a"], w.register = 10*time.Second, time.Minute
		n := w.start(t, 1)
		go n.Realise(t.Context(), Request{Targets: []store.Path{w.drv("a")}})
		began := time.Now()
		time.Sleep(5 * time.Second)
		if r := n.Status().Running; len(r) != 1 || !r[0].Freed.IsZero() {
			t.Errorf("while it is built: %+v", r)
		}
		time.Sleep(15 * time.Second)
		if r := n.Status().Running; len(r) != 1 || !r[0].Freed.Equal(began.Add(10*time.Second)) || !r[0].Since.Equal(began) {
			t.Errorf("while it is registered: %+v", r)
		}
		time.Sleep(time.Hour)
	})
}

// How long substitutes take, nobody has recorded: where nothing else is to come, nobody says
// how much is left.
func TestRemainingOfSubstitutes(t *testing.T) {
	gr := &graph{builds: pool{slots: 2}, subs: pool{slots: 2}}
	path := &goal{key: key{kindPath, path("p")}, mode: modeSubstitute}
	drv := &goal{key: key{kindExpr, "p.drv"}, mode: modeTry, inputs: []*edge{{to: path}}}
	known := &goal{key: key{kindExpr, "q.drv"}, mode: modeBuild, expected: time.Minute, inputs: []*edge{{to: drv}}}
	path.flags, drv.flags, known.flags = flagMain, flagMain, flagMain
	gr.goals = map[key]*goal{path.key: path, drv.key: drv}
	told := func(g *goal, goals ...*goal) (left, waiter time.Duration) {
		o := newOutlook(gr, time.Now())
		left, _ = o.remaining(goals, 2)
		var w Waiter
		o.tell(g, &w)
		return left, w.Left
	}
	for _, built := range []time.Duration{0, time.Hour} {
		gr.lengths.add(built)
		if left, waiter := told(drv, drv, path); left != 0 || waiter != 0 {
			t.Errorf("%v built before: %v left, %v for who waits", built, left, waiter)
		}
	}
	gr.goals[known.key] = known
	if left, waiter := told(known, known, drv, path); left < time.Minute || waiter < time.Minute {
		t.Errorf("with a build: %v left, %v for who waits", left, waiter)
	}
}

// What was never built counts as the average of what was, and where nothing was, nobody
// says how long it takes.
func TestRemainingOfTheUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		for _, name := range []string{"first", "a", "b", "c", "d"} {
			w.takes[name] = 30 * time.Second
		}
		w.drv("a")
		w.drv("b", "a")
		w.drv("c", "b")
		n := w.start(t, 2)
		remaining := func(after time.Duration, left time.Duration, unknown int) {
			t.Helper()
			time.Sleep(after)
			if s := n.Status(); s.Remaining != left || s.Unknown != unknown {
				t.Errorf("%v, %d unknown; want %v, %d", s.Remaining, s.Unknown, left, unknown)
			}
		}
		go n.Realise(t.Context(), Request{Targets: []store.Path{w.drv("first")}})
		remaining(time.Second, 0, 1)
		time.Sleep(time.Minute)
		go n.Realise(t.Context(), Request{Targets: []store.Path{path("c.drv")}})
		remaining(10*time.Second, 80*time.Second, 3)
		// What is known counts for the others, too: (30 + 120) / 2.
		known := w.drv("d")
		w.expected[known], w.takes["d"] = 2*time.Minute, 2*time.Minute
		go n.Realise(t.Context(), Request{Targets: []store.Path{known}})
		remaining(5*time.Second, (75-15+75+75)*time.Second, 3)
		// Who wants one of them waits for no other.
		if left := n.Remaining(map[store.Path]bool{known: true, path("gone.drv"): true}); left != 115*time.Second {
			t.Errorf("of one: %v", left)
		}
		time.Sleep(time.Hour)
		remaining(0, 0, 0)
	})
}

// That is so, too, where there are too many goals to look at each.
func TestRemainingOfManyUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.takes["first"], w.takes["n0"] = time.Second, time.Hour
		n := w.start(t, 2)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{w.drv("first")}}); err != nil {
			t.Fatal(err)
		}
		target := shapes["chain"](w, maxOutlook+1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go n.Realise(ctx, Request{Targets: []store.Path{target}})
		time.Sleep(time.Minute)
		s := n.Status()
		if want := maxOutlook * time.Second; (s.Remaining-want).Abs() > want/100 || s.Unknown != maxOutlook+1 {
			t.Errorf("%v, %d unknown; want %v, %d", s.Remaining, s.Unknown, want, maxOutlook+1)
		}
	})
}
