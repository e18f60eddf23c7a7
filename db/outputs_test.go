package db

import (
	"path/filepath"
	"slices"
	"testing"

	"storefs/store"
)

func TestRealised(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	drv, dev, out, old := testInfo(t, "x.drv"), testInfo(t, "x-dev"), testInfo(t, "x"), testInfo(t, "old.drv")
	closure := testInfo(t, "s.store", dev.Path, out.Path)
	is := func(what string, p store.Path, want ...store.Path) {
		t.Helper()
		got, ok, err := d.Realised(p)
		if err != nil || ok != (len(want) > 0) || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, %v; want %v", what, got, ok, err, want)
		}
	}
	is("unknown", drv.Path)
	// The order is that of names, and not of paths.
	names := map[store.Path]string{out.Path: "out", dev.Path: "dev"}
	want := []store.Path{dev.Path, out.Path}
	if dev.Path < out.Path {
		names = map[store.Path]string{out.Path: "dev", dev.Path: "out"}
		want = []store.Path{out.Path, dev.Path}
	}
	register(t, d, Registration{
		Infos:   []store.Info{drv, dev},
		Outputs: []KnownOutput{{Path: out.Path, Drv: drv.Path, Name: names[out.Path]}, {Path: dev.Path, Drv: drv.Path, Name: names[dev.Path]}},
	})
	is("some outputs are valid", drv.Path)
	register(t, d, Registration{Infos: []store.Info{out, closure}})
	is("there is no successor", drv.Path)
	register(t, d, Registration{Successor: &Successor{drv.Path, closure.Path}})
	is("realised", drv.Path, want...)
	register(t, d, Registration{Infos: []store.Info{old}, Successor: &Successor{old.Path, closure.Path}, Outputs: []KnownOutput{{Path: out.Path, Drv: old.Path}}})
	is("of 2004", old.Path)
	is("a closure", closure.Path)
	if _, err := d.Delete(t.Context(), out.Path); err != nil {
		t.Fatal(err)
	}
	is("an output is deleted", drv.Path)
}

func TestNotDeclared(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	drv, other, dev, out := testInfo(t, "x.drv"), testInfo(t, "y.drv"), testInfo(t, "x-dev"), testInfo(t, "x")
	directory, regular := store.KindDirectory, store.KindRegular
	is := func(what string, changes bool, kinds map[string]store.Kind) {
		t.Helper()
		got, err := d.NotDeclared([]Declaration{{drv.Path, kinds}})
		if err != nil || len(got) > 0 != changes || changes && got[0] != drv.Path {
			t.Errorf("%s: %v, %v; want a change: %v", what, got, err, changes)
		}
	}
	both := map[string]store.Kind{"out": directory, "dev": regular}
	is("unknown", true, both)
	outputs := []KnownOutput{
		{Path: out.Path, Drv: drv.Path, Name: "out", Kind: directory},
		{Path: dev.Path, Drv: drv.Path, Name: "dev", Kind: regular},
	}
	register(t, d, Registration{Infos: []store.Info{drv}})
	is("valid, without outputs", true, both)
	register(t, d, Registration{Outputs: outputs})
	is("the same", false, both)
	is("another kind", true, map[string]store.Kind{"out": directory, "dev": directory})
	is("fewer outputs", true, map[string]store.Kind{"out": directory})
	is("more outputs", true, map[string]store.Kind{"out": directory, "dev": regular, "lib": directory})
	is("none", true, nil)
	register(t, d, Registration{Infos: []store.Info{other}, Outputs: []KnownOutput{{Path: dev.Path, Drv: other.Path, Name: "out"}}})
	is("another derivation makes it since", true, both)
	register(t, d, Registration{Outputs: outputs})
	is("the same again", false, both)
	if _, err := d.Delete(t.Context(), drv.Path); err != nil {
		t.Fatal(err)
	}
	is("deleted", true, both)
	got, err := d.NotDeclared([]Declaration{{other.Path, nil}, {drv.Path, both}, {out.Path, both}})
	if err != nil || !slices.Equal(got, []store.Path{other.Path, drv.Path, out.Path}) {
		t.Errorf("of several: %v, %v", got, err)
	}
	if _, err := d.NotDeclared([]Declaration{{"/elsewhere/x", nil}}); err == nil {
		t.Error("a path of another store is no error")
	}
}
