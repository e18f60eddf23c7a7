package normaliser

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"storefs/event"
	"storefs/store"
)

// What is replaced under a build fails it, whatever comes of that: the builder may have
// failed because of it. It is asked again with the next request.
func TestInputIsReplaced(t *testing.T) {
	errReplaced := errors.New("replaced")
	for _, fails := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.drv("in")
			top := w.drv("top", "in")
			n := w.start(t, 1)
			if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{path("in.drv")}}); err != nil {
				t.Fatal(err)
			}
			w.fails["top"] = fails
			time.AfterFunc(time.Second/2, func() { w.spoil(path("in"), errReplaced) })
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}})
			f, ok := errors.AsType[*store.Failure](err)
			if !ok || f.Cause != store.CauseSystem || f.Message != "replaced" {
				t.Errorf("fails %t: %v", fails, err)
			}
			if w.isValid("top") {
				t.Error("what was built of it is valid")
			}
			w.fails["top"] = false
			if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}}); err != nil {
				t.Error(err)
			}
		})
	}
}

// Nothing is deleted of what a build uses until that is registered.
func TestInputsAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.register = time.Minute
		w.drv("in")
		top := w.drv("top", "in")
		n := w.start(t, 1)
		used := func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.used)
		}
		done := make(chan error)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}})
			done <- err
		}()
		// in is registered after 61 seconds, and top, which was built by then, after 62.
		time.Sleep(61500 * time.Millisecond)
		if used() != 1 {
			t.Errorf("%d builds use something while top is registered, want 1", used())
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if used() != 0 {
			t.Error("what is registered uses its inputs")
		}
	})
}

// What was deleted before the build that needs it began is made again, once; what cannot
// be made again fails it.
func TestInputIsDeleted(t *testing.T) {
	for _, times := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.drv("in")
			top := w.drv("top", "in")
			w.slow["top"] = time.Second // so that in is registered, and deleted, before
			deleted := 0
			w.onBuilt = func(name string) {
				if name == "in" && deleted < times {
					delete(w.valid, path("in"))
					deleted++
				}
			}
			var bus event.Bus
			sub := bus.Subscribe(nil)
			n := w.startWith(t, Options{Jobs: 1, Events: &bus})
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}})
			sub.Close()
			events, _ := sub.Next(t.Context())
			want := []string{"in", "in", "top"}
			begins := []string{"added", "started", "freed", "started", "phase build", "log building top", "phase sync", "freed", "phase register", "done built 2s"}
			if times == 2 {
				want, begins = want[:2], []string{"added", "started", "freed", "started", "failed top.drv 1s"}
				if err == nil || !strings.Contains(err.Error(), "the closure of the inputs") {
					t.Errorf("deleted twice: %v", err)
				}
			} else if err != nil {
				t.Error(err)
			}
			if !slices.Equal(w.begun(), want) {
				t.Errorf("deleted %d times: begun %v, want %v", times, w.begun(), want)
			}
			if got := story(events, "top.drv"); !slices.Equal(got, begins) {
				t.Errorf("deleted %d times: %q, want %q", times, got, begins)
			}
			if s := n.Status(); s.Requests+s.Waiting+s.Buildable+len(s.Running) != 0 {
				t.Errorf("left over: %+v", s)
			}
		})
	}
}

func TestSourceIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("in")
		top := w.drv("top", "in")
		d, _ := w.derivation(top)
		d.Sources = []store.Path{path("source")}
		w.makeValid("source")
		w.onBuilt = func(string) { delete(w.valid, path("source")) }
		w.slow["top"] = time.Second
		n := w.start(t, 1)
		_, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}})
		f, ok := errors.AsType[*store.Failure](err)
		if !ok || f.Path != top || !strings.Contains(f.Message, "the closure of the inputs") {
			t.Errorf("%v", err)
		}
	})
}
