package normaliser

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"storefs/store"
)

func TestDiamondIsBuiltOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("d")
		w.drv("b", "d")
		w.drv("c", "d")
		a := w.drv("a", "b", "c")
		n := w.start(t, 4)
		begin := time.Now()
		res, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}})
		if err != nil {
			t.Fatal(err)
		}
		if got := time.Since(begin); got != 3*time.Second {
			t.Errorf("took %v, want 3s: b and c side by side", got)
		}
		if !slices.Equal(sorted(w.built()), []string{"a", "b", "c", "d"}) {
			t.Errorf("built %v", w.built())
		}
		if !res.Targets[0].Realised || !slices.Equal(res.Targets[0].Paths, paths("a")) {
			t.Errorf("result: %+v", res.Targets[0])
		}
		if w.succ[a] == "" {
			t.Error("a has no successor")
		}
		synctest.Wait() // results are released behind the answer
		if w.released != 4 {
			t.Errorf("%d results released, want 4", w.released)
		}
	})
}

func TestValidNeedsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("b")
		a := w.drv("a", "b")
		w.makeValid("a")
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{a, path("a")}}); err != nil {
			t.Fatal(err)
		}
		if len(w.begun()) != 0 {
			t.Errorf("built %v", w.begun())
		}
		if w.succ[a] == "" {
			t.Error("a was asked for by its derivation, but got no successor")
		}
	})
}

// Outputs and sources may be called like expressions of 2004.
func TestPathsCalledStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("data.store")
		w.takes["data.store"] = time.Second
		source := path("conf.store")
		w.makeValid("conf.store")
		w.exprs[source] = nil // it is none
		targets := []store.Path{path("data.store"), source}
		n := w.start(t, 1)
		for range 2 { // the second time it is there
			res, err := n.Realise(t.Context(), Request{Targets: targets})
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range targets {
				if !res.Targets[i].Realised || !slices.Equal(res.Targets[i].Paths, []store.Path{p}) {
					t.Errorf("result: %+v", res.Targets[i])
				}
			}
		}
		if !w.isValid("data.store") || len(w.built()) != 1 {
			t.Errorf("built %v", w.built())
		}
	})
}

func TestUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.drv("a", "missing")
		n := w.start(t, 1)
		_, err := n.Realise(t.Context(), Request{Targets: []store.Path{path("nothing")}})
		if !errors.Is(err, store.ErrUnknown) {
			t.Errorf("error %v, want unknown", err)
		}
		_, err = n.Realise(t.Context(), Request{Targets: []store.Path{a}})
		f, ok := errors.AsType[*store.Failure](err)
		if !ok || !errors.Is(err, store.ErrUnknown) || !slices.Equal(names(f.Chain), []string{"a.drv", "missing.drv"}) {
			t.Errorf("error %v, chain %v", err, f)
		}
	})
}

func TestCycleIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("a", "b")
		w.drv("b", "c")
		w.drv("c", "a")
		top := w.drv("top", "a")
		self := w.drv("self", "self")
		n := w.start(t, 1)
		_, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}})
		if !errors.Is(err, store.ErrCycle) {
			t.Fatalf("error %v, want a cycle", err)
		}
		for _, name := range []string{"a.drv", "b.drv", "c.drv"} {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%q does not name %s", err, name)
			}
		}
		_, err = n.Realise(t.Context(), Request{Targets: []store.Path{self}})
		if !errors.Is(err, store.ErrCycle) || strings.Count(err.Error(), " needs ") != 1 {
			t.Errorf("error %v, want a cycle of one", err)
		}
		if len(w.begun()) != 0 {
			t.Errorf("built %v", w.begun())
		}
	})
}
