package normaliser

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"storefs/event"
	"storefs/store"
)

// Whatever waits in the background, what is asked for begins at once.
func TestDemandBeforeBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var spare, asked []store.Path
		for i := range 10 {
			spare = append(spare, w.drv(fmt.Sprint("spare", i)))
			w.expected[spare[i]] = time.Hour // the longest path, but of no weight here
			asked = append(asked, w.drv(fmt.Sprint("asked", i)))
		}
		n := w.startWith(t, Options{Jobs: 3, BackgroundJobs: 2})
		done := make(chan error, 1)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: spare, Background: true})
			done <- err
		}()
		synctest.Wait()
		if want := []string{"spare0", "spare1"}; !slices.Equal(sorted(w.begun()), want) {
			t.Fatalf("begun: %v, want %v", w.begun(), want)
		}
		for _, r := range n.Status().Running {
			if !r.Background {
				t.Errorf("%+v: not shown as in the background", r)
			}
		}
		time.Sleep(time.Second / 2)
		begin := time.Now()
		if _, err := n.Realise(t.Context(), Request{Targets: asked}); err != nil {
			t.Fatal(err)
		}
		// 10 builds of a second in 3 slots, as if nothing else were there.
		if took := time.Since(begin); took != 4*time.Second {
			t.Errorf("it took %v, want 4s", took)
		}
		// The last one leaves two slots free, of which one is used in the same turn.
		for _, name := range w.begun()[2:11] {
			if !strings.HasPrefix(name, "asked") {
				t.Errorf("begun: %v", w.begun())
			}
		}
		if c := sorted(w.cancelled()); !slices.Equal(c, []string{"spare0", "spare1"}) {
			t.Errorf("given up: %v", c)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for _, p := range spare {
			if !w.isValid(short(p)) {
				t.Errorf("%s was not built in the end", p)
			}
		}
		if w.most > 5 { // for a moment: until who is cancelled has ended
			t.Errorf("%d at a time", w.most)
		}
	})
}

// What a user may not have yet, nobody in the background waits for.
func TestBackgroundBesideALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		asked := []store.Path{w.drv("a"), w.drv("b"), w.drv("c")}
		spare, other := w.drv("spare"), w.drv("other")
		for _, name := range []string{"a", "b", "spare"} {
			w.takes[name] = time.Minute
		}
		n := w.startWith(t, Options{Jobs: 4, JobsPerUser: 1})
		go n.Realise(t.Context(), Request{Targets: asked, Caller: &Caller{UID: 1}})
		synctest.Wait()
		go n.Realise(t.Context(), Request{Targets: []store.Path{spare}, Background: true})
		synctest.Wait()
		if want := []string{"a", "spare"}; !slices.Equal(w.begun(), want) {
			t.Errorf("begun %v, want %v", w.begun(), want)
		}
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{other}, Caller: &Caller{UID: 2}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
	})
}

// What gave way is told of when it begins anew.
func TestBackgroundBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.takes["spare"] = 10 * time.Second
		spare, asked := w.drv("spare"), w.drv("asked")
		var bus event.Bus
		sub := bus.Subscribe(nil)
		n := w.startWith(t, Options{Jobs: 1, Events: &bus})
		done := make(chan error, 1)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{spare}, Background: true})
			done <- err
		}()
		time.Sleep(5 * time.Second)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{asked}}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		sub.Close()
		events, _ := sub.Next(t.Context())
		begins := []string{"started", "phase build", "log building spare"}
		want := slices.Concat([]string{"added"}, begins, begins, []string{"phase sync", "freed", "phase register", "done built 10s"})
		if got := story(events, "spare.drv"); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// The last slot stays free as long as anybody is there who may want it.
func TestBackgroundLeavesASlot(t *testing.T) {
	for _, c := range []struct{ jobs, beside int }{{1, 0}, {2, 0}, {3, 1}, {4, 2}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.takes["long"] = 10 * time.Second
			long := w.drv("long")
			var spare []store.Path
			for i := range 5 {
				spare = append(spare, w.drv(fmt.Sprint("spare", i)))
			}
			n := w.startWith(t, Options{Jobs: c.jobs, BackgroundJobs: 4})
			go n.Realise(t.Context(), Request{Targets: []store.Path{long}})
			synctest.Wait()
			done := make(chan error, 1)
			go func() {
				_, err := n.Realise(t.Context(), Request{Targets: spare, Background: true})
				done <- err
			}()
			synctest.Wait()
			if beside := w.running() - 1; beside != c.beside {
				t.Errorf("%d slots: %d goals in the background beside the one that was asked for, want %d", c.jobs, beside, c.beside)
			}
			time.Sleep(10*time.Second + calm/2)
			synctest.Wait()
			if c.jobs == 1 && w.running() != 0 {
				t.Errorf("the last slot was taken before it was calm")
			}
			time.Sleep(calm)
			synctest.Wait()
			if n := w.running(); c.beside == 0 && n != min(c.jobs, 4) {
				t.Errorf("%d slots: %d goals in the background when nobody else is there", c.jobs, n)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// What is built in the background and then asked for is not built twice, and no
// longer gives way; nor does what it needs.
func TestBackgroundBecomesDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.takes["base"] = 10 * time.Second
		w.drv("base")
		top := w.drv("top", "base")
		n := w.startWith(t, Options{Jobs: 1})
		go n.Realise(t.Context(), Request{Targets: []store.Path{top}, Background: true})
		time.Sleep(5 * time.Second)
		begin := time.Now()
		done := make(chan time.Duration, 1)
		go func() {
			_, _ = n.Realise(t.Context(), Request{Targets: []store.Path{top}})
			done <- time.Since(begin)
		}()
		synctest.Wait()
		if s := n.Status(); len(s.Running) != 1 || s.Running[0].Background {
			t.Errorf("status: %+v", s.Running)
		}
		select {
		case <-w.jobs["base"].Wanted:
		default:
			t.Error("its builder does not hear that somebody waits now")
		}
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{w.drv("other")}}); err != nil {
			t.Fatal(err)
		}
		if took := <-done; took != 6*time.Second {
			t.Errorf("it took another %v, want 6s", took)
		}
		if w.jobs["top"].Wanted != nil {
			t.Error("the builder of what is asked for runs in the background")
		}
		if c := w.cancelled(); len(c) > 0 || len(w.begun()) != 3 {
			t.Errorf("given up: %v, begun %v", c, w.begun())
		}
	})
}

// A failure that nobody has asked for bans nobody.
func TestBackgroundFailureIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.fails["bad"] = true
		w.drv("bad")
		top := w.drv("top", "bad")
		n := w.start(t, 2)
		_, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}, Background: true})
		var f *store.Failure
		if !errors.As(err, &f) || f.Cause != store.CauseBuilder {
			t.Fatalf("%v", err)
		}
		if len(w.failures) > 0 {
			t.Errorf("remembered: %v", w.failures)
		}
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}}); err == nil || len(w.failures) != 2 {
			t.Errorf("%v, remembered: %v", err, w.failures)
		}
	})
}

// Slots that are taken back and given again, at random, with goals that are
// shared: everything is realised in the end, and demand never waits for the
// background.
func TestBackgroundAtRandom(t *testing.T) {
	for seed := range 20 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			const size = 30
			for i := range size {
				var ins []string
				for j := range i {
					if (i*7+j*13+seed)%5 == 0 {
						ins = append(ins, fmt.Sprint("g", j))
					}
				}
				w.drv(fmt.Sprint("g", i), ins...)
				w.takes[fmt.Sprint("g", i)] = time.Duration(1+(i*seed)%7) * time.Second
			}
			n := w.startWith(t, Options{Jobs: 1 + seed%3, BackgroundJobs: 1 + seed%2})
			errs := make(chan error, 16)
			for i := range 16 {
				go func() {
					time.Sleep(time.Duration(i*seed%11) * time.Second)
					targets := []store.Path{path(fmt.Sprint("g", (i*5+seed)%size))}
					_, err := n.Realise(context.Background(), Request{Targets: targets, Background: i%2 == 0})
					errs <- err
				}()
			}
			for range 16 {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			s := n.Status()
			if len(s.Running) > 0 || s.Waiting+s.Buildable > 0 {
				t.Errorf("seed %d: left over: %+v", seed, s)
			}
		})
	}
}
