package state

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"storefs/db"
	"storefs/store"
)

// What is being registered is known to Requisites, and to nobody else; what is
// built from it is registered with it, or after it, or not at all.
func TestArrivals(t *testing.T) {
	for _, fails := range []bool{false, true} {
		ctx := context.Background()
		s := newState(t)
		first, d := derivation(t, s, "first", []string{"out"}, nil, nil)
		second, e := derivation(t, s, "second", []string{"out"}, nil, nil)
		in := d.Outputs[0].Path

		var wg sync.WaitGroup
		var errSecond error
		looked := make(chan struct{})
		inPlace := func() {
			defer close(looked)
			if _, err := s.DB().Info(in); !errors.Is(err, store.ErrNotValid) {
				t.Errorf("before it is registered: %v", err)
			}
			infos, err := s.Requisites([]store.Path{in})
			if err != nil || len(infos) != 1 || infos[0].Path != in || infos[0].Deriver != first {
				t.Errorf("requisites: %v, %v", infos, err)
			}
			if _, err := os.Lstat(s.Real(in)); err != nil {
				t.Error(err)
			}
			wg.Go(func() {
				outs := build(t, s, e, in)
				_, _, errSecond = s.Register(ctx, Outcome{Drv: second, Derivation: e, Outputs: outs})
			})
		}
		o := Outcome{Drv: first, Derivation: d, Outputs: build(t, s, d), InPlace: inPlace, Synced: func() { <-looked }}
		real := s.real
		if fails {
			// What cannot be synced is not registered.
			s.real = must(os.Open(t.TempDir()))(t)
			s.real.Close()
		}
		_, _, err := s.Register(ctx, o)
		wg.Wait()
		s.real = real
		if fails != (err != nil) || fails != (errSecond != nil) {
			t.Errorf("fails %v: %v, %v", fails, err, errSecond)
		}
		for _, p := range []store.Path{in, e.Outputs[0].Path} {
			if ok, err := s.DB().Valid(p); err != nil || ok == fails {
				t.Errorf("%s is valid: %v, %v", p, ok, err)
			}
			if _, err := os.Lstat(s.Real(p)); fails == (err == nil) {
				t.Errorf("in the store: %v", err)
			}
		}
		if _, err := s.Requisites([]store.Path{in}); fails && !errors.Is(err, store.ErrNotValid) || !fails && err != nil {
			t.Errorf("afterwards: %v", err)
		}
		verified(t, s)
	}
}

// What is registered while its requisites are asked for is known at any moment,
// be it that one thing after the other becomes valid.
func TestRequisitesMeanwhile(t *testing.T) {
	s := newState(t)
	a := &s.arrivals
	var infos []store.Info
	for _, name := range []string{"a", "b"} {
		p := must(store.TextPath(testStore, name, nil, nil))(t)
		infos = append(infos, textObject(p, nil, nil, textCA(nil)).info)
	}
	a.add(infos)
	a.mu.Lock()
	type answer struct {
		infos []store.Info
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		infos, err := s.Requisites([]store.Path{infos[1].Path, infos[0].Path}) // the last one is looked up first
		answers <- answer{infos, err}
	}()
	for _, i := range infos {
		waitFor(t, "Requisites", func() bool { return len(answers) > 0 || waits("(*State).Requisites(", "(*RWMutex).RLock(") })
		if err := s.db.Register(context.Background(), db.Registration{Infos: []store.Info{i}}); err != nil {
			t.Error(err)
		}
		delete(a.infos, i.Path)
		// Whoever waits for the lock goes on, as far as to its next question.
		a.mu.Unlock()
		a.mu.Lock()
	}
	a.mu.Unlock()
	if got := <-answers; got.err != nil || len(got.infos) != 2 {
		t.Errorf("%v, %v", got.infos, got.err)
	}
}

// waits reports whether there is a goroutine that f has begun and that is at g.
func waits(f, g string) bool {
	stacks := make([]byte, 1<<20)
	for s := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(s, f) && strings.Contains(s, g) {
			return true
		}
	}
	return false
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
