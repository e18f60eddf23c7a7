package db

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// A failure that the disk does not take is remembered nevertheless, until something newer is known.
func TestUnwrittenFailure(t *testing.T) {
	ctx := context.Background()
	var d *DB
	var full atomic.Bool
	p := testPath(t, "failing")
	fails := func(message string) error {
		return d.SetFailures(ctx, []*store.Failure{{Path: p, Message: message}})
	}
	remembered := func(want string) {
		t.Helper()
		got := ""
		f, err := d.Failure(p)
		if f != nil {
			got = f.Message
		}
		if got != want || err != nil {
			t.Errorf("remembered: %q (%v), want %q", got, err, want)
		}
	}
	for name, newer := range map[string]func() error{
		"failed again": func() error { return fails("") },
		"forgotten":    func() error { return d.ClearFailures(ctx, p) },
		"realised": func() error {
			return d.Register(ctx, Registration{Infos: []store.Info{testInfo(t, "made")}, ClearFailures: []store.Path{p}})
		},
		"deleted": func() error {
			if err := d.Register(ctx, Registration{Infos: []store.Info{testInfo(t, "failing")}}); err != nil {
				return err
			}
			remembered("full")
			_, err := d.Delete(ctx, p)
			return err
		},
	} {
		d = open(t, filepath.Join(t.TempDir(), "db.bolt"))
		hookWrites(d, func(write writeAt, b []byte, off int64) (int, error) {
			if full.Load() {
				return 0, unix.ENOSPC
			}
			return write(b, off)
		})
		full.Store(true)
		if err := fails("full"); !errors.Is(err, store.ErrNoSpace) {
			t.Fatalf("%s: got %v, want that there is no space", name, err)
		}
		remembered("full")
		full.Store(false)
		if err := newer(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		remembered("")
	}
}
