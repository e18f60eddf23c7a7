package db

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"storefs/store"
)

func TestDamageOfPaths(t *testing.T) {
	ctx := context.Background()
	file := filepath.Join(t.TempDir(), "db.bolt")
	d := open(t, file)
	a := testInfo(t, "a")
	want := store.Damage{Path: a.Path, File: "bin/x", Message: "it differs", Found: time.Unix(1, 0).UTC(), Unrepaired: "how?"}
	if err := d.SetDamage(ctx, want); !errors.Is(err, store.ErrNotValid) {
		t.Fatalf("of what is not valid: %v", err)
	}
	if err := d.Register(ctx, Registration{Infos: []store.Info{a}}); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Damage(a.Path); err != nil || got != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := d.SetDamage(ctx, want); err != nil {
		t.Fatal(err)
	}
	d.Close()

	// Files of before there was that bucket can be opened, and get it.
	b, err := bolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(bucketNames[bucketDamaged])) }); err != nil {
		t.Fatal(err)
	}
	b.Close()
	d = open(t, file)
	if got, err := d.Damage(a.Path); err != nil || got != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := d.SetDamage(ctx, want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Damage(a.Path)
	if err != nil || got == nil || cmp.Diff(want, *got) != "" {
		t.Fatalf("%+v, %v", got, err)
	}
	// It goes with the path, or when it was none.
	if err := d.ClearDamage(ctx, a.Path); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Damage(a.Path); err != nil || got != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := d.SetDamage(ctx, want); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Delete(ctx, a.Path); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Damage(a.Path); err != nil || got != nil {
		t.Fatalf("%+v, %v", got, err)
	}
}
