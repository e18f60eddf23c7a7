package state

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"

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
