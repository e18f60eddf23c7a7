package normaliser

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"storefs/store"
)

// chain3 is c ← b ← a.
func chain3(w *world) store.Path {
	w.drv("c")
	w.drv("b", "c")
	return w.drv("a", "b")
}

func TestOrphans(t *testing.T) {
	for _, test := range []struct {
		name      string
		orphans   Orphans
		cancelled []string
		built     []string
	}{
		{"keep", Orphans{}, nil, []string{"c", "b", "a"}},
		{"cancel", Orphans{Cancel: true}, []string{"c"}, nil},
		{"grace", Orphans{Cancel: true, Grace: time.Second}, []string{"b"}, []string{"c"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				a := chain3(w)
				n := w.start(t, 1)
				ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, errors.New("Ctrl-C"))
				defer cancel()
				begin := time.Now()
				_, err := n.Realise(ctx, Request{Targets: []store.Path{a}, Orphans: test.orphans})
				if !errors.Is(err, store.ErrCancelled) || time.Since(begin) != 500*time.Millisecond {
					t.Errorf("error %v after %v", err, time.Since(begin))
				}
				time.Sleep(time.Minute)
				if !slices.Equal(w.cancelled(), test.cancelled) || !slices.Equal(w.built(), test.built) {
					t.Errorf("cancelled %v, built %v", w.cancelled(), w.built())
				}
				if s := n.Status(); s.Requests+s.Waiting+s.Buildable+len(s.Running) != 0 {
					t.Errorf("left over: %+v", s)
				}
				if len(w.failures) != 0 {
					t.Errorf("remembered %v", w.failures)
				}
			})
		})
	}
}

func TestOrphansWantedByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := chain3(w)
		other := w.drv("other", "c")
		n := w.start(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		got := make(chan error)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{other}})
			got <- err
		}()
		n.Realise(ctx, Request{Targets: []store.Path{a}, Orphans: Orphans{Cancel: true}})
		if err := <-got; err != nil {
			t.Error(err)
		}
		if !slices.Equal(w.begun(), []string{"c", "other"}) {
			t.Errorf("begun %v", w.begun())
		}
	})
}

// Somebody wants a goal again while it is still being stopped.
func TestWantedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.drv("a")
		w.stubborn = time.Minute
		n := w.start(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		n.Realise(ctx, Request{Targets: []store.Path{a}, Orphans: Orphans{Cancel: true}})
		begin := time.Now()
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}}); err != nil {
			t.Fatal(err)
		}
		if !w.isValid("a") || time.Since(begin) != time.Minute+time.Second || len(w.begun()) != 2 {
			t.Errorf("valid: %v after %v, begun %v", w.isValid("a"), time.Since(begin), w.begun())
		}
	})
}

func TestGraceIsOverWhenSomebodyComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.drv("a")
		w.takes["a"] = 10 * time.Second
		n := w.start(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n.Realise(ctx, Request{Targets: []store.Path{a}, Orphans: Orphans{Cancel: true, Grace: 2 * time.Second}})
		time.Sleep(time.Second)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}}); err != nil {
			t.Fatal(err)
		}
		if len(w.begun()) != 1 {
			t.Errorf("begun %v", w.begun())
		}
	})
}

func TestCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := chain3(w)
		n := w.start(t, 1)
		errs := make(chan error, 2)
		for _, target := range []store.Path{a, path("c.drv")} {
			go func() {
				_, err := n.Realise(t.Context(), Request{Targets: []store.Path{target}})
				errs <- err
			}()
		}
		synctest.Wait()
		begin := time.Now()
		if err := n.Close(t.Context()); err != nil || time.Since(begin) != time.Second {
			t.Errorf("close: %v after %v", err, time.Since(begin))
		}
		if err := <-errs; !errors.Is(err, store.ErrCancelled) {
			t.Errorf("a: %v", err)
		}
		if err := <-errs; err != nil {
			t.Errorf("c, which was running: %v", err)
		}
		if !w.isValid("c") || len(w.begun()) != 1 {
			t.Errorf("begun %v", w.begun())
		}
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}}); !errors.Is(err, store.ErrCancelled) {
			t.Errorf("after close: %v", err)
		}
		if s := n.Status(); s.Requests != 0 {
			t.Errorf("after close: %+v", s)
		}
	})
}

func TestCloseCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		c := w.drv("c")
		w.takes["c"] = time.Hour
		n := w.start(t, 1)
		got := make(chan error, 1)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{c}})
			got <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		if err := n.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 3*time.Second {
			t.Errorf("close: %v after %v", err, time.Since(begin))
		}
		if err := <-got; !errors.Is(err, store.ErrCancelled) {
			t.Errorf("c: %v", err)
		}
		if len(w.failures) != 0 {
			t.Errorf("remembered %v", w.failures)
		}
	})
}

// What began when an input was in place is dropped with it; its worker ends later.
func TestCloseWhileInputIsNotRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = 10 * time.Second
		w.unregistrable["a"] = true
		w.drv("a")
		b := w.old("b", []string{"b"}, path("a.drv"))
		n := New(Options{Store: w, Builder: w, Jobs: 2})
		done := make(chan error, 1)
		go func() {
			_, err := n.Realise(context.Background(), Request{Targets: []store.Path{b}})
			done <- err
		}()
		time.Sleep(5 * time.Second) // b is built, and waits for the registration of a
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := n.Close(ctx); err == nil {
			t.Error("nothing was cancelled")
		}
		if err := <-done; !errors.Is(err, store.ErrCancelled) {
			t.Errorf("%v", err)
		}
	})
}

// Waiting for another process is not worth waiting for.
func TestCloseWhileLockedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("a")
		w.drv("b")
		w.drv("c")
		heldA, heldB := make(chan struct{}), make(chan struct{})
		w.locks[path("a")], w.locks[path("b")] = heldA, heldB
		n := w.start(t, 1)
		errs := make(chan error, 3)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: paths("a", "b", "c"), KeepGoing: true})
			errs <- err
		}()
		time.Sleep(time.Second)
		close(heldA) // but c has the slot
		synctest.Wait()
		begin := time.Now()
		if err := n.Close(t.Context()); err != nil || time.Since(begin) > time.Second {
			t.Errorf("close: %v after %v", err, time.Since(begin))
		}
		if err := <-errs; !errors.Is(err, store.ErrCancelled) {
			t.Errorf("error %v", err)
		}
		if !slices.Equal(w.begun(), []string{"c"}) || !w.isValid("c") {
			t.Errorf("begun %v", w.begun())
		}
	})
}
