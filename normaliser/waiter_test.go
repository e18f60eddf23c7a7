package normaliser

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"storefs/store"
)

func TestWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.drv("a")
		w.drv("b", "a")
		w.drv("quick")
		w.drv("top", "b", "quick")
		for name, d := range map[string]time.Duration{"a": 10 * time.Second, "b": 20 * time.Second, "quick": time.Second, "top": 5 * time.Second} {
			w.expected[path(name+".drv")], w.takes[name] = d, d
		}
		w.drv("never")
		w.slow["slow"] = time.Minute
		w.drv("slow")
		n := w.start(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		begin := time.Now()
		for i, r := range []Request{
			{Targets: paths("top"), Urgent: true},
			{Targets: paths("a", "b"), Urgent: true},
			{Targets: paths("never")},
			{Targets: paths("slow")},
		} {
			r.Caller = &Caller{PID: 100 + i, Command: "cat", UID: uint32(i)}
			time.Sleep(time.Second)
			all.Go(func() { n.Realise(ctx, r) })
			synctest.Wait()
		}
		all.Go(func() { n.Realise(ctx, Request{Targets: paths("top")}) }) // nobody in particular
		synctest.Wait()
		got := n.Status().Waiters
		// a began a second after the first moment, four seconds have passed.
		// All that top needs takes 33 seconds on the one slot, the longest path of it 32.
		slowest := &Running{Goal: path("a.drv"), Phase: "build", Since: begin.Add(time.Second), Expected: 10 * time.Second, Waiters: 2}
		want := []Waiter{
			{Path: path("top"), Since: begin.Add(1 * time.Second), Goal: path("top.drv"), State: WaitInput, Expected: 5 * time.Second, Left: 33 * time.Second, Goals: 4, Slowest: slowest},
			{Path: path("a"), More: 1, Since: begin.Add(2 * time.Second), Goal: path("a.drv"), State: WaitRun, Phase: "build", Began: begin.Add(time.Second), Expected: 10 * time.Second, Left: 7 * time.Second, Goals: 1},
			{Path: path("never"), Since: begin.Add(3 * time.Second), Goal: path("never.drv"), State: WaitSlot, Goals: 1},
			{Path: path("slow"), Since: begin.Add(4 * time.Second), State: WaitPlan},
		}
		for i := range want {
			want[i].Caller = Caller{PID: 100 + i, Command: "cat", UID: uint32(i)}
		}
		if len(got) != len(want) {
			t.Fatalf("%+v", got)
		}
		for i := range want {
			g, w := got[i], want[i]
			if (g.Slowest == nil) != (w.Slowest == nil) || g.Slowest != nil && *g.Slowest != *w.Slowest {
				t.Errorf("%d: slowest %+v, want %+v", i, g.Slowest, w.Slowest)
			}
			g.Slowest, w.Slowest = nil, nil
			if g != w {
				t.Errorf("%d:\n got %+v\nwant %+v", i, g, w)
			}
		}
		for name, want := range map[string]bool{"top.drv": true, "never.drv": true, "top": false, "nothing": false} {
			if n.Wanted(path(name)) != want {
				t.Errorf("%s: wanted %v", name, !want)
			}
		}
		cancel()
		all.Wait()
		if left := n.Status().Waiters; len(left) > 0 {
			t.Errorf("%d wait after all have gone", len(left))
		}
	})
}

// Looking on at very many goals is not done to the end.
func TestOutlookIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.hold = make(chan struct{})
		w.drv("n0")
		const many = maxOutlook + 10
		for i := 1; i < many; i++ {
			w.drv(fmt.Sprint("n", i), fmt.Sprint("n", i-1))
		}
		n := w.start(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for _, target := range []store.Path{path("n5"), path(fmt.Sprint("n", many-1))} {
			all.Go(func() {
				n.Realise(ctx, Request{Targets: []store.Path{target}, Caller: &Caller{}, Orphans: Orphans{Cancel: true}})
			})
			synctest.Wait()
			time.Sleep(time.Second)
		}
		got := n.Status().Waiters
		if len(got) != 2 || got[0].Goals != 6 || got[0].Slowest == nil || got[1].Goals != 0 || got[1].Slowest != nil || got[1].State != WaitInput {
			t.Errorf("%+v", got)
		}
		cancel()
		all.Wait()
	})
}
