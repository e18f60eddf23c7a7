package normaliser

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"storefs/store"
)

// A builder that ends is followed at once by one that is prepared, without more of
// them at a time than there are slots; what is needed more, and is not prepared,
// closes that way.
func TestRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var targets []store.Path
		for i := range 20 {
			name := fmt.Sprint("a", i)
			targets = append(targets, w.drv(name))
			w.takes[name] = time.Duration(i+1) * time.Second // they end one by one
		}
		n := w.start(t, 2)
		done := make(chan error)
		go func() {
			_, err := n.Realise(context.Background(), Request{Targets: targets})
			done <- err
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(w.relayed()) < 10 || w.most != 2 || len(w.begun()) != 20 {
			t.Errorf("%d of 20 were relayed, %d at a time: %v", len(w.relayed()), w.most, w.begun())
		}
		if s := n.Status(); s.Done != 20 || len(s.Running) != 0 || s.Buildable != 0 {
			t.Errorf("status %+v", s)
		}

		w.takes["slow"] = 10 * time.Second
		go func() {
			_, err := n.Realise(context.Background(), Request{Targets: []store.Path{w.drv("slow"), w.drv("slow2"), w.drv("low"), w.drv("low2"), w.drv("low3")}, Jobs: 1})
			done <- err
		}()
		synctest.Wait()
		go n.Realise(context.Background(), Request{Targets: []store.Path{w.drv("urgent")}, Urgent: true})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		// Two run, two are prepared, and it comes third.
		if begun := w.begun()[20:]; slices.Index(begun, "urgent") != 2 {
			t.Errorf("begun %v", begun)
		}
	})
}

// Whoever waits for a goal, and comes before all others, is not overtaken at its end.
func TestRelayLeavesTheCriticalPathAlone(t *testing.T) {
	for _, noRelay := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.noRelay = noRelay
			w.drv("a")
			w.drv("a2", "a")
			w.drv("a3", "a2")
			w.expected[path("a3.drv")] = 20 * time.Second
			needs := []string{"a3"}
			for i := range 5 {
				needs = append(needs, fmt.Sprint("b", i))
				w.drv(needs[i+1])
			}
			top := w.drv("top", needs...)
			n := w.start(t, 1)
			if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}}); err != nil {
				t.Fatal(err)
			}
			if want := []string{"a", "a2", "a3"}; !slices.Equal(w.begun()[:3], want) || !noRelay && len(w.relayed()) == 0 {
				t.Errorf("begun %v, want %v first; relayed %v", w.begun(), want, w.relayed())
			}
		})
	}
}

// A builder that fails is followed by nothing that is given up with it.
func TestRelayAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		targets := []store.Path{w.drv("bad"), w.drv("b"), w.drv("c")}
		w.fails["bad"] = true
		n := w.start(t, 1)
		if _, err := n.Realise(t.Context(), Request{Targets: targets}); err == nil {
			t.Fatal("no error")
		}
		synctest.Wait()
		if len(w.begun()) != 1 || len(w.relayed()) != 0 {
			t.Errorf("begun %v", w.begun())
		}
	})
}

// What is built for a repair has no slot, so nothing follows it at its end.
func TestRepairIsNotRelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var targets []store.Path
		for i := range 6 {
			name := fmt.Sprint("a", i)
			targets = append(targets, w.drv(name))
			w.takes[name] = 10 * time.Second
		}
		damaged := w.drv("damaged")
		n := w.start(t, 2)
		done := make(chan error, 1)
		go func() {
			_, err := n.Realise(context.Background(), Request{Targets: targets})
			done <- err
		}()
		synctest.Wait()
		res, err := n.Rebuild(t.Context(), damaged)
		if err != nil {
			t.Fatal(err)
		}
		res.Release()
		synctest.Wait()
		if len(w.relayed()) != 0 || w.peak() != 3 {
			t.Errorf("relayed %v, %d at a time", w.relayed(), w.peak())
		}
		if err := <-done; err != nil || w.peak() != 3 {
			t.Errorf("%v, %d at a time", err, w.peak())
		}
	})
}

// poolChanges is a world where a substitute for p needs s1 to s4, and a normaliser with
// one slot of each pool, which is asked for p. So s1 runs, for so long, and s2 is
// prepared.
func poolChanges(t *testing.T, s1 time.Duration) (*world, *Normaliser) {
	w := newWorld()
	var in []store.Path
	for i := 1; i <= 4; i++ {
		name := fmt.Sprint("s", i)
		in = append(in, w.drv(name))
		w.takes[name] = 100 * time.Second
		w.expected[path(name+".drv")] = time.Duration(100-i) * time.Second
	}
	w.takes["s1"], w.takes["s2"] = s1, 10*time.Second
	w.drv("p")
	w.substitute(path("p"), w.old("cache", []string{"p"}, in...))
	for _, name := range []string{"m1", "m2"} {
		w.drv(name)
		w.takes[name] = 100 * time.Second
	}
	n := w.startWith(t, Options{Jobs: 1, SubstituteJobs: 1})
	go n.Realise(context.Background(), Request{Targets: []store.Path{path("p.drv")}, KeepGoing: true})
	synctest.Wait()
	if want := []string{"s1", "s2"}; !slices.Equal(sorted(w.prepared()), want) || len(w.begun()) != 1 {
		t.Fatalf("prepared %v, want %v", w.prepared(), want)
	}
	return w, n
}

// What was prepared for a substitute, and is then wanted otherwise, has a slot for that:
// at its end, nothing begins that would need one of the others.
func TestRelayAfterPoolChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n := poolChanges(t, 100*time.Second)
		go n.Realise(context.Background(), Request{Targets: []store.Path{path("s2.drv")}, Urgent: true, KeepGoing: true})
		synctest.Wait()
		go n.Realise(context.Background(), Request{Targets: []store.Path{path("m1.drv"), path("m2.drv")}, KeepGoing: true})
		time.Sleep(30 * time.Second)
		if want := []string{"s1", "s2", "m1"}; !slices.Equal(w.begun(), want) || w.peak() != 2 {
			t.Errorf("begun %v, want %v; %d at a time", w.begun(), want, w.peak())
		}
		time.Sleep(time.Hour)
	})
}

// It may have taken a slot of the pool that it leaves before its builder heard of that.
func TestRelayWhilePoolChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n := poolChanges(t, 10*time.Second)
		go n.Realise(context.Background(), Request{Targets: []store.Path{path("m1.drv"), path("m2.drv")}, KeepGoing: true})
		synctest.Wait()
		n.post(func(gr *graph) {
			gr.flag(gr.goals[key{kindExpr, path("s2.drv")}], flagMain)
			time.Sleep(15 * time.Second) // s1 ends
		})
		time.Sleep(30 * time.Second)
		if want := []string{"s2", "s3"}; !slices.Equal(w.relayed(), want) || w.peak() != 2 {
			t.Errorf("relayed %v, want %v; %d at a time, begun %v", w.relayed(), want, w.peak(), w.begun())
		}
		time.Sleep(time.Hour)
	})
}
