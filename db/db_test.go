package db

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

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

func register(t testing.TB, d *DB, r Registration) {
	t.Helper()
	if err := d.Register(context.Background(), r); err != nil {
		t.Fatal(err)
	}
}

// The info of a path comes back as it was put in.
func TestInfoRoundTrip(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	dep := testInfo(t, "dep")
	i := testInfo(t, "x", dep.Path, testPath(t, "x"))
	slices.Sort(i.References)
	i.Deriver = testPath(t, "x.drv")
	i.CA = "fixed:r:sha256:abc"
	i.Kind = store.KindSymlink
	i.NarSize = 1 << 40
	register(t, d, Registration{Infos: []store.Info{dep, i}})
	got, err := d.Info(i.Path)
	if diff := cmp.Diff(i, got); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	// What is valid stays as it is.
	j := i
	j.NarSize = 5
	register(t, d, Registration{Infos: []store.Info{j}})
	if got, _ := d.Info(i.Path); got.NarSize != i.NarSize {
		t.Fatalf("it was overwritten: %+v", got)
	}
}

func TestForeignPaths(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	for _, p := range []store.Path{"/elsewhere/abc", "abc", "", "/t/store/", "/t/store/a/b"} {
		if _, err := d.Info(p); !errors.Is(err, store.ErrBadPath) {
			t.Errorf("%q: %v, want ErrBadPath", p, err)
		}
	}
}

func TestReplace(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	a, b, x := testInfo(t, "a"), testInfo(t, "b"), testInfo(t, "x", testPath(t, "a"))
	register(t, d, Registration{Infos: []store.Info{a, b, x}})
	x.References = []store.Path{b.Path}
	x.NarSize = 99
	if err := d.Replace(context.Background(), x); err != nil {
		t.Fatal(err)
	}
	if got, _ := d.Info(x.Path); got.NarSize != 99 {
		t.Fatalf("info %+v", got)
	}
	if r, _ := d.Referrers(a.Path); len(r) != 0 {
		t.Fatalf("referrers of what it does not refer to any more: %v", r)
	}
	if r, _ := d.Referrers(b.Path); !slices.Equal(r, []store.Path{x.Path}) {
		t.Fatalf("referrers %v", r)
	}
}

func TestMemory(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "db.bolt")
	d := open(t, path)
	drv := testInfo(t, "hello-1.drv")
	register(t, d, Registration{
		Infos: []store.Info{drv}, Duration: &Duration{drv.Path, 3 * time.Second},
		Modulos: []Modulo{{drv.Path, map[string]store.Hash{"out": store.HashOf(store.SHA256, nil), "dev": store.HashOf(store.SHA256, []byte("x"))}}},
	})
	// The elder of a new derivation has the same name and another digest.
	young, err := store.TextPath(testDir, "hello-1.drv", []byte("another"), nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &store.Failure{
		Path: drv.Path, Cause: store.CauseTimeout, Message: "too slow", Time: time.Unix(5, 0).UTC(),
		Chain: []store.Path{young, drv.Path},
	}
	if err := d.SetFailures(ctx, []*store.Failure{f}); err != nil {
		t.Fatal(err)
	}
	d.Touch(time.Unix(100, 0), drv.Path, young)
	d.Touch(time.Unix(50, 0), drv.Path)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, path)
	for _, p := range []store.Path{drv.Path, young} {
		if e, ok := d.Expected(p); !ok || e != 3*time.Second {
			t.Errorf("expected duration of %s: %v, %v", p, e, ok)
		}
	}
	// A new version, of a name that has one, takes as long as its elder.
	for name, want := range map[string]bool{"hello-2.12.drv": true, "hello.drv": true, "hello-world-1.drv": false, "-1.drv": false} {
		if e, ok := d.Expected(testPath(t, name)); ok != want || ok && e != 3*time.Second {
			t.Errorf("expected duration of %s: %v, %v", name, e, ok)
		}
	}
	if _, ok := d.Expected(testPath(t, "other.drv")); ok {
		t.Error("a duration out of nothing")
	}
	if m, err := d.Modulo(drv.Path); err != nil || len(m) != 2 || m["out"] != store.HashOf(store.SHA256, nil) {
		t.Errorf("modulo %v, %v", m, err)
	}
	got, err := d.Failure(young)
	if diff := cmp.Diff(f, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if got, err := d.Failure(drv.Path); got != nil || err != nil {
		t.Errorf("the failure is remembered for what was asked for: %v, %v", got, err)
	}
	if last, err := d.LastUse(drv.Path); err != nil || last.Unix() != 100 {
		t.Errorf("last use %v, %v", last, err)
	}
	if last, _ := d.LastUse(young); !last.IsZero() {
		t.Errorf("last use of what is not valid: %v", last)
	}
	if err := d.ClearFailures(ctx, young); err != nil {
		t.Fatal(err)
	}
	if got, _ := d.Failure(young); got != nil {
		t.Errorf("the failure is still there: %v", got)
	}
}

// A closure expression that is only a normal form does not keep what it refers
// to, and goes with it; what else refers to it does.
func TestDeleteOutput(t *testing.T) {
	ctx := context.Background()
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	drv, out := testInfo(t, "x.drv"), testInfo(t, "x")
	out.References = []store.Path{out.Path}
	closure := testInfo(t, "s.store", out.Path)
	user := testInfo(t, "user", out.Path)
	register(t, d, Registration{
		Infos: []store.Info{drv, out, closure, user}, Successor: &Successor{drv.Path, closure.Path},
		Outputs: []KnownOutput{{Path: out.Path, Drv: drv.Path, Name: "out"}},
	})
	if _, err := d.Delete(ctx, out.Path); !errors.Is(err, store.ErrReferenced) || !strings.Contains(err.Error(), string(user.Path)) {
		t.Fatalf("got %v, want ErrReferenced that names %s", err, user.Path)
	}
	if _, err := d.Delete(ctx, user.Path); err != nil {
		t.Fatal(err)
	}
	gone, err := d.Delete(ctx, out.Path)
	want := []store.Path{out.Path, closure.Path}
	slices.Sort(want)
	if err != nil || !slices.Equal(gone, want) {
		t.Fatalf("deleted %v, %v; want %v", gone, err, want)
	}
	if _, ok, _ := d.Successor(drv.Path); ok {
		t.Error("the successor is still there")
	}
	k, err := d.Known(out.Path)
	if err != nil || k.Drv != drv.Path || k.Kind != out.Kind || k.Declared != store.KindUnknown {
		t.Errorf("known: %+v, %v", k, err)
	}
	if n, _ := d.Count(); n != 1 {
		t.Errorf("%d valid paths, want 1", n)
	}
}

// A derivation that is deleted with all that it made leaves nothing but how long its
// name took: else a store that changes for years would grow with all that it ever had.
func TestDeletedDerivationsLeaveNothing(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "db.bolt")
	d := open(t, path)
	drv, out := testInfo(t, "x-1.drv"), testInfo(t, "x")
	closure := testInfo(t, "s.store", out.Path)
	register(t, d, Registration{
		Infos: []store.Info{drv, out, closure}, Successor: &Successor{drv.Path, closure.Path},
		Outputs:  []KnownOutput{{Path: out.Path, Drv: drv.Path, Name: "out", Kind: store.KindRegular}},
		Modulos:  []Modulo{{drv.Path, map[string]store.Hash{"out": store.HashOf(store.SHA256, nil)}}},
		Duration: &Duration{drv.Path, time.Second},
	})
	if err := d.SetFailures(ctx, []*store.Failure{{Path: drv.Path, Cause: store.CauseTimeout}}); err != nil {
		t.Fatal(err)
	}
	d.Touch(time.Unix(100, 0), drv.Path, out.Path)
	for _, p := range []store.Path{out.Path, drv.Path} {
		if _, err := d.Delete(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	if e, ok := d.Expected(drv.Path); !ok || e != time.Second {
		t.Errorf("its name is said to take %v, %v", e, ok)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	left := map[string]int{}
	if err := file.View(func(tx *bolt.Tx) error {
		for b := range buckets {
			if n := b.in(tx).Stats().KeyN; n > 0 {
				left[bucketNames[b]] = n
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	delete(left, "meta")
	if diff := cmp.Diff(map[string]int{"nametimes": 2}, left); diff != "" {
		t.Error(diff)
	}
}
