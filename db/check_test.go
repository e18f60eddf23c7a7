package db

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"storefs/store"
)

// checked is a database in which all is right, and what is in it: what user refers to
// is dep, and closure is the normal form of drv, which makes out.
func checked(t *testing.T) (d *DB, path map[string]store.Path) {
	t.Helper()
	d = open(t, filepath.Join(t.TempDir(), "db.bolt"))
	path = map[string]store.Path{"out": testPath(t, "out")}
	var r Registration
	for _, name := range []string{"dep", "user", "drv", "closure"} {
		var refs []store.Path
		if name == "user" {
			refs = append(refs, path["dep"])
		}
		r.Infos = append(r.Infos, testInfo(t, name, refs...))
		path[name] = testPath(t, name)
	}
	r.Successor = &Successor{path["drv"], path["closure"]}
	r.Outputs = []KnownOutput{{Path: path["out"], Drv: path["drv"], Name: "out"}}
	register(t, d, r)
	return d, path
}

// alter writes past all rules.
func alter(t *testing.T, d *DB, do func(w writer) error) {
	t.Helper()
	if err := d.update(t.Context(), false, do); err != nil {
		t.Fatal(err)
	}
}

// problems are what Check reports, with names in the place of paths.
func problems(t *testing.T, d *DB, path map[string]store.Path) (found []string) {
	t.Helper()
	names := []string{string(testDir) + "/", ""}
	for name, p := range path {
		names = append(names, string(p), name, p.Base(), name)
	}
	short := strings.NewReplacer(names...)
	if err := d.Check(t.Context(), func(p store.Path, message string) {
		found = append(found, short.Replace(string(p)+": "+message))
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCheckFinds(t *testing.T) {
	for what, c := range map[string]struct {
		change func(w writer, base func(name string) string) error
		want   []string
	}{
		"nothing": {func(writer, func(string) string) error { return nil }, nil},
		"what cannot be read": {func(w writer, base func(string) string) error {
			return w.put(bucketValid, base("dep"), []byte{1, 2})
		}, []string{"dep: the entry of dep: " + ErrDamaged.Error()}},
		"a reference": {func(w writer, base func(string) string) error {
			return w.del(bucketValid, base("dep"))
		}, []string{"user: it refers to dep, which is not valid"}},
		"a referrer that is missing": {func(w writer, base func(string) string) error {
			return w.del(bucketReferrers, pair(base("dep"), base("user")))
		}, []string{"user: it is not among the referrers of dep"}},
		"a referrer that is not valid": {func(w writer, base func(string) string) error {
			return w.putPair(bucketReferrers, base("dep"), "gone")
		}, []string{"dep: its referrer gone is not valid"}},
		"a referrer that is none": {func(w writer, base func(string) string) error {
			return w.putPair(bucketReferrers, base("dep"), base("drv"))
		}, []string{"dep: its referrer drv does not refer to it"}},
		"a normal form": {func(w writer, base func(string) string) error {
			return w.del(bucketValid, base("closure"))
		}, []string{"drv: it has the normal form closure, but closure is not valid"}},
		"a derivation": {func(w writer, base func(string) string) error {
			return w.del(bucketValid, base("drv"))
		}, []string{
			"drv: it has the normal form closure, but drv is not valid",
			"out: it is an output of drv, which is not valid",
		}},
		"a predecessor that is missing": {func(w writer, base func(string) string) error {
			return w.del(bucketPredecessors, pair(base("closure"), base("drv")))
		}, []string{"drv: it is not among the predecessors of its normal form closure"}},
		"a predecessor that is none": {func(w writer, base func(string) string) error {
			return w.putPair(bucketPredecessors, base("closure"), base("user"))
		}, []string{"closure: it is not the normal form of its predecessor user"}},
		"a deriver": {func(w writer, base func(string) string) error {
			return w.del(bucketDerivers, pair(base("out"), base("drv")))
		}, []string{"out: drv makes it, but is not among its derivers"}},
		"an output": {func(w writer, base func(string) string) error {
			return w.del(bucketOutputs, base("out"))
		}, []string{"out: drv makes it, but it is not known"}},
	} {
		t.Run(what, func(t *testing.T) {
			d, path := checked(t)
			alter(t, d, func(w writer) error {
				return c.change(w, func(name string) string { return path[name].Base() })
			})
			if found := problems(t, d, path); !slices.Equal(found, c.want) {
				t.Errorf("found\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// What is in more than one transaction is looked at once.
func TestCheckMany(t *testing.T) {
	const many = 2*checkChunk + 1
	d, path := checked(t)
	alter(t, d, func(w writer) error {
		var err error
		for i := 0; i < many && err == nil; i++ {
			err = w.putPair(bucketReferrers, path["dep"].Base(), fmt.Sprintf("gone-%d", i))
		}
		return err
	})
	found := problems(t, d, path)
	if slices.Sort(found); len(found) != many || len(slices.Compact(found)) != many {
		t.Errorf("%d problems, %d of them different, want %d", len(found), len(slices.Compact(found)), many)
	}
}

func TestCheckIsInterrupted(t *testing.T) {
	d, _ := checked(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Check(ctx, func(store.Path, string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was interrupted", err)
	}
}
