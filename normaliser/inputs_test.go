package normaliser

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

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
			if !ok || f.Cause != store.CauseSystem || f.Message != "register the outputs: replaced" && f.Message != "replaced" {
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
