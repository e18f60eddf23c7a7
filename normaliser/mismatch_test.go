package normaliser

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"storefs/event"
	"storefs/store"
	"storefs/storeexpr"
)

// fixed makes the output of a derivation a fixed one.
func (w *world) fixed(drv store.Path) store.Path {
	d, _ := w.derivation(drv)
	d.Outputs = []storeexpr.Output{{Name: "out", Path: d.Outputs[0].Path, Algo: "sha256", Hash: store.HashOf(store.SHA256, nil).Base16()}}
	return drv
}

// What came in the place of what was promised is valid before anybody hears of the
// failure: so whoever promises just that has nothing to build.
func TestMismatchIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = time.Minute
		w.drv("in")
		wrong := w.fixed(w.drv("wrong", "in"))
		right := w.fixed(w.drv("right", "in"))
		w.mistaken["wrong"] = path("right")
		n := w.start(t, 1)
		_, err := n.Realise(t.Context(), Request{Targets: []store.Path{wrong}})
		if !errors.Is(err, store.ErrHashMismatch) || !strings.Contains(err.Error(), "kept: <nil>") {
			t.Fatal(err)
		}
		if !w.isValid("right") || w.isValid("wrong") {
			t.Errorf("valid: %t, what was promised: %t", w.isValid("right"), w.isValid("wrong"))
		}
		if f := w.failures[wrong]; f == nil || f.Cause != store.CauseHash {
			t.Errorf("remembered: %v", w.failures)
		}
		res, err := n.Realise(t.Context(), Request{Targets: []store.Path{right}})
		if err != nil || res.Counts != (event.Counts{CutOff: 1}) {
			t.Errorf("%v, %+v", err, res)
		}
		if got := strings.Join(w.begun(), " "); got != "in wrong" {
			t.Errorf("begun: %s", got)
		}
	})
}

// What came stays also if nobody waits any more when the builder has ended.
func TestMismatchIsKeptOfWhatIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = time.Minute
		wrong := w.fixed(w.drv("wrong"))
		w.mistaken["wrong"] = path("right")
		n := w.start(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := n.Realise(ctx, Request{Targets: []store.Path{wrong}, Orphans: Orphans{Cancel: true}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if !w.isValid("right") {
			t.Error("it is not kept")
		}
	})
}

// What cannot be registered changes nothing of the failure.
func TestMismatchCannotBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		wrong := w.fixed(w.drv("wrong"))
		w.mistaken["wrong"] = path("right")
		w.unregistrable = map[string]bool{"right": true}
		n := w.start(t, 1)
		_, err := n.Realise(t.Context(), Request{Targets: []store.Path{wrong}})
		if !errors.Is(err, store.ErrHashMismatch) || !strings.Contains(err.Error(), "kept: the disk is full") {
			t.Error(err)
		}
	})
}

// A build to compare with changes nothing; one that is to repair something keeps what
// came in its place, as in Nix. Of what is not fixed, nothing is offered.
func TestMismatchOfOtherBuilds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, plain := w.fixed(w.drv("a")), w.drv("plain")
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{a, plain}}); err != nil {
			t.Fatal(err)
		}
		if w.jobs["plain"].Mismatch != nil {
			t.Error("what is not fixed is said to be kept if it is another")
		}
		w.mistaken["a"] = path("right")
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}, Check: true}); !errors.Is(err, store.ErrHashMismatch) {
			t.Error(err)
		}
		if w.isValid("right") {
			t.Error("the check registered something")
		}
		if _, err := n.Rebuild(t.Context(), a); !errors.Is(err, store.ErrHashMismatch) || !strings.Contains(err.Error(), "kept: <nil>") {
			t.Error(err)
		}
		if !w.isValid("right") {
			t.Error("what a repair found is not kept")
		}
	})
}
