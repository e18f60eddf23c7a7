package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"storefs/daemon"
	"storefs/state"
	"storefs/store"
)

// What is there already is not sent again, unless it says something new.
func TestInstantiateAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := state.Init(dir, "/nix/store"); err != nil {
		t.Fatal(err)
	}
	a, _, _ := capture(t)
	a.State = dir
	own, err := openOwner(a, ownerOptions{role: "instantiate", sandbox: sandboxFlags{NoSpawner: true}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a.star")
	write := func(kind string) {
		t.Helper()
		text := `base = derivation("base", "/b")
default = derivation("top", base, kind = "` + kind + `")
`
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err = a.alone(t.Context(), own, func(c *daemon.Client) error {
		evaluate := func() *planReport {
			t.Helper()
			plan, err := a.evaluate(t.Context(), c, file, "", argFlags{})
			if err != nil {
				t.Fatal(err)
			}
			r := &planReport{}
			for _, x := range plan.Exprs {
				r.all = append(r.all, x.Path)
				r.declared = append(r.declared, daemon.Declaration{Path: x.Path, Kinds: x.Kinds})
			}
			r.out = plan.Targets[0].Path
			return r
		}
		missing := func(r *planReport) []store.Path {
			t.Helper()
			got, err := c.MissingExprs(t.Context(), r.declared)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		kind := func(r *planReport) store.Kind {
			t.Helper()
			k, err := own.state.DB().Known(r.out)
			if err != nil {
				t.Fatal(err)
			}
			return k.Declared
		}
		write("directory")
		first := evaluate()
		if got := missing(first); len(got) > 0 || kind(first) != store.KindDirectory {
			t.Errorf("missing after it was added: %v, of kind %s", got, kind(first))
		}
		write("regular")
		second := evaluate()
		if !slices.Equal(first.all, second.all) || kind(second) != store.KindRegular {
			t.Errorf("declared anew: %v, of kind %s", second.all, kind(second))
		}
		if got := missing(first); !slices.Equal(got, first.all[1:]) {
			t.Errorf("what says otherwise: %v, want the second of %v", got, first.all)
		}
		// One that is lost is put back.
		if err := os.Remove(own.state.Real(first.all[0])); err != nil {
			t.Fatal(err)
		}
		if got := missing(second); !slices.Equal(got, first.all[:1]) {
			t.Errorf("lost: %v, want the first of %v", got, first.all)
		}
		evaluate()
		if own.state.Lost(first.all[0]) {
			t.Error("it was not put back")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

type planReport struct {
	all      []store.Path
	declared []daemon.Declaration
	out      store.Path
}
