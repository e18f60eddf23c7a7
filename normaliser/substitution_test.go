package normaliser

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"storefs/event"
	"storefs/store"
)

func TestSubstitutesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		useless := w.old("useless", []string{"x"})
		bad := w.old("bad", []string{"y"})
		w.fails["bad"] = true
		good := w.old("good", []string{"p"})
		never := w.old("never", []string{"p"})
		delete(w.known, path("p"))
		w.substitute(path("p"), bad, useless, good, never)
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: paths("p")}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"bad", "useless", "good"}; !slices.Equal(w.begun(), want) {
			t.Errorf("tried %v, want %v", w.begun(), want)
		}
		if len(w.failures) != 1 {
			t.Errorf("remembered %v, want that of bad", w.failures)
		}
	})
}

// Whoever hears of a goal hears whose slot it has.
func TestSlotsApartAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		good := w.old("good", []string{"p"})
		delete(w.known, path("p"))
		w.substitute(path("p"), good)
		w.takes["good"], w.takes["own"] = time.Minute, time.Minute
		own := w.drv("own")
		n := w.start(t, 1)
		sub := n.events.Subscribe(func(e event.Event) bool { return e.Kind == event.Started })
		go n.Realise(t.Context(), Request{Targets: []store.Path{path("p"), own}})
		time.Sleep(time.Second)
		running := map[store.Path]bool{}
		for _, r := range n.Status().Running {
			running[r.Goal] = r.Apart
		}
		if want := map[store.Path]bool{good: true, own: false}; !maps.Equal(running, want) {
			t.Errorf("running %v, want %v", running, want)
		}
		time.Sleep(time.Hour)
		sub.Close()
		events, _ := sub.Next(t.Context())
		for _, e := range events {
			if (e.Text == event.SlotApart) != (e.Goal != own) {
				t.Errorf("%+v", e)
			}
		}
		if len(events) < 2 {
			t.Errorf("%+v", events)
		}
	})
}

func TestSubstitutesAllFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		useless := w.old("useless", []string{"x"})
		bad := w.old("bad", []string{"y"})
		w.fails["bad"] = true
		w.substitute(path("p"), bad, useless)
		user := w.closure("user", "p")
		n := w.start(t, 1)
		_, err := n.Realise(t.Context(), Request{Targets: []store.Path{user}})
		f, ok := errors.AsType[*store.Failure](err)
		if !ok || !errors.Is(err, store.ErrBuildFailed) {
			t.Fatalf("error %v", err)
		}
		if !slices.Equal(names(f.Chain), []string{"user.store", "p"}) || f.Path != path("p") {
			t.Errorf("chain %v", names(f.Chain))
		}
		for _, part := range []string{"bad.store", "exit status 7", "useless.store", "did not make it valid"} {
			if !strings.Contains(f.Message, part) {
				t.Errorf("message %q lacks %q", f.Message, part)
			}
		}
		if w.failures[path("p")] == nil || w.failures[user] == nil {
			t.Errorf("remembered %v", w.failures)
		}
	})
}

// The inputs of a substitute come from substitutes themselves, as does the text
// of an expression.
func TestSubstitutesTransitively(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		inner := w.old("inner", []string{"q"})
		delete(w.known, path("q"))
		w.substitute(path("q"), inner)
		source := w.closure("source", "q")
		outer := w.old("outer", []string{"p"}, source)
		text := w.exprs[outer]
		delete(w.exprs, outer)
		fetch := w.old("fetch", []string{"text"})
		w.substitute(outer, fetch)
		w.substitute(path("p"), outer)
		delete(w.known, path("p"))
		// fetch makes the text of outer readable and valid.
		w.onBuilt = func(name string) {
			if name == "fetch" {
				w.exprs[outer] = text
				w.valid[outer] = store.Info{Path: outer}
			}
		}
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: paths("p")}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"fetch", "inner", "outer"}; !slices.Equal(w.begun(), want) {
			t.Errorf("built %v, want %v", w.begun(), want)
		}
	})
}

func TestSubstituteInsteadOfBuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("in")
		a := w.drv("a", "in")
		w.substitute(path("a"), w.old("cache", []string{"a"}))
		top := w.drv("top", "a")
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"cache", "top"}; !slices.Equal(w.begun(), want) {
			t.Errorf("built %v, want %v", w.begun(), want)
		}
		if w.succ[a] == "" {
			t.Error("a has no successor")
		}
	})
}

func TestBuildWhenSubstitutesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("in")
		a := w.drv("a", "in")
		cache := w.old("cache", []string{"a"})
		w.fails["cache"] = true
		w.substitute(path("a"), cache)
		top := w.drv("top", "a")
		n := w.start(t, 1)
		var planned []string
		r := Request{Targets: []store.Path{top}, Planned: func(goals []store.Path) { planned = append(planned, names(goals)...) }}
		if _, err := n.Realise(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if want := []string{"cache", "in", "a", "top"}; !slices.Equal(w.begun(), want) {
			t.Errorf("built %v, want %v", w.begun(), want)
		}
		if want := []string{"a", "a.drv", "cache.store", "in.drv", "top.drv"}; !slices.Equal(sorted(planned), want) {
			t.Errorf("planned %v, want %v", sorted(planned), want)
		}
		synctest.Wait()
		if w.failures[a] != nil || w.failures[path("a")] != nil || len(w.failures) != 1 {
			t.Errorf("remembered %v, want only that of cache", w.failures)
		}
	})
}

// The expression that makes a path is registered as its substitute, as those of
// 2004 were.
func TestSubstituteIsTheDeriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, target := range []string{"p", "e.store"} {
			w := newWorld()
			e := w.old("e", []string{"p"})
			w.substitute(path("p"), e)
			n := w.start(t, 1)
			if _, err := n.Realise(t.Context(), Request{Targets: paths(target)}); err != nil {
				t.Fatalf("%s: %v", target, err)
			}
			if !slices.Equal(w.begun(), []string{"e"}) {
				t.Errorf("%s: built %v", target, w.begun())
			}
		}
	})
}

func TestSubstituteCycles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		// To get p, q is needed, and the other way round.
		forP := w.closure("forp", "q")
		forQ := w.closure("forq", "p")
		w.substitute(path("p"), forP)
		w.substitute(path("q"), forQ)
		n := w.start(t, 1)
		_, err := n.Realise(t.Context(), Request{Targets: paths("p")})
		if !errors.Is(err, store.ErrCycle) || !strings.Contains(err.Error(), "forq.store") {
			t.Fatalf("error %v, want a cycle with its names", err)
		}
		// Another substitute gets out of it.
		w.substitute(path("q"), w.old("out", []string{"q"}))
		delete(w.known, path("q"))
		if _, err = n.Realise(t.Context(), Request{Targets: paths("p")}); !errors.Is(err, nil) && !strings.Contains(err.Error(), "did not make it valid") {
			t.Fatalf("error %v", err)
		}
		if !w.isValid("q") {
			t.Error("q is not valid")
		}
	})
}

// The substitute of an output needs the very derivation: it is built instead.
func TestSubstituteNeedsWhatItIsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.drv("a")
		user := w.drv("user", "a")
		other := w.old("other", []string{"o"}, user)
		w.substitute(path("a"), other)
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}}); err != nil {
			t.Fatal(err)
		}
		if !w.isValid("a") {
			t.Error("a is not valid")
		}
	})
}

func TestSubstituteSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var targets []store.Path
		for i := range 12 {
			p := fmt.Sprint("p", i)
			in := w.old(fmt.Sprint("in", i), []string{fmt.Sprint("x", i)})
			w.substitute(path(p), w.old(fmt.Sprint("fetch", i), []string{p}, in))
			delete(w.known, path(p))
			targets = append(targets, path(p))
		}
		var builds []store.Path
		for i := range 4 {
			builds = append(builds, w.drv(fmt.Sprint("b", i)))
		}
		n := w.startWith(t, Options{Jobs: 1, SubstituteJobs: 3})
		begin := time.Now()
		got := make(chan time.Duration)
		go func() {
			n.Realise(t.Context(), Request{Targets: builds})
			got <- time.Since(begin)
		}()
		if _, err := n.Realise(t.Context(), Request{Targets: targets}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 8*time.Second {
			t.Errorf("24 builds in 3 slots took %v, want 8s", took)
		}
		if took := <-got; took != 4*time.Second {
			t.Errorf("4 builds in a slot of their own took %v, want 4s", took)
		}
		if w.most != 4 {
			t.Errorf("%d at a time, want 4", w.most)
		}
	})
}

func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.unreachable = true
		a := w.drv("a")
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}}); err != nil {
			t.Errorf("a can be built: %v", err)
		}
		if _, err := n.Realise(t.Context(), Request{Targets: paths("p")}); !errors.Is(err, store.ErrUnreachable) {
			t.Errorf("error %v, want unreachable", err)
		}
	})
}

func TestClosureIsRealised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("a")
		w.drv("b", "a")
		w.makeValid("c")
		c := w.closure("c", "a", "b", "c")
		n := w.start(t, 2)
		res, err := n.Realise(t.Context(), Request{Targets: []store.Path{c}})
		if err != nil || !slices.Equal(res.Targets[0].Paths, paths("a", "b", "c")) {
			t.Fatalf("%v, %+v", err, res)
		}
		if !w.isValid("a") || !w.isValid("b") {
			t.Errorf("built %v", w.begun())
		}
	})
}

func TestPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("in")
		w.expected[path("in.drv")] = time.Minute
		w.drv("sub", "in")
		w.substitute(path("sub"), w.old("cache", []string{"sub"}))
		w.drv("valid")
		w.makeValid("valid")
		top := w.drv("top", "in", "sub", "valid", "missing")
		n := w.start(t, 1)
		p, err := n.Plan(t.Context(), []store.Path{top})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(names(p.Build), []string{"in.drv", "top.drv"}) || !slices.Equal(names(p.Substitute), []string{"sub"}) ||
			!slices.Equal(names(p.Unknown), []string{"missing.drv"}) || p.Expected != time.Minute {
			t.Errorf("plan %+v", p)
		}
		if len(w.begun()) != 0 || n.Status().Done != 0 {
			t.Error("it did something")
		}
	})
}
