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

// Who has waited for what is cancelled hears of it, also through what needs it; what
// only that needs ends with it, and the next one to ask builds it.
func TestCancel(t *testing.T) {
	for _, test := range []struct {
		name      string
		after     time.Duration
		cancel    string // target
		ended     []string
		err       bool // of who wants a
		cancelled []string
		built     []string
	}{
		{"what waits", 500 * time.Millisecond, "a", []string{"a.drv"}, true, []string{"c"}, nil},
		{"its derivation", 500 * time.Millisecond, "a.drv", []string{"a.drv"}, true, []string{"c"}, nil},
		{"what runs", 500 * time.Millisecond, "c", []string{"c.drv"}, true, []string{"c"}, nil},
		{"between", 1500 * time.Millisecond, "b", []string{"b.drv"}, true, []string{"b"}, []string{"c"}},
		{"what is realised", 1500 * time.Millisecond, "c", []string{""}, false, nil, []string{"c", "b", "a"}},
		{"something else", 500 * time.Millisecond, "other", []string{""}, false, nil, []string{"c", "b", "a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				a := chain3(w)
				w.drv("other")
				n := w.start(t, 1)
				got := make(chan error)
				go func() {
					_, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}, Urgent: true})
					got <- err
				}()
				time.Sleep(test.after)
				ended, err := n.Cancel(t.Context(), paths(test.cancel))
				var endedNames []string
				for _, p := range ended {
					if p == "" {
						endedNames = append(endedNames, "")
						continue
					}
					endedNames = append(endedNames, p.Name())
				}
				if err != nil || !slices.Equal(endedNames, test.ended) {
					t.Errorf("ended %v, error %v", ended, err)
				}
				err = <-got
				if errors.Is(err, store.ErrCancelled) != test.err || (err != nil) != test.err {
					t.Errorf("who wants a: %v", err)
				}
				if f, ok := errors.AsType[*store.Failure](err); test.err && (!ok || f.Message != cancelledMessage) {
					t.Errorf("who wants a: %#v", err)
				}
				time.Sleep(time.Minute)
				if !slices.Equal(w.cancelled(), test.cancelled) || !slices.Equal(w.built(), test.built) {
					t.Errorf("cancelled %v, built %v", w.cancelled(), w.built())
				}
				if f, _ := w.Failure(a); (f != nil && errors.Is(f, store.ErrCancelled)) != test.err {
					t.Errorf("remembered %v", f)
				}
				if s := n.Status(); s.Requests+s.Waiting+s.Buildable+len(s.Running) != 0 {
					t.Errorf("left over: %+v", s)
				}
				if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}}); err != nil || !w.isValid("a") {
					t.Errorf("again: %v", err)
				}
				if len(w.failures) != 0 {
					t.Errorf("remembered %v", w.failures)
				}
			})
		})
	}
}

// What others need as well goes on for them.
func TestCancelWhatOthersNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := chain3(w)
		other := w.drv("other", "c")
		n := w.start(t, 1)
		got := make(chan error)
		for _, target := range []store.Path{a, other} {
			go func() {
				_, err := n.Realise(t.Context(), Request{Targets: []store.Path{target}})
				got <- err
			}()
		}
		time.Sleep(500 * time.Millisecond)
		n.Cancel(t.Context(), paths("a"))
		if err := <-got; !errors.Is(err, store.ErrCancelled) {
			t.Error(err)
		}
		if err := <-got; err != nil || !slices.Equal(w.begun(), []string{"c", "other"}) {
			t.Errorf("%v, begun %v", err, w.begun())
		}
	})
}

// It returns when the builder has ended, or when nobody waits for that any more.
func TestCancelAwaitsTheBuilder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.stubborn = time.Minute
		a := w.drv("a")
		n := w.start(t, 1)
		go n.Realise(t.Context(), Request{Targets: []store.Path{a}})
		time.Sleep(500 * time.Millisecond)
		begin := time.Now()
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, err := n.Cancel(ctx, paths("a")); !errors.Is(err, store.ErrCancelled) || time.Since(begin) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		ended, err := n.Cancel(t.Context(), paths("a"))
		if err != nil || ended[0] != path("a.drv") || time.Since(begin) != time.Minute || len(w.cancelled()) != 1 {
			t.Errorf("%v, %v after %v", ended, err, time.Since(begin))
		}
	})
}

// All is what was asked for, by whomever, and what goes on though nobody wants it.
func TestCancelAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := chain3(w)
		alone, other := w.drv("alone"), w.drv("other")
		n := w.start(t, 3)
		ctx, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer leave()
		if _, err := n.Realise(ctx, Request{Targets: []store.Path{alone}}); !errors.Is(err, store.ErrCancelled) {
			t.Error(err)
		}
		got := make(chan error)
		for _, target := range []store.Path{a, other, other} {
			go func() {
				_, err := n.Realise(t.Context(), Request{Targets: []store.Path{target}, KeepGoing: true})
				got <- err
			}()
		}
		time.Sleep(100 * time.Millisecond)
		ended, err := n.CancelAll(t.Context())
		if err != nil || !slices.Equal(sorted(names(ended)), []string{"a.drv", "alone.drv", "other.drv"}) {
			t.Errorf("%v, %v", ended, err)
		}
		for range 3 {
			if err := <-got; !errors.Is(err, store.ErrCancelled) {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute)
		if !slices.Equal(sorted(w.cancelled()), []string{"alone", "c", "other"}) || len(w.built()) != 0 {
			t.Errorf("cancelled %v, built %v", w.cancelled(), w.built())
		}
		if ended, err := n.CancelAll(t.Context()); err != nil || len(ended) != 0 {
			t.Errorf("again: %v, %v", ended, err)
		}
	})
}

// Callers and those who cancel come as they like. The graph stays whole; nobody hears
// of anything else than what the model says or that it was cancelled, and who asks again
// gets what the model says. (Where a substitute was cancelled, what the path's own derivation comes to
// counts, which the model does not look at.)
func TestRandomCancels(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		size := rapid.IntRange(1, 30).Draw(rt, "size")
		randomWorld(rt, w, size)
		m := &model{w: w, state: map[string]bool{}, begun: map[string]bool{}}
		options := Options{Jobs: rapid.IntRange(1, 4).Draw(rt, "jobs"), JobsPerUser: rapid.IntRange(0, 3).Draw(rt, "jobs per user")}
		callers := make([]caller, rapid.IntRange(1, 6).Draw(rt, "callers"))
		for i := range callers {
			callers[i] = randomCaller(rt, m, size)
		}
		type cancel struct {
			after  time.Duration
			target string // "" for all
		}
		cancels := make([]cancel, rapid.IntRange(1, 6).Draw(rt, "cancels"))
		for i := range cancels {
			cancels[i].after = time.Duration(rapid.IntRange(0, 25000).Draw(rt, "cancelled after")) * time.Millisecond
			if rapid.IntRange(0, 3).Draw(rt, "all") > 0 {
				suffix := rapid.SampledFrom([]string{"", ".drv"}).Draw(rt, "suffix")
				cancels[i].target = fmt.Sprint("n", rapid.IntRange(0, size-1).Draw(rt, "cancelled"), suffix)
			}
		}
		bubble(t, rt, func(t *testing.T, bad *complaints) {
			n := w.startWith(t, options)
			var all sync.WaitGroup
			for _, c := range cancels {
				all.Go(func() {
					time.Sleep(c.after)
					var err error
					if c.target == "" {
						_, err = n.CancelAll(t.Context())
					} else {
						_, err = n.Cancel(t.Context(), paths(c.target))
					}
					if err != nil {
						bad.Errorf("cancel %q: %v", c.target, err)
					}
					checkNow(bad, n)
				})
			}
			for _, c := range callers {
				all.Go(func() {
					time.Sleep(c.after)
					ctx := t.Context()
					if !c.stays {
						var leave context.CancelFunc
						ctx, leave = context.WithTimeout(ctx, c.patience)
						defer leave()
					}
					_, err := n.Realise(ctx, c.request)
					checkNow(bad, n)
					switch {
					case errors.Is(err, store.ErrCancelled), c.request.NoBuild && errors.Is(err, store.ErrNotAllowed):
					case err != nil && c.want && len(w.subs) > 0:
					case (err == nil) != c.want:
						bad.Errorf("%s: %v, want realised: %v", c.name, err, c.want)
					}
				})
			}
			all.Wait()
			time.Sleep(time.Hour)
			checkNow(bad, n)
			if s := n.Status(); s.Requests+s.Waiting+s.Buildable+len(s.Running)+len(s.Waiters) != 0 {
				bad.Errorf("left over: %+v", s)
			}
			for _, c := range callers {
				_, err := n.Realise(t.Context(), Request{Targets: c.request.Targets})
				if (err == nil) != c.want {
					bad.Errorf("%s, afterwards: %v, want realised: %v", c.name, err, c.want)
				}
			}
			if len(w.built()) != len(slices.Compact(sorted(w.built()))) {
				bad.Errorf("built more than once: %v", w.built())
			}
		})
	})
}
