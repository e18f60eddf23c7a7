package normaliser

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"storefs/store"
)

// crowd makes independent derivations PREFIX0…, and returns their paths.
func (w *world) crowd(prefix string, n int) []store.Path {
	var all []store.Path
	for i := range n {
		all = append(all, w.drv(fmt.Sprint(prefix, i)))
	}
	return all
}

// requests are one for each caller, for ten new derivations.
func requests(w *world, callers []*Caller) []Request {
	rs := make([]Request, len(callers))
	for i, c := range callers {
		rs[i] = Request{Targets: w.crowd(fmt.Sprintf("%d-%d-", len(w.exprs), i), 10), Caller: c, Jobs: 8}
	}
	return rs
}

// at counts the names that begin with prefix.
func at(names []string, prefix string) int {
	n := 0
	for _, s := range names {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

// A user who wants a hundred things does not keep another one waiting for them.
func TestUsersShareSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		many, few := w.crowd("many", 100), w.crowd("few", 10)
		n := w.start(t, 2)
		var all sync.WaitGroup
		all.Go(func() {
			// Blocked lookups, too, come only before what the same user wants.
			if _, err := n.Realise(t.Context(), Request{Targets: many, Caller: &Caller{UID: 1}, Urgent: true}); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(2500 * time.Millisecond)
		begin := time.Now()
		if _, err := n.Realise(t.Context(), Request{Targets: few, Caller: &Caller{UID: 2}}); err != nil {
			t.Fatal(err)
		}
		// One of the two slots, from when it was free.
		if d := time.Since(begin); d != 10500*time.Millisecond {
			t.Errorf("took %v beside another user", d)
		}
		all.Wait()
		if d := time.Since(begin); d != 52500*time.Millisecond || w.most != 2 {
			t.Errorf("all took %v with %d at a time: slots were left free", d, w.most)
		}
	})
}

func TestJobsPerUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		n := w.startWith(t, Options{Jobs: 5, JobsPerUser: 2})
		begin := time.Now()
		together := func(wantMost int, callers ...*Caller) {
			t.Helper()
			w.most = 0
			var all sync.WaitGroup
			for _, r := range requests(w, callers) {
				all.Go(func() {
					if _, err := n.Realise(t.Context(), r); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if w.most != wantMost {
				t.Errorf("%d at a time, want %d", w.most, wantMost)
			}
		}
		together(2, &Caller{UID: 0}) // root is a user
		together(8, nil)             // the store itself is none
		together(8, &Caller{UID: 0}, &Caller{UID: 1}, &Caller{UID: 2}, &Caller{UID: 3})
		if d := time.Since(begin); d != 12*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// A user's slots are those of builders that take several, too; one that takes more
// than the user may hold runs when that one holds none.
func TestJobsPerUserCountCores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		targets := []store.Path{w.drv("one"), w.cores("two", "2"), w.cores("all", "0"), w.cores("five", "5")}
		n := w.startWith(t, Options{Jobs: 6, JobsPerUser: 2})
		ended := make(chan error)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: targets, Caller: &Caller{UID: 1}})
			ended <- err
		}()
		var held []int
		for range targets { // each takes a second
			time.Sleep(500 * time.Millisecond)
			slots := 0
			for _, r := range n.Status().Running {
				slots += max(1, r.Slots)
			}
			held = append(held, slots)
			time.Sleep(500 * time.Millisecond)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if want := []int{1, 2, 6, 5}; !slices.Equal(held, want) {
			t.Errorf("%v slots at a time, want %v", held, want)
		}
	})
}

// What is left is estimated by the slots that users may hold.
func TestJobsPerUserRemaining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		n := w.startWith(t, Options{Jobs: 4, JobsPerUser: 1})
		var all sync.WaitGroup
		for u := range 2 {
			var needs []string
			for i := range 5 {
				needs = append(needs, fmt.Sprintf("u%d-%d", u, i))
				w.expected[w.drv(needs[i])] = 10 * time.Second
			}
			top := w.drv(fmt.Sprint("top", u), needs...)
			w.expected[top] = time.Second
			all.Go(func() {
				if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}, Caller: &Caller{UID: uint32(u)}}); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
			s := n.Status()
			if s.Remaining != 51*time.Second {
				t.Errorf("%d users: %v left", u+1, s.Remaining)
			}
			for _, w := range s.Waiters {
				if w.Left != 51*time.Second {
					t.Errorf("%d users: %v left for one of them", u+1, w.Left)
				}
			}
		}
		all.Wait()
	})
}

// What two users want is built for the one who has room.
func TestSharedGoalTakesAnyShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		mine := w.crowd("mine", 4)
		shared := w.drv("shared")
		w.expected[shared] = time.Millisecond // the last one, if it were only by length
		for _, m := range mine {
			w.expected[m] = time.Hour
		}
		n := w.startWith(t, Options{Jobs: 4, JobsPerUser: 1})
		var all sync.WaitGroup
		begin := time.Now()
		all.Go(func() {
			if _, err := n.Realise(t.Context(), Request{Targets: append(mine, shared), Caller: &Caller{UID: 1}}); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(500 * time.Millisecond)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{shared}, Caller: &Caller{UID: 2}}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d != 1500*time.Millisecond {
			t.Errorf("shared after %v", d)
		}
		all.Wait()
		if at(w.begun(), "shared") != 1 || time.Since(begin) != 4*time.Second {
			t.Errorf("%v after %v", w.begun(), time.Since(begin))
		}
	})
}

// More users than flags: the last ones share a flag, and none is forgotten.
func TestVeryManyUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		n := w.startWith(t, Options{Jobs: 3, JobsPerUser: 1})
		for round := range 3 {
			var all sync.WaitGroup
			var targets [2 * maxUsers][]store.Path
			for i := range targets {
				targets[i] = w.crowd(fmt.Sprintf("r%d-u%d-", round, i), 2)
			}
			for i, list := range targets {
				all.Go(func() {
					if _, err := n.Realise(t.Context(), Request{Targets: list, Caller: &Caller{UID: uint32(1000*round + i)}}); err != nil {
						t.Error(err)
					}
				})
			}
			time.Sleep(1500 * time.Millisecond)
			checkNow(t, n)
			all.Wait()
			checkNow(t, n)
		}
	})
}

func TestNoBuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("in")
		w.drv("out", "in")
		w.makeValid("valid")
		w.drv("valid")
		w.drv("good")
		w.substitute(path("good"), w.old("sgood", []string{"good"}, path("in.drv")))
		w.drv("bad", "in")
		w.substitute(path("bad"), w.old("sbad", []string{"bad"}))
		w.fails["sbad"] = true
		n := w.start(t, 1)
		realise := func(name string, noBuild bool) error {
			_, err := n.Realise(t.Context(), Request{Targets: paths(name), NoBuild: noBuild})
			return err
		}
		if err := realise("valid", true); err != nil {
			t.Errorf("valid: %v", err)
		}
		if err := realise("out", true); !errors.Is(err, store.ErrNotAllowed) || !strings.Contains(err.Error(), "would have to be built") {
			t.Errorf("out: %v", err)
		}
		if len(w.begun()) > 0 {
			t.Errorf("built: %v", w.begun())
		}
		// What a substitute needs may be built.
		if err := realise("good", true); err != nil {
			t.Errorf("good: %v", err)
		}
		if err := realise("bad", true); !errors.Is(err, store.ErrNotAllowed) {
			t.Errorf("bad: %v", err)
		}
		if at(w.begun(), "bad") > 0 {
			t.Errorf("built: %v", w.begun())
		}
		time.Sleep(time.Second)
		if f, err := w.Failure(path("bad.drv")); f != nil || err != nil {
			t.Errorf("remembered: %v, %v", f, err)
		}
		if err := realise("bad", false); err != nil {
			t.Errorf("bad, by somebody who may: %v", err)
		}
	})
}

// Who may not build goes away empty; who may, and came meanwhile, does not.
func TestNoBuildBesideBuild(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.drv("x")
			w.substitute(path("x"), w.old("sx", []string{"x"}))
			w.fails["sx"] = true
			w.drv("y")
			n := w.start(t, 2)
			var all sync.WaitGroup
			all.Go(func() {
				_, err := n.Realise(t.Context(), Request{Targets: paths("x"), NoBuild: true})
				if err != nil && !errors.Is(err, store.ErrNotAllowed) {
					t.Error(err)
				}
			})
			time.Sleep(after)
			if _, err := n.Realise(t.Context(), Request{Targets: paths("x", "y")}); err != nil {
				t.Errorf("after %v: %v", after, err)
			}
			all.Wait()
			checkNow(t, n)
		})
	}
}
