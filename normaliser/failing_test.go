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

	"storefs/builder"
	"storefs/store"
)

// failing is top ← left ← bad, top ← right ← slow1 ← slow2, alone.
func failing(w *world) (top, alone store.Path) {
	w.drv("bad")
	w.fails["bad"] = true
	w.drv("left", "bad")
	w.drv("slow1")
	w.takes["slow1"] = 10 * time.Second
	w.drv("slow2", "slow1")
	w.drv("right", "slow2")
	return w.drv("top", "left", "right"), w.drv("alone", "slow2")
}

func TestFailureWithoutKeepGoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		top, _ := failing(w)
		n := w.start(t, 2)
		begin := time.Now()
		_, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}})
		if got := time.Since(begin); got != time.Second {
			t.Errorf("answered after %v, want 1s: when bad failed", got)
		}
		f, ok := errors.AsType[*store.Failure](err)
		if !ok {
			t.Fatalf("error %v", err)
		}
		if got := names(f.Chain); !slices.Equal(got, []string{"top.drv", "left.drv", "bad.drv"}) {
			t.Errorf("chain %v", got)
		}
		if f.Status != 7 || f.Path != path("bad.drv") || !errors.Is(err, store.ErrBuildFailed) {
			t.Errorf("failure %+v", f)
		}
		time.Sleep(time.Minute)
		if !slices.Equal(sorted(w.begun()), []string{"bad", "slow1"}) || !w.isValid("slow1") {
			t.Errorf("begun %v, want bad and slow1, which ends and is registered", w.begun())
		}
	})
}

// What waits for a lock, or has it and waits for a slot, has not begun.
func TestFailureWhileLockedOut(t *testing.T) {
	for _, released := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			bad, locked, slow := w.drv("bad"), w.drv("locked"), w.drv("slow")
			w.fails["bad"] = true
			w.takes["bad"], w.takes["slow"] = 5*time.Second, 10*time.Second
			w.expected[locked], w.expected[slow] = time.Hour, time.Minute
			held := make(chan struct{})
			w.locks[path("locked")] = held
			n := w.start(t, 2)
			done := make(chan error, 1)
			go func() {
				_, err := n.Realise(t.Context(), Request{Targets: []store.Path{bad, locked, slow}})
				done <- err
			}()
			time.Sleep(time.Second)
			if released {
				close(held)
			}
			if err := <-done; err == nil {
				t.Error("no error")
			}
			synctest.Wait()
			if s := n.Status(); len(s.Running) != 1 {
				t.Errorf("status: %+v", s)
			}
			if !released {
				close(held)
			}
			time.Sleep(time.Minute)
			if want := []string{"bad", "slow"}; !slices.Equal(sorted(w.begun()), want) {
				t.Errorf("begun %v, want %v", w.begun(), want)
			}
		})
	}
}

func TestFailureLeavesOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		top, alone := failing(w)
		n := w.start(t, 2)
		other := make(chan error)
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{alone}})
			other <- err
		}()
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}}); err == nil {
			t.Error("top was realised")
		}
		if err := <-other; err != nil {
			t.Errorf("alone: %v", err)
		}
		if slices.Contains(w.begun(), "right") || !w.isValid("alone") {
			t.Errorf("begun %v", w.begun())
		}
	})
}

func TestKeepGoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		top, alone := failing(w)
		w.drv("worse", "slow1")
		w.fails["worse"] = true
		both := w.drv("both", "bad", "worse")
		n := w.start(t, 2)
		res, err := n.Realise(t.Context(), Request{Targets: []store.Path{top, alone, both}, KeepGoing: true})
		if err == nil {
			t.Fatal("no error")
		}
		want := []string{"alone", "bad", "right", "slow1", "slow2", "worse"}
		if !slices.Equal(sorted(w.begun()), want) {
			t.Errorf("begun %v, want %v", sorted(w.begun()), want)
		}
		if res.Targets[0].Failure == nil || !res.Targets[1].Realised || res.Targets[2].Failure == nil {
			t.Errorf("targets %+v", res.Targets)
		}
		var roots []string
		for _, f := range res.Failures {
			roots = append(roots, short(f.Path))
			if f.Chain[len(f.Chain)-1] != f.Path || len(f.Chain) < 2 {
				t.Errorf("chain of %s: %v", f.Path, names(f.Chain))
			}
		}
		if !slices.Equal(sorted(roots), []string{"bad", "worse"}) {
			t.Errorf("root causes %v", roots)
		}
	})
}

// One keeps going, the other does not: the latter hears of the failure at once.
func TestKeepGoingIsPerRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		top, _ := failing(w)
		over := w.drv("over", "top")
		n := w.start(t, 2)
		begin := time.Now()
		patient := make(chan time.Duration)
		go func() {
			n.Realise(t.Context(), Request{Targets: []store.Path{top}, KeepGoing: true})
			patient <- time.Since(begin)
		}()
		_, err := n.Realise(t.Context(), Request{Targets: []store.Path{over}})
		if got := time.Since(begin); got != time.Second || !errors.Is(err, store.ErrBuildFailed) {
			t.Errorf("answered %v after %v, want 1s", err, got)
		}
		if f, ok := errors.AsType[*store.Failure](err); !ok || len(f.Chain) != 4 {
			t.Errorf("failure %+v", f)
		}
		if got := <-patient; got != 12*time.Second {
			t.Errorf("the one that keeps going was answered after %v", got)
		}
	})
}

func TestJoinOfWhatIsDoomed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		top, _ := failing(w)
		over := w.drv("over", "top")
		n := w.start(t, 2)
		go n.Realise(t.Context(), Request{Targets: []store.Path{top}, KeepGoing: true})
		time.Sleep(5 * time.Second)
		begin := time.Now()
		for _, target := range []store.Path{top, over} {
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{target}})
			if !errors.Is(err, store.ErrBuildFailed) || time.Since(begin) != 0 {
				t.Errorf("%s: %v after %v", target, err, time.Since(begin))
			}
		}
		time.Sleep(time.Minute)
		if s := n.Status(); s.Waiting+s.Buildable+len(s.Running)+s.Requests != 0 {
			t.Errorf("left over: %+v", s)
		}
	})
}

func TestFailuresAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		top, _ := failing(w)
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}}); err == nil {
			t.Fatal("no error")
		}
		for name, chain := range map[string]int{"bad": 1, "left": 2, "top": 3} {
			f := w.failures[path(name+".drv")]
			if f == nil || len(f.Chain) != chain || f.Path != path("bad.drv") || len(f.Log) != 1 {
				t.Errorf("%s: remembered %+v", name, f)
			}
		}
		if len(w.failures) != 3 {
			t.Errorf("%d failures remembered", len(w.failures))
		}
		w.fails["bad"] = false
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(w.failures) != 0 {
			t.Errorf("still remembered: %v", w.failures)
		}
	})
}

// A cause below many goals, wide and deep, is told to each without quadratic
// work.
func TestFailureOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("bad")
		w.fails["bad"] = true
		last := "bad"
		for i := range many / 5 {
			name := fmt.Sprint("c", i)
			w.drv(name, last)
			last = name
		}
		w.transaction = 5 * time.Millisecond
		var wide []string
		for i := range many / 5 {
			name := fmt.Sprint("w", i)
			w.drv(name, "bad")
			wide = append(wide, name)
		}
		all := w.drv("all", wide...)
		n := w.start(t, 1)
		res, err := n.Realise(t.Context(), Request{Targets: []store.Path{path(last + ".drv"), all}, KeepGoing: true})
		if err == nil {
			t.Fatal("no error")
		}
		if len(w.failures) != 2*many/5+2 {
			t.Errorf("%d failures remembered", len(w.failures))
		}
		if w.setBatches > 3 {
			t.Errorf("%d transactions", w.setBatches)
		}
		logs, links := 0, 0
		for _, f := range w.failures {
			logs += len(f.Log)
			links += len(f.Chain)
			if f.Chain[len(f.Chain)-1] != path("bad.drv") {
				t.Fatalf("chain ends with %s", f.Chain[len(f.Chain)-1])
			}
		}
		if logs > 2*maxLogs || links > (2*many/5+2)*shortChain {
			t.Errorf("%d lines of log, %d links remembered", logs, links)
		}
		f := res.Targets[0].Failure
		if len(f.Chain)+f.Elided != many/5+1 {
			t.Errorf("chain of %d and %d more, want %d", len(f.Chain), f.Elided, many/5+1)
		}
	})
}

func TestLimitsComeFromTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.drv("a", "b")
		w.drv("b")
		w.kinds[path("b")] = store.KindSymlink
		n := w.start(t, 1)
		go n.Realise(t.Context(), Request{Targets: []store.Path{path("b")}, Limits: builder.Limits{Timeout: time.Minute}})
		synctest.Wait()
		r := Request{Targets: []store.Path{a}, Limits: builder.Limits{MaxLog: 5}}
		if _, err := n.Realise(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		b, top := w.jobs["b"], w.jobs["a"]
		if b.Limits.Timeout != time.Minute || b.Kinds[path("b")] != store.KindSymlink {
			t.Errorf("b: %+v", b)
		}
		if top.Limits.MaxLog != 5 {
			t.Errorf("a: %+v", top)
		}
		if len(top.Inputs) != 1 || top.Inputs[0].Path != path("b") {
			t.Errorf("inputs of a: %v", top.Inputs)
		}
	})
}

// What a failed build leaves is kept for whoever waits for it then and wants that, and
// for nobody else, whoever wanted the build first.
func TestKeepFailedIsOfWhoeverWaits(t *testing.T) {
	type caller struct {
		target string
		keep   bool
		from   time.Duration // when it comes
		until  time.Duration // when it goes, if it does before the end
	}
	const second = time.Second
	for name, c := range map[string]struct {
		callers []caller
		kept    string
	}{
		"nobody wants it":            {callers: []caller{{target: "low"}}},
		"who came first":             {callers: []caller{{target: "low", keep: true}, {target: "low", from: second}}, kept: "/kept/low"},
		"who joined":                 {callers: []caller{{target: "low"}, {target: "low", keep: true, from: second}}, kept: "/kept/low"},
		"who joined for another":     {callers: []caller{{target: "low"}, {target: "top", keep: true, from: second}}, kept: "/kept/low"},
		"who came first has gone":    {callers: []caller{{target: "low", keep: true, until: 2 * second}, {target: "top", from: second}}},
		"who joined has gone":        {callers: []caller{{target: "low"}, {target: "top", keep: true, from: second, until: 2 * second}}},
		"who waits for another goal": {callers: []caller{{target: "low"}, {target: "other", keep: true, from: second}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.drv("top", "middle")
				w.drv("middle", "low")
				w.drv("low")
				w.drv("other")
				w.takes["low"], w.fails["low"] = 10*second, true
				w.takes["other"] = 20 * second
				n := w.start(t, 2)
				var all sync.WaitGroup
				for _, caller := range c.callers {
					all.Go(func() {
						time.Sleep(caller.from)
						ctx := t.Context()
						if caller.until > 0 {
							var cancel context.CancelFunc
							ctx, cancel = context.WithTimeout(ctx, caller.until-caller.from)
							defer cancel()
						}
						_, err := n.Realise(ctx, Request{Targets: []store.Path{path(caller.target)}, KeepFailed: caller.keep, Orphans: Orphans{Cancel: true}})
						if caller.until > 0 || caller.target == "other" {
							return
						}
						if f, ok := errors.AsType[*store.Failure](err); !ok || f.Path != path("low.drv") || f.Kept != c.kept {
							t.Errorf("%s: %+v, want it kept at %q", caller.target, err, c.kept)
						}
					})
				}
				all.Wait()
			})
		})
	}
}

func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.drv("a")
		n := w.start(t, 1)
		check := func() error {
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}, Check: true, KeepFailed: true})
			synctest.Wait() // results are released behind the answer
			return err
		}
		if err := check(); !errors.Is(err, store.ErrRefused) {
			t.Errorf("check of what is not valid: %v", err)
		}
		if s := n.Status(); len(w.failures) != 0 || s.Failed != 0 {
			t.Errorf("a refused check counts as a failure: %d, remembered %v", s.Failed, w.failures)
		}
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}}); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second/2, func() {
			if s := n.Status(); len(s.Running) != 1 || !s.Running[0].Check {
				t.Errorf("status: %+v", s)
			}
		})
		if err := check(); err != nil || w.released != 2 {
			t.Errorf("check: %v, released %d", err, w.released)
		}
		w.hashes["a"] = "other"
		err := check()
		f, ok := errors.AsType[*store.Failure](err)
		if !ok || !errors.Is(err, store.ErrNotDeterministic) || f.Kept != "/kept/a" || w.released != 2 {
			t.Errorf("check: %v, %+v, released %d", err, f, w.released)
		}
		if w.valid[path("a")].NarHash == store.HashOf(store.SHA256, []byte(string(path("a"))+"other")) {
			t.Error("the check registered something")
		}
		if len(w.failures) != 0 {
			t.Errorf("the check of what is valid is remembered as its failure: %v", w.failures)
		}
	})
}

// A check that cannot be begun is like any other failure for those asked for with it.
func TestCheckRefusedBesideOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.drv("a")
		w.drv("never")
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{a}}); err != nil {
			t.Fatal(err)
		}
		res, err := n.Realise(t.Context(), Request{Targets: paths("never.drv", "a.drv"), Check: true})
		if !errors.Is(err, store.ErrRefused) || res.Targets[1].Realised || len(w.begun()) != 1 {
			t.Errorf("%v, %+v, begun %v", err, res, w.begun())
		}
		res, err = n.Realise(t.Context(), Request{Targets: paths("never.drv", "a.drv", "never"), Check: true, KeepGoing: true})
		synctest.Wait() // results are released behind the answer
		if !errors.Is(err, store.ErrRefused) || res.Targets[0].Failure == nil || !res.Targets[1].Realised || res.Targets[2].Failure == nil || len(res.Failures) != 2 {
			t.Errorf("%v, %+v", err, res)
		}
		if !slices.Equal(w.begun(), []string{"a", "a"}) {
			t.Errorf("begun %v", w.begun())
		}
	})
}
