package state

import (
	"context"
	"errors"
	"strings"
	"testing"

	"storefs/store"
)

// What builds use is not deleted, and is once they have let go of it.
func TestInputsAreRoots(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	lib := must(s.AddText(ctx, "lib", []byte("lib"), nil))(t)
	user := must(s.AddText(ctx, "user", []byte("uses "+string(lib.Path)), []store.Path{lib.Path}))(t)
	other := must(s.AddText(ctx, "other", []byte("other"), nil))(t)
	drv, _ := derivation(t, s, "x", []string{"out"}, nil, nil)
	first := must(s.Inputs(drv, []store.Path{user.Path}))(t)
	second := must(s.Inputs(drv, []store.Path{user.Path}))(t)
	if len(first.Infos) != 2 || first.Era != second.Era {
		t.Fatalf("%+v", first)
	}
	for _, in := range []*Inputs{first, second} {
		for _, paths := range [][]store.Path{{user.Path}, {lib.Path, user.Path}, {other.Path, user.Path}, {drv}} {
			if _, err := s.Delete(ctx, paths...); !errors.Is(err, store.ErrReferenced) || !strings.Contains(err.Error(), "by the running build of "+string(drv)) {
				t.Errorf("delete %v: %v", paths, err)
			}
		}
		in.Release()
	}
	if _, err := s.Delete(ctx, user.Path, lib.Path); err != nil {
		t.Fatal(err)
	}
	third := must(s.Inputs(drv, []store.Path{other.Path}))(t)
	defer third.Release()
	if third.Era == first.Era {
		t.Error("a deletion ends no era")
	}
	if err := third.Err(); err != nil {
		t.Error(err)
	}
}

// Nothing is registered of what was built while an input of it was repaired.
func TestInputIsRepaired(t *testing.T) {
	ctx := context.Background()
	s, d, _ := small(t)
	dev, out := d.Outputs[0].Path, d.Outputs[1].Path
	drv, next := derivation(t, s, "next", []string{"out"}, nil, nil)
	spoilt, whole := must(s.Inputs(drv, []store.Path{dev}))(t), must(s.Inputs(drv, []store.Path{out}))(t)
	defer spoilt.Release()
	defer whole.Release()
	overwrite(t, s.Real(dev)+"/file", "damaged")
	if p, err := s.VerifyPath(ctx, dev, VerifyOptions{Contents: true, Repair: func(context.Context, store.Info) (Output, func(), error) {
		return build(t, s, d, spoilt.Infos[0].References...)[0], nil, nil
	}}); err != nil || !p.Repaired {
		t.Fatal(p, err)
	}
	later := must(s.Inputs(drv, []store.Path{dev}))(t)
	defer later.Release()
	if later.Era == spoilt.Era {
		t.Error("a repair ends no era")
	}
	register := func(in *Inputs) error {
		_, _, err := s.Register(ctx, Outcome{Drv: drv, Derivation: next, Inputs: in, Outputs: build(t, s, next)})
		return err
	}
	if err := register(spoilt); err == nil || !strings.Contains(err.Error(), "its input "+string(dev)+" was repaired") {
		t.Errorf("%v", err)
	}
	if valid := must(s.DB().Valid(next.Outputs[0].Path))(t); valid {
		t.Error("it is valid nevertheless")
	}
	for _, in := range []*Inputs{whole, later} {
		if err := register(in); err != nil {
			t.Error(err)
		}
	}
}
