package db

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"storefs/store"
)

const testDir = store.Dir("/t/store")

func open(t *testing.T, path string) *DB {
	t.Helper()
	d, err := Open(path, testDir, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func testPath(t testing.TB, name string) store.Path {
	t.Helper()
	p, err := store.TextPath(testDir, name, []byte(name), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func testInfo(t testing.TB, name string, refs ...store.Path) store.Info {
	t.Helper()
	return store.Info{
		Path: testPath(t, name), Kind: store.KindDirectory, NarHash: store.HashOf(store.SHA256, []byte(name)),
		NarSize: int64(len(name)), References: refs, Registered: 7,
	}
}

func TestRegisterRefersToMissing(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	a := testInfo(t, "a", testPath(t, "b"))
	if err := d.Register(context.Background(), Registration{Infos: []store.Info{a}}); !errors.Is(err, store.ErrNotValid) {
		t.Fatalf("got %v, want ErrNotValid", err)
	}
	if err := d.Register(context.Background(), Registration{Infos: []store.Info{a, testInfo(t, "b")}}); err != nil {
		t.Fatal(err)
	}
	reqs, err := d.Requisites([]store.Path{a.Path})
	if err != nil || len(reqs) != 2 {
		t.Fatalf("requisites: %v, %v", reqs, err)
	}
}

func TestSecondOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.bolt")
	open(t, path)
	if _, err := Open(path, testDir, Options{}); !errors.Is(err, store.ErrInUse) {
		t.Fatalf("got %v, want ErrInUse", err)
	}
}
