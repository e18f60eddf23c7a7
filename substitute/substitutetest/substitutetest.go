// Package substitutetest is what every substituter must pass, whatever it gets
// its substitutes from.
package substitutetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"storefs/store"
	"storefs/substitute"
)

// Substituter is what is tested.
type Substituter interface {
	Substitutes(ctx context.Context, p store.Path) ([]substitute.Substitute, error)
}

// Subject is a substituter with what is known about it.
type Subject struct {
	Substituter Substituter
	// Offers are paths that it has substitutes for, each with these, in this
	// order. There must be one with two substitutes or more, unless the kind of
	// substituter never offers more than one.
	Offers map[store.Path][]substitute.Substitute
	// Missing is a path that it has nothing for.
	Missing store.Path
	// Broken is a substituter of the same kind whose source cannot be asked;
	// its errors wrap BrokenError.
	Broken      Substituter
	BrokenError error
}

// Run tests the substituters that open makes; each test opens one of its own.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"Offers":        testOffers,
		"Missing":       testMissing,
		"OwnedByCaller": testOwnedByCaller,
		"Concurrent":    testConcurrent,
		"ContextEnded":  testContextEnded,
		"Broken":        testBroken,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// What is offered is what there is, in order, each time.
func testOffers(t *testing.T, s Subject) {
	if len(s.Offers) == 0 {
		t.Fatal("the subject offers nothing")
	}
	for range 2 {
		for p, want := range s.Offers {
			got, err := s.Substituter.Substitutes(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", p, got, want)
			}
		}
	}
}

// To have nothing is not an error: the path may be made in another way.
func testMissing(t *testing.T, s Subject) {
	got, err := s.Substituter.Substitutes(t.Context(), s.Missing)
	if err != nil || len(got) != 0 {
		t.Errorf("%s: %v, %v; want nothing", s.Missing, got, err)
	}
}

// The normaliser keeps the slice for as long as the goal lives.
func testOwnedByCaller(t *testing.T, s Subject) {
	for p, want := range s.Offers {
		got, err := s.Substituter.Substitutes(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		clear(got)
		got, err = s.Substituter.Substitutes(t.Context(), p)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v after the caller changed its slice", p, got, err)
		}
	}
}

// As many ask at a time as there are slots and callers.
func testConcurrent(t *testing.T, s Subject) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for p, want := range s.Offers {
				got, err := s.Substituter.Substitutes(t.Context(), p)
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%s: %v, %v", p, got, err)
				}
			}
		})
	}
	all.Wait()
}

// A caller who has gone gets the error of its context, not an empty list.
func testContextEnded(t *testing.T, s Subject) {
	why := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	for p := range s.Offers {
		got, err := s.Substituter.Substitutes(ctx, p)
		if !errors.Is(err, context.Canceled) && !errors.Is(err, why) {
			t.Errorf("%s: %v, %v; want the error of the context", p, got, err)
		}
	}
}

// Not to be able to ask is another thing than to have nothing.
func testBroken(t *testing.T, s Subject) {
	for p := range s.Offers {
		got, err := s.Broken.Substitutes(t.Context(), p)
		if err == nil || !errors.Is(err, s.BrokenError) {
			t.Errorf("%s: %v, %v; want an error that wraps %v", p, got, err, s.BrokenError)
		}
		if len(fmt.Sprint(err)) == len(fmt.Sprint(s.BrokenError)) {
			t.Errorf("%s: the error %q does not say what was tried", p, err)
		}
	}
}
