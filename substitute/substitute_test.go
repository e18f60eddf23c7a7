package substitute_test

import (
	"errors"
	"testing"

	"storefs/db"
	"storefs/store"
	"storefs/substitute"
	"storefs/substitute/substitutetest"
)

const dir = store.Dir("/s")

func path(t *testing.T, name string) store.Path {
	t.Helper()
	p, err := store.TextPath(dir, name, []byte(name), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var errBroken = errors.New("the disk is gone")

// broken is a database that cannot be read.
type broken struct{}

func (broken) Substitutes(store.Path) ([]store.Path, error) { return nil, errBroken }

func TestRegistered(t *testing.T) {
	substitutetest.Run(t, func(t *testing.T) substitutetest.Subject {
		d, err := db.Open(t.TempDir()+"/db.bolt", dir, db.Options{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		s := substitutetest.Subject{
			Substituter: substitute.Registered{DB: d},
			Offers:      map[store.Path][]substitute.Substitute{},
			Missing:     path(t, "missing"),
			Broken:      substitute.Registered{DB: broken{}},
			BrokenError: errBroken,
		}
		for p, exprs := range map[string][]string{"p": {"one.store", "two.store", "three.store"}, "q": {"one.store"}} {
			for _, e := range exprs {
				text := store.Info{Path: path(t, e), Kind: store.KindRegular, NarHash: store.HashOf(store.SHA256, []byte(e)), NarSize: 1}
				if err := d.Register(t.Context(), db.Registration{Infos: []store.Info{text}}); err != nil {
					t.Fatal(err)
				}
				if err := d.AddSubstitute(t.Context(), path(t, p), path(t, e)); err != nil {
					t.Fatal(err)
				}
				// What was registered last is tried first.
				s.Offers[path(t, p)] = append([]substitute.Substitute{{Expr: path(t, e)}}, s.Offers[path(t, p)]...)
			}
		}
		return s
	})
}
