package normaliser

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"storefs/builder"
	"storefs/event"
	"storefs/store"
)

func TestBanned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("bad")
		w.fails["bad"] = true
		w.takes["bad"] = 0
		w.drv("a", "bad")
		n := w.start(t, 1)
		b := Banned{
			Realiser: RealiserFunc(func(ctx context.Context, p store.Path) error {
				_, err := n.Realise(ctx, Request{Targets: []store.Path{p}})
				return err
			}),
			Memory: w,
			TTL:    time.Minute,
		}
		builds := func(want int) {
			t.Helper()
			err := b.Realise(t.Context(), path("a"))
			f, ok := errors.AsType[*store.Failure](err)
			if !ok || f.Path != path("bad.drv") || len(f.Chain) != 2 {
				t.Errorf("error %v", err)
			}
			if len(w.begun()) != want {
				t.Errorf("%d builds, want %d", len(w.begun()), want)
			}
		}
		builds(1)
		builds(1)
		time.Sleep(59 * time.Second)
		builds(1)
		time.Sleep(time.Second)
		builds(2)
		builds(2)
		// Whoever asks on purpose is not banned, and what then succeeds lifts
		// the ban of those who need it.
		w.fails["bad"] = false
		if _, err := n.Realise(t.Context(), Request{Targets: paths("bad.drv")}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := b.Realise(t.Context(), path("a")); err != nil {
			t.Errorf("the cause is realised, but: %v", err)
		}
	})
}

// What a caller's own limit ends is none of the business of others, neither of those
// who come later nor of those who waited with that caller.
func TestNoBanByAnothersLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			own, owners builder.Limits
			banned      bool
		}{
			{builder.Limits{Timeout: time.Second}, builder.Limits{}, false},
			{builder.Limits{Timeout: time.Second}, builder.Limits{Timeout: 5 * time.Second}, true}, // by its own
			{builder.Limits{Timeout: 7 * time.Second}, builder.Limits{Timeout: 5 * time.Second}, true},
		} {
			w := newWorld()
			w.drv("slow")
			w.takes["slow"] = 10 * time.Second
			w.drv("a", "slow")
			n := w.startWith(t, Options{Jobs: 1, Limits: c.owners})
			b := Banned{
				Realiser: RealiserFunc(func(ctx context.Context, p store.Path) error {
					_, err := n.Realise(ctx, Request{Targets: []store.Path{p}, Limits: c.owners})
					return err
				}),
				Memory: w,
				TTL:    time.Hour,
			}
			beside := make(chan error)
			go func() {
				time.Sleep(time.Millisecond)
				beside <- b.Realise(t.Context(), path("a"))
			}()
			_, err := n.Realise(t.Context(), Request{Targets: paths("slow"), Limits: c.own})
			if !errors.Is(err, store.ErrTimeout) {
				t.Errorf("%v: %v", c, err)
			}
			if f, _ := w.Failure(path("slow.drv")); f == nil || f.OwnLimit != (c.own.Timeout == time.Second) {
				t.Errorf("%v: remembered %+v", c, f)
			}
			if err := <-beside; errors.Is(err, store.ErrTimeout) != c.banned {
				t.Errorf("%v: who waited with it: %v", c, err)
			}
			if err := b.Realise(t.Context(), path("slow")); errors.Is(err, store.ErrTimeout) != c.banned {
				t.Errorf("%v: who came later: %v", c, err)
			}
		}
	})
}

// Nor does it end what another request wants of the same goal, which then begins anew,
// unless something else has failed as well.
func TestAnothersLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			target string
			limits builder.Limits
			cause  store.Cause // "": it is realised
			counts event.Counts
		}{
			{"a", builder.Limits{}, "", event.Counts{Built: 3}},
			{"a", builder.Limits{Timeout: 20 * time.Second}, "", event.Counts{Built: 3}},
			{"a", builder.Limits{Timeout: 2 * time.Second}, store.CauseTimeout, event.Counts{Built: 1, Failed: 2}},
			{"a", builder.Limits{Timeout: time.Second}, store.CauseTimeout, event.Counts{Built: 1, Failed: 2}},
			{"b", builder.Limits{}, store.CauseBuilder, event.Counts{Built: 1, Failed: 3}},
		} {
			w := newWorld()
			w.drv("slow")
			w.takes["slow"] = 10 * time.Second
			w.drv("quick")
			w.takes["quick"] = time.Millisecond
			w.drv("bad", "quick")
			w.takes["bad"] = time.Millisecond
			w.fails["bad"] = true
			w.drv("a", "slow", "quick")
			w.drv("b", "slow", "bad")
			n := w.start(t, 2)
			strict := make(chan error)
			go func() {
				_, err := n.Realise(t.Context(), Request{Targets: paths("slow"), Limits: builder.Limits{Timeout: time.Second}})
				strict <- err
			}()
			time.Sleep(time.Millisecond)
			res, err := n.Realise(t.Context(), Request{Targets: paths(c.target), Limits: c.limits, KeepGoing: true, Planned: func([]store.Path) {}})
			if f, _ := errors.AsType[*store.Failure](err); (f == nil) != (c.cause == "") || f != nil && f.Cause != c.cause {
				t.Errorf("%s, %v: %v", c.target, c.limits, err)
			}
			if res.Counts != c.counts {
				t.Errorf("%s, %v: %+v, want %+v", c.target, c.limits, res.Counts, c.counts)
			}
			if err := <-strict; !errors.Is(err, store.ErrTimeout) {
				t.Errorf("the request with the limit: %v", err)
			}
		}
	})
}

// What is called like an expression of 2004 and is an output is banned by what makes
// it.
func TestBanOfOutputCalledStore(t *testing.T) {
	w := newWorld()
	drv := w.drv("data.store")
	w.failures[drv] = &store.Failure{Path: drv, Cause: store.CauseBuilder, Time: time.Now()}
	b := Banned{
		Realiser: RealiserFunc(func(context.Context, store.Path) error { return nil }),
		Memory:   w,
		TTL:      time.Minute,
	}
	if err := b.Realise(t.Context(), path("data.store")); err != error(w.failures[drv]) {
		t.Errorf("error %v, want the failure of its derivation", err)
	}
}

func TestBanByCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("a")
		called := errors.New("called")
		b := Banned{
			Realiser: RealiserFunc(func(context.Context, store.Path) error { return called }),
			Memory:   w,
			TTL:      time.Minute,
		}
		for cause, ban := range map[store.Cause]time.Duration{
			store.CauseBuilder:     time.Minute,
			store.CauseTimeout:     time.Minute,
			store.CauseCycle:       time.Minute,
			store.CauseNoSpace:     transientBan,
			store.CauseUnreachable: transientBan,
			store.CauseSystem:      transientBan,
			store.CauseCancelled:   transientBan,
		} {
			// A derivation by its output, and a path without one.
			for goal, asked := range map[string]string{"a.drv": "a", "p": "p"} {
				w.failures[path(goal)] = &store.Failure{Path: path(goal), Cause: cause, Time: time.Now()}
				time.Sleep(ban - time.Nanosecond)
				if err := b.Realise(t.Context(), path(asked)); err != error(w.failures[path(goal)]) {
					t.Errorf("%s, %s: %v before the ban is over", cause, asked, err)
				}
				time.Sleep(time.Nanosecond)
				if err := b.Realise(t.Context(), path(asked)); err != called {
					t.Errorf("%s, %s: %v when the ban is over", cause, asked, err)
				}
			}
		}
	})
}
