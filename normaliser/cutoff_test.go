package normaliser

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"storefs/event"
	"storefs/store"
)

// counted realises and counts; what comes of it must add up to what the status
// says.
type counted struct {
	*Normaliser
	t   *testing.T
	sum event.Counts
}

func (n *counted) expect(want event.Counts, targets ...store.Path) {
	n.t.Helper()
	res, err := n.Realise(n.t.Context(), Request{Targets: targets, KeepGoing: true, Planned: func([]store.Path) {}})
	if (err != nil) != (want.Failed > 0) {
		n.t.Errorf("%v: %v", names(targets), err)
	}
	if res.Counts != want {
		n.t.Errorf("%v: %v, want %v", names(targets), res.Counts, want)
	}
	n.sum = n.sum.Plus(want)
	if got := n.Status().Counts; got != n.sum {
		n.t.Errorf("after %v, since it began: %v, want %v", names(targets), got, n.sum)
	}
}

// What is fetched is fetched otherwise, and is the same.
func TestCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("fetch")
		w.drv("lib", "fetch")
		old := w.drv("app", "lib", "fetch")
		w.twin("fetch2", "fetch")
		w.twin("lib2", "lib", "fetch2")
		app := w.twin("app2", "app", "lib2", "fetch2")
		n := &counted{Normaliser: w.start(t, 2), t: t}
		n.expect(event.Counts{Built: 3}, old)
		n.expect(event.Counts{Reused: 1}, old)
		n.expect(event.Counts{Reused: 1}, path("app"))
		n.expect(event.Counts{CutOff: 1}, app)
		n.expect(event.Counts{Reused: 1}, app)

		// Something above is really new: what it needs is looked at, and no more.
		n.expect(event.Counts{Built: 1, CutOff: 2, Reused: 2}, w.drv("new", "fetch", "lib2", "fetch2", "app2"))
		w.drv("tool")
		n.expect(event.Counts{Built: 2, Reused: 2}, w.drv("newer", "tool", "lib2", "fetch2"))
		if got := w.built(); len(got) != 6 {
			t.Errorf("built %v", got)
		}
	})
}

// Both ways are asked for before either has been gone.
func TestCutOffInOneRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("fetch")
		old := w.drv("app", "fetch")
		w.twin("fetch2", "fetch")
		app := w.twin("app2", "app", "fetch2")
		var bus event.Bus
		sub := bus.Subscribe(func(e event.Event) bool { return e.Kind == event.Done })
		n := &counted{Normaliser: w.startWith(t, Options{Jobs: 1, Events: &bus}), t: t}
		n.expect(event.Counts{Built: 2, CutOff: 2}, old, app)
		synctest.Wait()
		sub.Close()
		var outcomes []string
		events, _ := sub.Next(t.Context())
		for _, e := range events {
			outcomes = append(outcomes, e.Text)
		}
		if want := []string{"built", "built", "cut off", "cut off"}; !slices.Equal(sorted(outcomes), want) {
			t.Errorf("events of %q, want %q", outcomes, want)
		}
		n.expect(event.Counts{Reused: 2}, old, app)
		for _, drv := range []string{"fetch", "app", "fetch2", "app2"} {
			if w.succ[path(drv+".drv")] == "" {
				t.Errorf("%s has no successor", drv)
			}
		}
	})
}

func TestCounts(t *testing.T) {
	for _, test := range []struct {
		name  string
		world func(w *world) store.Path
		want  event.Counts
	}{
		{"some outputs are valid", func(w *world) store.Path {
			w.drvOutputs("in", []string{"out", "dev"})
			w.makeValid("in")
			return w.drv("top", "in")
		}, event.Counts{Built: 1, Reused: 1}},
		{"a path", func(w *world) store.Path {
			w.drv("in")
			w.makeValid("in")
			return path("in")
		}, event.Counts{Reused: 1}},
		{"a substitute", func(w *world) store.Path {
			w.drv("in")
			w.substitute(path("in"), w.old("cache", []string{"in"}))
			return w.drv("top", "in")
		}, event.Counts{Built: 2, Substituted: 1}}, // top and the substitute; in, as a path
		{"a closure", func(w *world) store.Path {
			for _, name := range []string{"a", "b", "c"} {
				w.drv(name)
			}
			w.makeValid("a")
			return w.closure("all", "a", "b", "c")
		}, event.Counts{Built: 2}},
		{"a failure", func(w *world) store.Path {
			w.drv("bad")
			w.fails["bad"] = true
			w.drv("old")
			w.makeValid("old")
			w.drv("good", "old")
			return w.drv("top", "bad", "good")
		}, event.Counts{Built: 1, CutOff: 1, Failed: 2}},
		{"the successor of an input cannot be written", func(w *world) store.Path {
			w.drv("old")
			w.makeValid("old")
			w.abnormal = map[string]bool{"old": true}
			return w.drv("top", "old")
		}, event.Counts{Built: 1, Reused: 1}},
		{"the successor of the target cannot be written", func(w *world) store.Path {
			w.makeValid("old")
			w.abnormal = map[string]bool{"old": true}
			return w.drv("old")
		}, event.Counts{Failed: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				target := test.world(w)
				n := &counted{Normaliser: w.start(t, 2), t: t}
				n.expect(test.want, target)
			})
		})
	}
}

// Requests count what is theirs, also when they share it, and also when they came
// later.
func TestCountsOfEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("shared")
		targets := []store.Path{w.drv("a", "shared"), w.drv("b", "shared")}
		n := w.start(t, 2)
		type answer struct {
			counts event.Counts
			err    error
		}
		answers := make(chan answer)
		for _, p := range targets {
			go func() {
				res, err := n.Realise(t.Context(), Request{Targets: []store.Path{p}, Planned: func([]store.Path) {}})
				answers <- answer{res.Counts, err}
			}()
		}
		for range targets {
			if a := <-answers; a.err != nil || a.counts != (event.Counts{Built: 2}) {
				t.Errorf("%v, %v", a.counts, a.err)
			}
		}
		if got := n.Status().Counts; got != (event.Counts{Built: 3}) {
			t.Errorf("all: %v", got)
		}
	})
}

// A caller who goes does not wait until the successor of an input is written.
func TestCutOffIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("old")
		w.makeValid("old")
		w.normalising = make(chan struct{})
		n := w.start(t, 2)
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := make(chan error)
		go func() {
			_, err := n.Realise(ctx, Request{Targets: []store.Path{w.drv("top", "old")}})
			cancelled <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-cancelled; !errors.Is(err, store.ErrCancelled) {
			t.Errorf("%v", err)
		}
	})
}
