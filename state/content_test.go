package state

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"storefs/event"
	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// fixedContent makes a directory that holds text, in scratch, as the output called name
// of whatever promises its hash.
func fixedContent(s *State, name, text string) (Output, error) {
	dir := s.newScratch("build")
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644)
	}
	if err != nil {
		return Output{}, err
	}
	sum, err := nar.Ingest(context.Background(), dir, nar.IngestOptions{UID: -1, GID: -1})
	if err != nil {
		return Output{}, err
	}
	p, err := store.FixedPath(s.Store(), true, sum.Hash, name, nil, false)
	return Output{Scratch: dir, Info: store.Info{
		Path: p, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size, CA: fixedCA(true, sum.Hash),
	}}, err
}

// promising writes a derivation whose output o is.
func promising(t testing.TB, s *State, o Output, builder string) (store.Path, *storeexpr.Derivation) {
	t.Helper()
	d := &storeexpr.Derivation{
		Outputs: []storeexpr.Output{{Name: "out", Algo: "r:sha256", Hash: o.Info.NarHash.Base16()}}, Platform: "x86_64-linux", Builder: builder,
	}
	if err := d.FillOutputs(s.Store(), o.Info.Path.Name(), nil); err != nil {
		t.Fatal(err)
	}
	if d.Outputs[0].Path != o.Info.Path {
		t.Fatalf("the derivation makes %s, not %s", d.Outputs[0].Path, o.Info.Path)
	}
	return must(s.AddExpr(context.Background(), o.Info.Path.Name()+".drv", d.AppendText(nil), nil))(t), d
}

// What nothing promises becomes valid like anything else, and once a derivation promises
// it there is nothing left to build.
func TestRegisterContent(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	events := s.events.Subscribe(func(e event.Event) bool { return e.Kind == event.Valid })
	wrong, _ := derivation(t, s, "wrong", []string{"out"}, nil, nil)
	in := must(s.Inputs(wrong, nil))(t)
	defer in.Release()
	o := must(fixedContent(s, "x", "content"))(t)
	p := o.Info.Path
	if err := s.RegisterContent(ctx, o, in); err != nil {
		t.Fatal(err)
	}
	events.Close()
	var heard []store.Path
	for {
		es, more := events.Next(ctx)
		for _, e := range es {
			heard = append(heard, e.Paths...)
		}
		if !more {
			break
		}
	}
	if !slices.Contains(heard, p) {
		t.Errorf("nobody is told of %s, only of %v", p, heard)
	}
	info := must(s.DB().Info(p))(t)
	if info.Registered == 0 || info.Deriver != "" || info.CA != o.Info.CA {
		t.Errorf("registered %+v", info)
	}
	if _, err := s.DB().Known(p); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("known: %v, want that nothing is known to make it", err)
	}

	// Once more, it stays as it is.
	again := must(fixedContent(s, "x", "content"))(t)
	if err := s.RegisterContent(ctx, again, in); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(again.Scratch); err != nil {
		t.Errorf("what was valid already: %v", err)
	}
	s.Close()
	s = openState(t, s.Dir())
	if got := must(s.DB().Info(p))(t); got.Registered != info.Registered || got.NarHash != info.NarHash {
		t.Errorf("after reopening %+v, was %+v", got, info)
	}
	verified(t, s)

	drv, _ := promising(t, s, o, "/bin/sh")
	closure := must(s.Normalised(ctx, drv))(t)
	if refs := must(s.DB().Info(closure))(t).References; !slices.Equal(refs, []store.Path{p}) {
		t.Errorf("the normal form has %v", refs)
	}
	if _, ok, err := s.DB().Realised(drv); !ok || err != nil {
		t.Errorf("realised: %v, %v", ok, err)
	}
	verified(t, s)
}

// Why a derivation failed says nothing any more when something else has made what it
// promises.
func TestRegisterContentOfOneThatFailed(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	o := must(fixedContent(s, "x", "content"))(t)
	drv, _ := promising(t, s, o, "/bin/sh")
	if err := s.DB().SetFailures(ctx, []*store.Failure{{Path: drv, Cause: store.CauseBuilder, Message: "no", Chain: []store.Path{drv}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.RegisterContent(ctx, o, nil); err != nil {
		t.Fatal(err)
	}
	if f := must(s.DB().Failure(drv))(t); f != nil {
		t.Errorf("still failed: %v", f)
	}
}

// What may be wrong, or lost, is not registered, and nothing is left of it in the store.
func TestRegisterContentRefused(t *testing.T) {
	ctx := context.Background()
	for name, spoil := range map[string]func(s *State, in *Inputs){
		"an input was repaired": func(s *State, in *Inputs) { s.roots.spoil(in.Infos[0].Path) },
		"a sync failed": func(s *State, _ *Inputs) {
			err := errors.New("no")
			s.lost.Store(&err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newState(t)
			src := must(s.AddText(ctx, "src", []byte("hello"), nil))(t)
			drv, _ := derivation(t, s, "wrong", []string{"out"}, nil, []store.Path{src.Path})
			in := must(s.Inputs(drv, []store.Path{src.Path}))(t)
			defer in.Release()
			o := must(fixedContent(s, "x", "content"))(t)
			spoil(s, in)
			if err := s.RegisterContent(ctx, o, in); err == nil {
				t.Error("it is registered")
			}
			if valid := must(s.DB().Valid(o.Info.Path))(t); valid {
				t.Error("it is valid")
			}
			if _, err := os.Lstat(s.Real(o.Info.Path)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("in the store: %v", err)
			}
			verified(t, s)
		})
	}
}

// One derivation makes what it promises, another one makes the same by mistake, at once:
// neither waits for the other one, and both succeed.
func TestRegisterContentBesideItsDerivation(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	for i := range 26 {
		name := "x" + string(rune('a'+i))
		mistaken := must(fixedContent(s, name, name))(t)
		drv, d := promising(t, s, mistaken, "/bin/sh")
		unlock := must(s.Lock(ctx, d.OutputList(), nil))(t)
		right := must(fixedContent(s, name, name))(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			defer unlock()
			if _, _, err := s.Register(ctx, Outcome{Drv: drv, Derivation: d, Outputs: []Output{right}}); err != nil {
				t.Error(err)
			}
		})
		if err := s.RegisterContent(ctx, mistaken, nil); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if _, ok, err := s.DB().Realised(drv); !ok || err != nil {
			t.Errorf("realised: %v, %v", ok, err)
		}
	}
	verified(t, s)
}
