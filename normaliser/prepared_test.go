package normaliser

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"storefs/event"
	"storefs/store"
)

// What comes next is prepared while there is no slot, as many as there are slots,
// and has not started before it has one.
func TestPrepared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var targets []store.Path
		for i := range 7 {
			targets = append(targets, w.drv(fmt.Sprint("a", i)))
		}
		var bus event.Bus
		sub := bus.Subscribe(nil)
		n := w.startWith(t, Options{Jobs: 2, Events: &bus})
		done := make(chan error, 1)
		go func() {
			_, err := n.Realise(context.Background(), Request{Targets: targets})
			done <- err
		}()
		for round, want := range [][2]int{{2, 4}, {4, 6}, {6, 7}, {7, 7}} {
			synctest.Wait()
			begun, prepared := w.begun(), w.prepared()
			if len(begun) != want[0] || len(prepared) != want[1] {
				t.Errorf("%d s: begun %v, prepared %v", round, begun, prepared)
			}
			if s := n.Status(); len(s.Running) != min(2, 7-2*round) || s.Buildable != 7-want[0] {
				t.Errorf("%d s: %d run, %d wait for a slot", round, len(s.Running), s.Buildable)
			}
			time.Sleep(time.Second)
		}
		if err := <-done; err != nil || w.most != 2 {
			t.Fatalf("%v, %d at a time", err, w.most)
		}
		sub.Close()
		events, _ := sub.Next(t.Context())
		for _, p := range targets {
			want := []string{"added", "started", "phase build", "log building " + short(p)}
			if got := story(events, p.Name()); !slices.Equal(got[:len(want)], want) || got[len(got)-1] != "done built 1s" {
				t.Errorf("%s: %q", p, got)
			}
		}
	})
}

// What is needed more gets the slot, though something else was prepared.
func TestPreparedGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		targets := []store.Path{w.drv("a"), w.drv("b"), w.drv("c")}
		n := w.start(t, 1)
		go n.Realise(context.Background(), Request{Targets: targets})
		synctest.Wait()
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{w.drv("urgent")}, Urgent: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if want := []string{"a", "urgent", "b", "c"}; !slices.Equal(w.begun(), want) || slices.Index(w.prepared(), "b") > slices.Index(w.prepared(), "urgent") {
			t.Errorf("begun %v, prepared %v", w.begun(), w.prepared())
		}
	})
}

// What nobody wants any more does not begin, and can be wanted again.
func TestPreparedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		bad, b := w.drv("bad"), w.drv("b")
		w.fails["bad"] = true
		n := w.start(t, 1)
		done := make(chan error)
		go func() {
			_, err := n.Realise(context.Background(), Request{Targets: []store.Path{bad, b}})
			done <- err
		}()
		synctest.Wait()
		if got := sorted(w.prepared()); !slices.Equal(got, []string{"b", "bad"}) || len(w.begun()) != 1 {
			t.Fatalf("prepared %v, begun %v", got, w.begun())
		}
		<-done
		synctest.Wait()
		if s := n.Status(); s.Buildable != 0 || s.Dropped != 1 || s.Failed != 1 {
			t.Errorf("status %+v", s)
		}
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{b}}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(w.begun(), []string{"bad", "b"}) {
			t.Errorf("begun %v", w.begun())
		}
	})
}

// One that is prepared may find that another process holds the lock: it waits for
// that without a slot, and then for its slot.
func TestPreparedIsLockedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		targets := []store.Path{w.drv("a"), w.drv("b"), w.drv("c")}
		held := make(chan struct{})
		w.locks[path("b")] = held
		n := w.start(t, 1)
		done := make(chan error)
		go func() {
			_, err := n.Realise(context.Background(), Request{Targets: targets})
			done <- err
		}()
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if want := []string{"a", "c"}; !slices.Equal(w.begun(), want) {
			t.Errorf("begun %v, want %v", w.begun(), want)
		}
		close(held)
		if err := <-done; err != nil || w.most != 1 {
			t.Errorf("%v, %d at a time", err, w.most)
		}
		if want := []string{"a", "c", "b"}; !slices.Equal(w.begun(), want) {
			t.Errorf("begun %v, want %v", w.begun(), want)
		}
	})
}
