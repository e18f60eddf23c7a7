package state

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

func TestVerifyFinds(t *testing.T) {
	for what, test := range map[string]struct {
		change   func(path string) error
		contents bool // it takes a look at them
		want     string
	}{
		"missing": {os.Remove, false, "it is missing"},
		"of another kind": {func(path string) error {
			return errors.Join(os.Remove(path), os.Symlink("elsewhere", path))
		}, false, "it is of the kind "},
		"to be written to": {func(path string) error { return os.Chmod(path, 0o644) }, false, "its mode is 0644, not 0444"},
		"younger": {func(path string) error {
			return os.Chtimes(path, time.Unix(2, 0), time.Unix(2, 0))
		}, false, "its time is 1970-01-01 00:00:02 UTC, not 1970-01-01 00:00:01 UTC"},
		"of the same size": {func(path string) error { overwrite(t, path, "hellO"); return nil }, true, "its NAR has the hash "},
	} {
		t.Run(what, func(t *testing.T) {
			s := newState(t)
			src := must(s.AddText(t.Context(), "src", []byte("hello"), nil))(t)
			if err := test.change(s.Real(src.Path)); err != nil {
				t.Fatal(err)
			}
			for _, contents := range []bool{false, true} {
				p, err := s.VerifyPath(t.Context(), src.Path, VerifyOptions{Contents: contents})
				if found := contents || !test.contents; err != nil || found != (p != nil) || found && !strings.HasPrefix(p.Message, test.want) {
					t.Errorf("contents %v: %+v, %v; want %q", contents, p, err, test.want)
				}
			}
		})
	}
}

// What could not be looked at, because this process has no descriptor left, is neither
// noted as damaged nor repaired.
func TestVerifyWithoutDescriptors(t *testing.T) {
	s := newState(t)
	drv, d := derivation(t, s, "x", []string{"out"}, nil, nil)
	infos, _, err := s.Register(t.Context(), Outcome{Drv: drv, Derivation: d, Outputs: build(t, s, d)})
	if err != nil {
		t.Fatal(err)
	}
	out := infos[0].Path
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	p, err := s.VerifyPath(t.Context(), out, VerifyOptions{
		Contents: true,
		Repair: func(context.Context, store.Info) (Output, func(), error) {
			return Output{}, nil, errors.New("it was to be made anew")
		},
	})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if p != nil || !errors.Is(err, unix.EMFILE) {
		t.Errorf("%+v, %v; want only that there are too many open files", p, err)
	}
	if d, err := s.db.Damage(out); d != nil || err != nil {
		t.Errorf("it is noted as damaged: %+v, %v", d, err)
	}
	verified(t, s)
}

// What has its path from its contents is repaired by nothing else.
func TestRepairMakesAnother(t *testing.T) {
	for want, samePath := range map[string]bool{"the repair made ": false, "what was made has the hash ": true} {
		s := newState(t)
		src := must(s.AddText(t.Context(), "src", []byte("hello"), nil))(t)
		_, d := derivation(t, s, "x", []string{"out"}, nil, nil)
		overwrite(t, s.Real(src.Path), "damaged")
		p, err := s.VerifyPath(t.Context(), src.Path, VerifyOptions{Contents: true, Repair: func(context.Context, store.Info) (Output, func(), error) {
			made := build(t, s, d)[0]
			if samePath {
				made.Info.Path = src.Path
			}
			return made, nil, nil
		}})
		if err != nil || p == nil || p.Repaired || !strings.Contains(p.Message, "; not repaired: "+want) {
			t.Errorf("%+v, %v; want %q", p, err, want)
		}
		if text, err := os.ReadFile(s.Real(src.Path)); err != nil || string(text) != "damaged" {
			t.Errorf("it became %q, %v", text, err)
		}
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

// What comes in the place of something else is a store object there, also on XFS, which
// gives a directory that is exchanged a new time.
func TestExchange(t *testing.T) {
	dir := t.TempDir()
	scratch, to := filepath.Join(dir, "scratch"), filepath.Join(dir, "real", "to")
	if err := errors.Join(os.Mkdir(scratch, 0o555), os.MkdirAll(to, 0o555), os.Mkdir(filepath.Join(dir, "builds"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := (&State{dir: dir}).exchange(scratch, to, store.KindDirectory); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(to); err != nil || st.Mode().Perm() != 0o555 || !st.ModTime().Equal(time.Unix(1, 0)) {
		t.Errorf("%v %v (%v)", st.Mode(), st.ModTime(), err)
	}
}

func TestExchangeInSteps(t *testing.T) {
	dir := t.TempDir()
	scratch, to, ready := filepath.Join(dir, "scratch"), filepath.Join(dir, "to"), filepath.Join(dir, "ready")
	if err := errors.Join(os.MkdirAll(filepath.Join(scratch, "new"), 0o755), os.WriteFile(to, []byte("old"), 0o444)); err != nil {
		t.Fatal(err)
	}
	if err := exchangeInSteps(scratch, to, ready); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(to, "new")); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(scratch); err != nil || string(text) != "old" {
		t.Errorf("%q %v", text, err)
	}
	// What cannot be put in place leaves what is there, and what there is of itself.
	none := filepath.Join(dir, "none")
	for _, err := range []error{exchangeInSteps(none, to, ready), exchangeInSteps(scratch, none, ready)} {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want that there is none", err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 || left[0].Name() != "scratch" || left[1].Name() != "to" {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What cannot be moved is removed, when what comes in its place is there.
func TestReplaceInSteps(t *testing.T) {
	dir := t.TempDir()
	scratch, to, ready := filepath.Join(dir, "scratch"), filepath.Join(dir, "to"), filepath.Join(dir, "ready")
	if err := errors.Join(os.MkdirAll(filepath.Join(scratch, "new"), 0o755), os.MkdirAll(filepath.Join(to, "old"), 0o755), os.Mkdir(to+".new", 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := replaceInSteps(scratch, to, ready); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(to, "new")); err != nil {
		t.Error(err)
	}
	if err := replaceInSteps(filepath.Join(dir, "none"), to, ready); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that there is none", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "to" {
		t.Errorf("left: %v, %v", left, err)
	}
}

// An owner that is killed while it removes what it repairs has what comes in its place ready:
// there may be no other way to make it. The next one puts it there.
func TestKilledWhileReplacing(t *testing.T) {
	s := newState(t)
	half := addTree(t, s, "half")
	deleted := must(store.TextPath(testStore, "deleted", nil, nil))(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ready := s.replacement(half.Base())
	if out, err := exec.Command("cp", "-a", s.Real(half), ready).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, err := range []error{
		os.Chmod(ready, 0o755), // as what is to be moved is
		os.Chmod(s.Real(half), 0o755),
		os.Remove(filepath.Join(s.Real(half), "file")),
		os.WriteFile(s.replacement(deleted.Base()), nil, 0o444),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s = openState(t, s.Dir())
	if lines := problems(t, s, VerifyOptions{Contents: true}); len(lines) > 0 {
		t.Errorf("problems: %q", lines)
	}
	if left, err := os.ReadDir(s.Builds()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	gone(t, s, deleted)
}
