package normaliser

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"storefs/event"
	"storefs/store"
	"storefs/storeexpr"
)

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var targets []store.Path
		for i := range 20 {
			targets = append(targets, w.drv(fmt.Sprint("a", i)))
		}
		n := w.start(t, 3)
		begin := time.Now()
		if _, err := n.Realise(t.Context(), Request{Targets: targets[:10]}); err != nil {
			t.Fatal(err)
		}
		if w.most != 3 || time.Since(begin) != 4*time.Second {
			t.Errorf("%d at a time, %v; want 3, 4s", w.most, time.Since(begin))
		}
		w.most = 0
		if _, err := n.Realise(t.Context(), Request{Targets: targets[10:], Jobs: 5}); err != nil {
			t.Fatal(err)
		}
		if w.most != 5 || n.Status().Jobs != 3 {
			t.Errorf("%d at a time, %d afterwards; want 5, 3", w.most, n.Status().Jobs)
		}
	})
}

func TestLongestPathFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		// Alone, "b" looks longer; but "a" has much to come after it.
		w.drv("z1")
		w.drv("b")
		w.drv("a")
		w.drv("a2", "a")
		top := w.drv("top", "z1", "b", "a2")
		for name, d := range map[string]time.Duration{"z1": 1, "b": 8, "a": 5, "a2": 10, "top": 1} {
			w.expected[path(name+".drv")] = d * time.Second
		}
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"a", "a2", "b", "z1", "top"}; !slices.Equal(w.begun(), want) {
			t.Errorf("order %v, want %v", w.begun(), want)
		}
	})
}

// The next builder does not wait for the disk, unless something that is needed
// more waits for just that.
func TestSlotWhileRegistering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = 100 * time.Millisecond
		var targets []store.Path
		for i := range 10 {
			targets = append(targets, w.drv(fmt.Sprint("a", i)))
		}
		n := w.start(t, 2)
		begin := time.Now()
		if _, err := n.Realise(t.Context(), Request{Targets: targets}); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(begin); w.most != 2 || got != 5100*time.Millisecond {
			t.Errorf("%d at a time, %v; want 2, 5.1s", w.most, got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = 100 * time.Millisecond
		w.drv("lesser")
		w.drv("first")
		w.drv("second", "first")
		top := w.drv("top", "lesser", "second")
		w.expected[path("second.drv")] = time.Hour
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"first", "second", "lesser", "top"}; !slices.Equal(w.begun(), want) {
			t.Errorf("order %v, want %v", w.begun(), want)
		}
	})
}

// What nobody asked for is registered at leisure, as what is built from it does not
// wait for that, unless something else does which is needed more.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = time.Millisecond
		var all []string
		for i := range 20 {
			all = append(all, fmt.Sprint("a", i))
			w.expected[w.drv(all[i])] = time.Millisecond
		}
		w.drv("more", "a0")
		top := w.drv("top", append(all, "more")...)
		w.expected[top] = time.Millisecond
		cache := w.old("cache", []string{"p"})
		w.expected[cache] = time.Hour
		w.substitute(path("p"), cache)
		delete(w.known, path("p"))
		n := w.start(t, 2)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top, path("a5.drv"), path("p")}}); err != nil {
			t.Fatal(err)
		}
		var hasty []string
		for _, name := range w.built() {
			if !w.patient[name] {
				hasty = append(hasty, name)
			}
		}
		if want := []string{"a5", "cache", "top"}; !slices.Equal(sorted(hasty), want) {
			t.Errorf("not at leisure: %v, want %v", hasty, want)
		}
	})
}

func TestTiesInTheOrderAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var targets []store.Path
		var want []string
		for i := range 50 {
			targets = append(targets, w.drv(fmt.Sprint("a", i)))
			want = append(want, fmt.Sprint("a", i))
		}
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: targets}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(w.begun(), want) {
			t.Errorf("order %v", w.begun())
		}
	})
}

func TestUrgentFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var targets []store.Path
		for i := range 5 {
			targets = append(targets, w.drv(fmt.Sprint("slow", i)))
			w.expected[targets[i]] = time.Hour
		}
		w.drv("in")
		w.drv("shared")
		targets = append(targets, w.drv("x", "shared"))
		urgent := w.drv("urgent", "in", "shared")
		n := w.start(t, 1)
		go n.Realise(t.Context(), Request{Targets: targets})
		synctest.Wait()
		begin := time.Now()
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{urgent}, Urgent: true}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"slow0", "shared", "in", "urgent"}; !slices.Equal(w.begun()[:4], want) || time.Since(begin) != 4*time.Second {
			t.Errorf("order %v after %v, want %v", w.begun(), time.Since(begin), want)
		}
	})
}

func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("base")
		errs := make(chan error)
		for i := range 100 {
			a := w.drv(fmt.Sprint("a", i%10), "base")
			_ = a
		}
		n := w.start(t, 10)
		for i := range 100 {
			go func() {
				time.Sleep(time.Duration(i) * 15 * time.Millisecond)
				_, err := n.Realise(t.Context(), Request{Targets: []store.Path{path(fmt.Sprint("a", i%10))}})
				errs <- err
			}()
		}
		for range 100 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if len(w.begun()) != 11 {
			t.Errorf("%d builds, want 11: %v", len(w.begun()), w.begun())
		}
	})
}

// A second caller wants another output of a derivation that is being looked at.
func TestOutputsOfOneDerivation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("in")
		w.drvOutputs("a", []string{"dev", "out"}, "in")
		w.drv("user", "a!dev")
		n := w.start(t, 2)
		w.makeValid("a")
		if _, err := n.Realise(t.Context(), Request{Targets: paths("a")}); err != nil || len(w.begun()) != 0 {
			t.Fatalf("%v, built %v", err, w.begun())
		}
		if _, err := n.Realise(t.Context(), Request{Targets: paths("user")}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"in", "a", "user"}; !slices.Equal(w.begun(), want) {
			t.Errorf("built %v, want %v", w.begun(), want)
		}
		if got := w.jobs["user"].Inputs; len(got) != 1 || got[0].Path != path("a-dev") {
			t.Errorf("user sees %v", got)
		}
	})
}

// While a goal waits for its lock with few wants, more are added; in the
// meantime the other process has made only what was wanted at first.
func TestWantsThatGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("in")
		w.drvOutputs("a", []string{"dev", "out"}, "in")
		w.makeValid("in")
		held := make(chan struct{})
		w.locks[path("a-dev")] = held
		n := w.start(t, 2)
		first := make(chan error)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: paths("a")})
			first <- err
		}()
		time.Sleep(time.Second)
		second := make(chan error)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: paths("a-dev")})
			second <- err
		}()
		time.Sleep(time.Second)
		w.makeValid("a")
		close(held)
		if err := errors.Join(<-first, <-second); err != nil {
			t.Fatal(err)
		}
		if !w.isValid("a-dev") || len(w.begun()) != 1 {
			t.Errorf("dev valid: %v, built %v", w.isValid("a-dev"), w.begun())
		}
	})
}

func TestLockWaitsStallNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		locked := w.drv("locked")
		user := w.drv("user", "locked")
		free := w.drv("free")
		held := make(chan struct{})
		w.locks[path("locked")] = held
		n := w.start(t, 1)
		got := make(chan error)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{user}})
			got <- err
		}()
		synctest.Wait()
		begin := time.Now()
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{free}}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != time.Second+lockPatience {
			t.Errorf("free took %v", took)
		}
		s := n.Status()
		if len(s.Running) != 1 || s.Running[0].Phase != event.PhaseLock || s.Running[0].Goal != locked || s.Running[0].Waiters != 1 {
			t.Errorf("status %+v", s)
		}
		// The one slot is taken when the lock comes.
		other := w.drv("other")
		go n.Realise(t.Context(), Request{Targets: []store.Path{other}})
		synctest.Wait()
		close(held)
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		if w.most != 1 || len(w.begun()) != 4 {
			t.Errorf("%d at a time, begun %v", w.most, w.begun())
		}
	})
}

func TestBuiltByAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.drv("a")
		held := make(chan struct{})
		w.locks[path("a")] = held
		n := w.start(t, 1)
		go func() {
			time.Sleep(time.Minute)
			w.makeValid("a")
			close(held)
		}()
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{path("a")}}); err != nil {
			t.Fatal(err)
		}
		if len(w.begun()) != 0 || w.succ[a] == "" {
			t.Errorf("begun %v, successor %q", w.begun(), w.succ[a])
		}
	})
}

func TestCancelWhileLockedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.drv("a")
		w.locks[path("a")] = make(chan struct{})
		n := w.start(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := n.Realise(ctx, Request{Targets: []store.Path{a}, Orphans: Orphans{Cancel: true}})
		if !errors.Is(err, store.ErrCancelled) {
			t.Errorf("error %v", err)
		}
		synctest.Wait()
		if s := n.Status(); len(s.Running) != 0 || s.Dropped != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

// A plan ends at goals that are there already. They, and what they need, take
// part in the order as if it had been walked.
func TestPlanEndsAtLiveGoals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("busy")
		w.drv("low")
		w.drv("mid", "low")
		w.drv("other")
		top := w.drv("top", "mid")
		for name, d := range map[string]time.Duration{"other": 60, "top": 100} {
			w.expected[path(name+".drv")] = d * time.Second
		}
		n := w.start(t, 1)
		go n.Realise(t.Context(), Request{Targets: paths("busy")})
		synctest.Wait()
		for _, name := range []string{"other", "mid"} {
			go n.Realise(t.Context(), Request{Targets: paths(name)})
		}
		synctest.Wait()
		before := len(w.read())
		planned := make(chan []store.Path, 1)
		go n.Realise(t.Context(), Request{
			Targets: []store.Path{top},
			Planned: func(goals []store.Path) { planned <- slices.Clone(goals) },
		})
		got := sorted(names(<-planned))
		if want := []string{"low.drv", "mid.drv", "top.drv"}; !slices.Equal(got, want) {
			t.Errorf("planned %v, want %v", got, want)
		}
		if read := slices.Compact(w.read()[before:]); !slices.Equal(read, []string{"top"}) {
			t.Errorf("read %v, want no more than top", read)
		}
		time.Sleep(time.Minute)
		if want := []string{"busy", "low", "mid", "top", "other"}; !slices.Equal(w.begun(), want) {
			t.Errorf("order %v, want %v", w.begun(), want)
		}
	})
}

// While a plan is made, the goal at which it ended ends, well or not.
func TestPlanIsMadeAgain(t *testing.T) {
	for fails, tries := range map[bool]int{false: 3, true: 2} {
		synctest.Test(t, func(t *testing.T) {
			first, second := "x", "y" // in the order in which a plan looks at them
			if path("y.drv") < path("x.drv") {
				first, second = "y", "x"
			}
			w := newWorld()
			w.drv(first)
			w.drv(second)
			w.fails[first] = fails
			top := w.drv("top", first, second)
			w.slow[second] = 2 * time.Second
			n := w.start(t, 1)
			go n.Realise(t.Context(), Request{Targets: paths(first)})
			synctest.Wait()
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}})
			if errors.Is(err, store.ErrBuildFailed) != fails {
				t.Errorf("fails %v: error %v", fails, err)
			}
			if len(w.begun()) != tries {
				t.Errorf("fails %v: begun %v", fails, w.begun())
			}
		})
	}
}

func TestEstimates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var targets []store.Path
		for i := range 2*maxEstimates + 10 {
			name := fmt.Sprint("a", i)
			targets = append(targets, w.drv(name))
			w.expected[targets[i]] = time.Second
			if i < 10 { // old news
				w.expected[targets[i]] = time.Hour
			}
		}
		targets = append(targets, w.drv("new"))
		n := w.start(t, 1)
		if e := n.Status().Estimates; e.Count != 0 {
			t.Errorf("%+v before anything was built", e)
		}
		for i, p := range targets {
			if i%4 != 0 {
				w.takes[short(p)] = 1250 * time.Millisecond
			}
		}
		if _, err := n.Realise(t.Context(), Request{Targets: targets}); err != nil {
			t.Fatal(err)
		}
		if e := n.Status().Estimates; e.Count != maxEstimates || e.MedianError < 0.19 || e.MedianError > 0.21 {
			t.Errorf("%+v, want %d with a median error of 0.2", e, maxEstimates)
		}
	})
}

// cores makes a derivation whose builder says that it uses n processors.
func (w *world) cores(name, n string, inputs ...string) store.Path {
	p := w.drv(name, inputs...)
	w.exprs[p].(*storeexpr.Derivation).Env = []storeexpr.EnvVar{{Name: "__cores", Value: n}}
	return p
}

// What uses more processors takes more slots, and waits until it gets them.
func TestCores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var targets []store.Path
		begun := map[string]time.Duration{}
		for i, n := range []string{"1", "3", "2", "2", "0", "1", "9", "1"} {
			targets = append(targets, w.cores(fmt.Sprint("a", i), n))
		}
		var bus event.Bus
		sub := bus.Subscribe(func(e event.Event) bool { return e.Kind == event.Started })
		n := w.startWith(t, Options{Jobs: 4, Events: &bus})
		begin := time.Now()
		w.onBuilt = func(name string) { begun[name] = time.Since(begin) }
		if _, err := n.Realise(t.Context(), Request{Targets: targets}); err != nil {
			t.Fatal(err)
		}
		// 1+3, 2+2, 4, 1, 4 (of 9), 1: nothing overtakes what waits for many.
		for i, want := range []int{1, 1, 2, 2, 3, 4, 5, 6} {
			if got := begun[fmt.Sprint("a", i)]; got != time.Duration(want)*time.Second {
				t.Errorf("a%d was built after %v, want %ds", i, got, want)
			}
		}
		sub.Close()
		events, _ := sub.Next(t.Context())
		slots := map[string]int{}
		for _, e := range events {
			slots[short(e.Goal)] = e.Count
		}
		if want := map[string]int{"a0": 0, "a1": 3, "a2": 2, "a3": 2, "a4": 4, "a5": 0, "a6": 4, "a7": 0}; !maps.Equal(slots, want) {
			t.Errorf("slots that are told of: %v, want %v", slots, want)
		}
		go n.Realise(t.Context(), Request{Targets: []store.Path{w.cores("wide", "2")}})
		synctest.Wait()
		if s := n.Status(); len(s.Running) != 1 || s.Running[0].Slots != 2 {
			t.Errorf("status %+v", s)
		}
		bad := w.cores("bad", "many")
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{bad}}); !errors.Is(err, store.ErrBadExpr) {
			t.Errorf("got %v, want ErrBadExpr", err)
		}
	})
}

// While the machine is short of something, only one goal runs.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var targets []store.Path
		for i := range 10 {
			targets = append(targets, w.drv(fmt.Sprint("a", i)))
		}
		n := w.start(t, 4)
		begin := time.Now()
		done := make(chan error)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: targets})
			done <- err
		}()
		time.Sleep(500 * time.Millisecond)
		n.Hold("memory is short")
		if s := n.Status(); s.Held != "memory is short" || len(s.Running) != 4 {
			t.Errorf("%+v", s)
		}
		time.Sleep(2 * time.Second)
		if got := len(w.begun()); got != 6 {
			t.Errorf("%d begun, want 4 and then 1 at a time", got)
		}
		n.Hold("")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := time.Since(begin); got != 4500*time.Millisecond && got != 4*time.Second {
			t.Errorf("took %v", got)
		}
	})
}
