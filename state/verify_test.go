package state

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"storefs/store"
)

// What is made in the place of something damaged does not come into the store when
// that was deleted meanwhile, or built again, or when what it refers to was.
func TestRepairComesTooLate(t *testing.T) {
	ctx := context.Background()
	for what, test := range map[string]struct {
		refers bool // what is made refers to src
		change func(t *testing.T, s *State, o Outcome, src store.Path)
		valid  bool   // the path is afterwards
		want   string // in the message
	}{
		"deleted": {change: func(t *testing.T, s *State, o Outcome, _ store.Path) {
			must(s.Delete(ctx, o.Outputs[0].Info.Path))(t)
		}, want: store.ErrNotValid.Error()},
		"built again": {change: func(t *testing.T, s *State, o Outcome, src store.Path) {
			must(s.Delete(ctx, o.Outputs[0].Info.Path))(t)
			o.Outputs = build(t, s, o.Derivation, src)
			if _, _, err := s.Register(ctx, o); err != nil {
				t.Error(err)
			}
		}, valid: true, want: errBeaten.Error()},
		"what it refers to is deleted": {refers: true, change: func(t *testing.T, s *State, _ Outcome, src store.Path) {
			must(s.Delete(ctx, src))(t)
		}, valid: true, want: store.ErrNotValid.Error()},
	} {
		t.Run(what, func(t *testing.T) {
			s := newState(t)
			src := must(s.AddText(ctx, "src", []byte("hello"), nil))(t)
			drv, d := derivation(t, s, "x", []string{"out"}, nil, nil)
			o := Outcome{Drv: drv, Derivation: d, Outputs: build(t, s, d)}
			infos, _, err := s.Register(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			out := infos[0].Path
			file := filepath.Join(s.Real(out), "file")
			overwrite(t, file, "damaged")
			p, err := s.VerifyPath(ctx, out, VerifyOptions{Contents: true, Repair: func(context.Context, store.Info) (Output, func(), error) {
				var refs []store.Path
				if test.refers {
					refs = append(refs, src.Path)
				}
				made := build(t, s, d, refs...)[0]
				test.change(t, s, o, src.Path)
				return made, nil, nil
			}})
			if err != nil || p == nil || p.Repaired || !strings.Contains(p.Message, test.want) {
				t.Errorf("%+v, %v; want %q", p, err, test.want)
			}
			_, err = s.db.Info(out)
			if !test.valid && !errors.Is(err, store.ErrNotValid) || test.valid && err != nil {
				t.Error(err)
			}
			text, err := os.ReadFile(file)
			switch {
			case !test.valid && !errors.Is(err, os.ErrNotExist):
				t.Errorf("it is there again: %v", err)
			case test.refers && string(text) != "damaged":
				t.Errorf("it was changed: %q, %v", text, err)
			case test.valid && !test.refers:
				if d, err := s.db.Damage(out); d != nil || err != nil {
					t.Errorf("what is not damaged is noted: %v, %v", d, err)
				}
				verified(t, s)
			}
		})
	}
}

// Once the new one has the place of the old, a caller that goes away changes nothing; and
// what is there and could not be registered is known to be there.
func TestRepairIsNotDoneByHalves(t *testing.T) {
	for _, fails := range []bool{false, true} {
		s := newState(t)
		drv, d := derivation(t, s, "x", []string{"out"}, nil, nil)
		out := d.Outputs[0].Path
		if _, _, err := s.Register(t.Context(), Outcome{Drv: drv, Derivation: d, Outputs: build(t, s, d)}); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(s.Real(out), "file")
		right := must(os.ReadFile(file))(t)
		overwrite(t, file, "damaged")
		ctx, cancel := context.WithCancel(t.Context())
		inTheWay := filepath.Join(s.filesOf(out), "a", "directory")
		var told []bool
		_, err := s.VerifyPath(ctx, out, VerifyOptions{
			Contents: true,
			Repair:   func(context.Context, store.Info) (Output, func(), error) { return build(t, s, d)[0], nil, nil },
			Replacing: func(context.Context, store.Info, store.Info) (func(bool), error) {
				if fails {
					if err := os.MkdirAll(inTheWay, 0o755); err != nil {
						t.Fatal(err)
					}
				} else {
					cancel()
				}
				return func(replaced bool) { told = append(told, replaced) }, nil
			},
		})
		cancel()
		if err != nil {
			t.Errorf("fails %v: %v", fails, err)
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != string(right) {
			t.Errorf("fails %v: %q, %v", fails, text, err)
		}
		if !slices.Equal(told, []bool{true}) {
			t.Errorf("fails %v: told %v", fails, told)
		}
		damage := must(s.db.Damage(out))(t)
		if damage == nil || damage.Repaired.IsZero() != fails {
			t.Errorf("fails %v: what is noted is %+v", fails, damage)
		}
	}
}

// A path that is deleted, or built again, while it is being read is not damaged:
// whoever finds it so waits for the lock, and looks once more.
func TestBuiltAgainWhileItIsRead(t *testing.T) {
	ctx := context.Background()
	for _, again := range []bool{false, true} {
		s := newState(t)
		src := must(s.AddText(ctx, "src", []byte("hello"), nil))(t)
		drv, d := derivation(t, s, "x", []string{"out"}, nil, nil)
		register := func(refs ...store.Path) {
			t.Helper()
			if _, _, err := s.Register(ctx, Outcome{Drv: drv, Derivation: d, Outputs: build(t, s, d, refs...)}); err != nil {
				t.Error(err)
			}
		}
		register()
		out := d.Outputs[0].Path
		unlock, err := s.Lock(ctx, []store.Path{out}, nil)
		if err != nil {
			t.Fatal(err)
		}
		overwrite(t, filepath.Join(s.Real(out), "file"), "what is half gone")
		type answer struct {
			problem *Problem
			err     error
		}
		answers := make(chan answer, 1)
		go func() {
			p, err := s.VerifyPath(ctx, out, VerifyOptions{Contents: true})
			answers <- answer{p, err}
		}()
		waitFor(t, "the lock", func() bool { return len(answers) > 0 || waits("(*State).VerifyPath(", "(*State).Lock(") })
		if _, _, err := s.unregister(ctx, []store.Path{out}); err != nil {
			t.Error(err)
		}
		if again {
			register(src.Path) // it differs from the one before
		}
		unlock()
		if got := <-answers; got.problem != nil || got.err != nil {
			t.Errorf("again %v: %+v, %v", again, got.problem, got.err)
		}
		if damage, err := s.db.Damage(out); damage != nil || err != nil {
			t.Errorf("again %v: it is noted: %+v, %v", again, damage, err)
		}
		verified(t, s)
	}
}

func TestExchangeInSteps(t *testing.T) {
	dir := t.TempDir()
	scratch, to := filepath.Join(dir, "scratch"), filepath.Join(dir, "to")
	if err := errors.Join(os.MkdirAll(filepath.Join(scratch, "new"), 0o755), os.WriteFile(to, []byte("old"), 0o444)); err != nil {
		t.Fatal(err)
	}
	if err := exchangeInSteps(scratch, to); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(to, "new")); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(scratch); err != nil || string(text) != "old" {
		t.Errorf("%q %v", text, err)
	}
	// What cannot be put in place leaves what is there.
	if err := exchangeInSteps(filepath.Join(dir, "none"), to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that there is none", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}
