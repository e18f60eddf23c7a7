package normaliser

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"storefs/event"
	"storefs/store"
)

// A build waits for its inputs to be in place, and its caller for everything to be
// registered.
func TestBeginsBeforeInputsAreRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = time.Minute
		w.drv("a")
		w.drv("b", "a")
		w.drv("c", "b")
		top := w.drv("top", "a", "c")
		n := w.start(t, 1)
		begin := time.Now()
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}}); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(begin); got != 4*time.Second+time.Minute {
			t.Errorf("it took %v, want the builders' time and that of the last registration", got)
		}
		// Whoever counts what was done hears of all of it before its caller ends.
		if s := n.Status(); s.Done != 4 {
			t.Errorf("%d done, want 4", s.Done)
		}
		for _, name := range []string{"a", "b", "c", "top"} {
			if ok, _ := w.Valid(path(name)); !ok {
				t.Errorf("%s is not valid", name)
			}
		}
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// If the registration of an input fails, that is why whatever began with it fails,
// however far that has come.
func TestInputIsNotRegistered(t *testing.T) {
	for _, test := range []struct {
		name  string
		takes time.Duration // the build that began early
		keep  bool
	}{
		{"while it is built", time.Hour, false},
		{"when it is built", time.Second, false},
		{"keep going", time.Hour, true},
		{"when it is built, keep going", time.Second, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.register = time.Minute
				w.unregistrable["a"] = true
				w.drv("a")
				w.drv("b", "a")
				w.takes["b"] = test.takes
				w.drv("c", "b")
				w.drv("other")
				w.takes["other"] = 2 * time.Hour
				top := w.drv("top", "c", "other")
				n := w.start(t, 2)
				begin := time.Now()
				_, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}, KeepGoing: test.keep})
				var f *store.Failure
				if !errors.As(err, &f) || !strings.Contains(f.Message, "the disk is full") {
					t.Fatalf("%v", err)
				}
				if want := []store.Path{top, path("c.drv"), path("b.drv"), path("a.drv")}; !slices.Equal(f.Chain, want) {
					t.Errorf("chain %v, want %v", f.Chain, want)
				}
				if got := time.Since(begin); test.keep != (got > time.Hour) {
					t.Errorf("it took %v", got)
				}
				if err := n.Close(t.Context()); err != nil {
					t.Error(err)
				}
				for _, name := range []string{"a", "b", "c"} {
					if ok, _ := w.Valid(path(name)); ok {
						t.Errorf("%s is valid", name)
					}
				}
				// It may work the next time.
				w.unregistrable["a"] = false
				again := w.start(t, 2)
				if _, err := again.Realise(t.Context(), Request{Targets: []store.Path{top}}); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What was built before what it needs turned out not to be wanted by anybody any
// more is kept, and so is what it needs.
func TestCallerGoesBeforeInputsAreRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = time.Minute
		w.drv("a")
		top := w.drv("top", "a")
		w.takes["top"] = time.Hour
		n := w.start(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := n.Realise(ctx, Request{Targets: []store.Path{top}, Orphans: Orphans{Cancel: true}}); !errors.Is(err, store.ErrCancelled) {
			t.Fatalf("%v", err)
		}
		begin := time.Now()
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if ok, _ := w.Valid(path("a")); !ok {
			t.Error("a was built, and is not valid")
		}
		if got := time.Since(begin); got > time.Minute {
			t.Errorf("to close took %v", got)
		}
	})
}

// With KeepGoing, what cannot be built any more ends when all of its inputs have
// ended, and not when they are in place.
func TestDoomedWaitsForRegistrations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = time.Minute
		w.drv("bad")
		w.fails["bad"] = true
		w.drv("good")
		w.takes["good"] = 5 * time.Second
		top := w.drv("top", "bad", "good")
		n := w.start(t, 2)
		begin := time.Now()
		_, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}, KeepGoing: true})
		if err == nil || time.Since(begin) != 65*time.Second || !w.isValid("good") {
			t.Errorf("after %v: %v, good is valid: %v", time.Since(begin), err, w.isValid("good"))
		}
	})
}

// It does not let them take their time, also if it was the last of several failures
// that left nothing else to wait for.
func TestDoomedHurriesRegistrations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = time.Minute
		for i, name := range []string{"bad", "good", "worse"} {
			w.drv(name)
			w.takes[name] = time.Duration(i+1) * time.Second
			w.fails[name] = name != "good"
		}
		top := w.drv("top", "bad", "good", "worse")
		n := w.start(t, 3)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}, KeepGoing: true}); err == nil {
			t.Error("no error")
		}
		if w.patient["good"] {
			t.Error("a caller waits for a registration that waits for others")
		}
	})
}

// What waited for a slot when one of its inputs came to nothing gets none.
func TestDoomedGetsNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = time.Minute
		w.unregistrable["unkept"] = true
		for i, name := range []string{"unkept", "kept", "busy"} {
			w.drv(name)
			w.expected[path(name+".drv")] = time.Duration(3-i) * time.Hour
		}
		w.takes["busy"] = 59*time.Second + 500*time.Millisecond
		targets := []store.Path{w.drv("top", "unkept", "kept"), path("busy.drv")}
		var bus event.Bus
		sub := bus.Subscribe(func(e event.Event) bool { return e.Kind == event.Started })
		n := w.startWith(t, Options{Jobs: 1, Events: &bus})
		_, err := n.Realise(t.Context(), Request{Targets: targets, KeepGoing: true})
		sub.Close()
		events, _ := sub.Next(t.Context())
		var got []string
		for _, e := range events {
			got = append(got, short(e.Goal))
		}
		// unkept ends after 61 s, busy gives its slot back half a second later, and
		// kept is registered after 62 s.
		if want := []string{"unkept", "kept", "busy"}; err == nil || !slices.Equal(got, want) {
			t.Errorf("%v: started %v, want %v", err, got, want)
		}
	})
}
