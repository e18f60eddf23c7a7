package state

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"storefs/event"
	"storefs/nar"
	"storefs/store"
	"storefs/tree"
)

// An output that is valid already stays, and the new one is not taken.
func TestRegisterTwice(t *testing.T) {
	ctx := context.Background()
	s, d, _ := small(t)
	drv := must(s.DB().Known(d.Outputs[0].Path))(t).Drv
	before := must(s.DB().Info(d.Outputs[0].Path))(t)
	outs := build(t, s, d) // without the reference
	infos, _, err := s.Register(ctx, Outcome{Drv: drv, Derivation: d, Outputs: outs, Duration: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if infos[0].NarHash != before.NarHash || outs[0].Info.NarHash == before.NarHash {
		t.Errorf("registered %+v, was %+v", infos[0], before)
	}
	for _, o := range outs {
		if _, err := os.Lstat(o.Scratch); err != nil {
			t.Errorf("scratch: %v", err)
		}
	}
	if e, ok := s.DB().Expected(drv); !ok || e != time.Minute {
		t.Errorf("expected duration %v, %v", e, ok)
	}
	verified(t, s)
}

// Two builds of the same derivation that end at once: one of them counts, and
// the normal form is that one's.
func TestRegisterAtOnce(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	src := must(s.AddText(ctx, "src", []byte("hello"), nil))(t)
	for i := range 20 {
		name := "x" + string(rune('a'+i))
		drv, d := derivation(t, s, name, []string{"out"}, nil, []store.Path{src.Path})
		results := [][]Output{build(t, s, d, src.Path), build(t, s, d)}
		var wg sync.WaitGroup
		for _, outs := range results {
			wg.Go(func() {
				if _, _, err := s.Register(ctx, Outcome{Drv: drv, Derivation: d, Outputs: outs}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		closure, _, _ := s.DB().Successor(drv)
		info := must(s.DB().Info(d.Outputs[0].Path))(t)
		refs := must(s.DB().Info(closure))(t).References
		if slices.Contains(refs, src.Path) != slices.Contains(info.References, src.Path) {
			t.Fatalf("the output refers to %v, its closure to %v", info.References, refs)
		}
	}
	verified(t, s)
}

// A success forgets the failures before it; a reference that is not valid
// refuses the whole.
func TestRegisterFailure(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	drv, d := derivation(t, s, "x", []string{"out"}, nil, nil)
	out := d.Outputs[0].Path
	fail := func(p store.Path) *store.Failure {
		return &store.Failure{Path: p, Cause: store.CauseBuilder, Message: "no"}
	}
	if err := s.DB().SetFailures(ctx, []*store.Failure{fail(drv), fail(out)}); err != nil {
		t.Fatal(err)
	}
	stray := must(store.TextPath(testStore, "stray", nil, nil))(t)
	if _, _, err := s.Register(ctx, Outcome{Drv: drv, Derivation: d, Outputs: build(t, s, d, stray)}); !errors.Is(err, store.ErrNotValid) {
		t.Fatalf("got %v, want ErrNotValid", err)
	}
	if _, err := os.Lstat(s.Real(out)); err == nil {
		t.Error("what was refused is in the store")
	}
	if f := must(s.DB().Failure(drv))(t); f == nil {
		t.Error("the failure is forgotten")
	}
	if _, _, err := s.Register(ctx, Outcome{Drv: drv, Derivation: d, Outputs: build(t, s, d)}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []store.Path{drv, out} {
		if f := must(s.DB().Failure(p))(t); f != nil {
			t.Errorf("still failed: %v", f)
		}
	}
}

func TestDelete(t *testing.T) {
	ctx := context.Background()
	s, d, _ := small(t)
	known := must(s.DB().Known(d.Outputs[0].Path))(t)
	src := must(s.Expr(known.Drv))(t)
	if src == nil {
		t.Fatal("no expression")
	}
	if _, err := s.Delete(ctx, known.Drv, d.Outputs[0].Path, must(store.TextPath(testStore, "no", nil, nil))(t)); !errors.Is(err, store.ErrNotValid) {
		t.Fatalf("got %v, want ErrNotValid", err)
	}
	sources := must(s.DB().Info(known.Drv))(t).References
	if _, err := s.Delete(ctx, sources...); !errors.Is(err, store.ErrReferenced) {
		t.Fatalf("got %v, want ErrReferenced", err)
	}
	if _, err := os.Lstat(s.Real(sources[0])); err != nil {
		t.Fatal("a refused deletion deleted")
	}
	sub := s.events.Subscribe(nil)
	gone := must(s.Delete(ctx, known.Drv))(t)
	if len(gone) != 2 { // with its normal form
		t.Fatalf("deleted %v", gone)
	}
	events, _ := sub.Next(ctx)
	if len(events) != 1 || events[0].Kind != event.Deleted || !slices.Equal(events[0].Paths, gone) {
		t.Fatalf("events %+v", events)
	}
	if _, err := s.Expr(known.Drv); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("the expression can still be read: %v", err)
	}
	if _, err := s.DB().Known(d.Outputs[0].Path); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("its output is still known: %v", err)
	}
	if left := must(os.ReadDir(s.Builds()))(t); len(left) > 0 {
		t.Errorf("left in scratch: %v", left)
	}
	verified(t, s)
}

func TestVerifyAndRepair(t *testing.T) {
	ctx := context.Background()
	s, d, _ := small(t)
	dev, out := d.Outputs[0].Path, d.Outputs[1].Path
	overwrite(t, s.Real(dev)+"/file", "damaged")
	if err := tree.RemoveAll(s.Real(out)); err != nil {
		t.Fatal(err)
	}
	src := must(s.DB().Info(out))(t).References[0]
	var found []Problem
	report := func(p Problem) { found = append(found, p) }
	sum := must(s.Verify(ctx, VerifyOptions{}, report))(t)
	if sum.Problems != 1 || found[0].Path != out {
		t.Fatalf("without contents: %+v, %+v", sum, found)
	}
	sum = must(s.Verify(ctx, VerifyOptions{Contents: true}, report))(t)
	if sum.Problems != 2 || sum.Repaired != 0 {
		t.Fatalf("with contents: %+v", sum)
	}
	refuse := errors.New("cannot be made again")
	sum = must(s.Verify(ctx, VerifyOptions{Contents: true, Repair: func(context.Context, store.Info) (Output, func(), error) {
		return Output{}, nil, refuse
	}}, report))(t)
	if sum.Repaired != 0 {
		t.Fatalf("repaired out of nothing: %+v", sum)
	}
	released := 0
	repair := func(_ context.Context, i store.Info) (Output, func(), error) {
		for _, o := range build(t, s, d, src) {
			if o.Info.Path == i.Path {
				return o, func() { released++ }, nil
			}
		}
		return Output{}, nil, refuse
	}
	sum = must(s.Verify(ctx, VerifyOptions{Contents: true, Repair: repair}, report))(t)
	if sum.Problems != 2 || sum.Repaired != 2 || released != 2 {
		t.Fatalf("repair: %+v, released %d", sum, released)
	}
	verified(t, s)
	// One that came out otherwise this time.
	overwrite(t, s.Real(dev)+"/file", "damaged")
	other := func(_ context.Context, i store.Info) (Output, func(), error) { return build(t, s, d)[0], nil, nil }
	if sum = must(s.Verify(ctx, VerifyOptions{Contents: true, Repair: other}, report))(t); sum.Repaired != 1 {
		t.Fatalf("repair: %+v", sum)
	}
	if h := must(nar.HashPath(ctx, s.Real(dev)))(t).Hash; h != must(s.DB().Info(dev))(t).NarHash {
		t.Error("what is registered is not what is there")
	}
	verified(t, s)
}
