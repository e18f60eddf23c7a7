package db

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"storefs/store"
)

// blocked opens a database whose first barrier waits until release is called,
// and counts barriers.
func blocked(t *testing.T) (d *DB, release func(), barriers *atomic.Int32) {
	t.Helper()
	gate := make(chan struct{})
	barriers = new(atomic.Int32)
	d, err := Open(filepath.Join(t.TempDir(), "db.bolt"), testDir, Options{Create: true, Barrier: func() error {
		barriers.Add(1)
		<-gate
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, sync.OnceFunc(func() { close(gate) }), barriers
}

func (d *DB) queued() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.pending)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Registrations that come while another one commits share the next commit, and
// a bad one among them fails alone.
func TestGroupCommit(t *testing.T) {
	d, release, barriers := blocked(t)
	const n = 50
	errs := make([]error, n)
	var wg sync.WaitGroup
	start := func(i int, r Registration) {
		wg.Go(func() { errs[i] = d.Register(context.Background(), r) })
	}
	start(0, Registration{Infos: []store.Info{testInfo(t, "first")}})
	waitFor(t, "the first commit", func() bool { return barriers.Load() == 1 })
	for i := 1; i < n; i++ {
		info := testInfo(t, fmt.Sprint("p", i))
		if i%10 == 0 {
			info.References = []store.Path{testPath(t, "missing")}
		}
		start(i, Registration{Infos: []store.Info{info}})
	}
	waitFor(t, "the others", func() bool { return d.queued() == n-1 })
	release()
	wg.Wait()
	for i, err := range errs {
		if bad := i > 0 && i%10 == 0; bad != errors.Is(err, store.ErrNotValid) || !bad && err != nil {
			t.Errorf("registration %d: %v", i, err)
		}
	}
	if b := barriers.Load(); b != 2 {
		t.Errorf("%d commits, want 2", b)
	}
}

// A write that fails after it has written something is taken back alone.
func TestFailedWriteIsTakenBack(t *testing.T) {
	d, release, barriers := blocked(t)
	errBad := errors.New("bad")
	var wg sync.WaitGroup
	wg.Go(func() { d.Register(context.Background(), Registration{Infos: []store.Info{testInfo(t, "first")}}) })
	waitFor(t, "the first commit", func() bool { return barriers.Load() == 1 })
	runs := 0
	var before, bad, after error
	wg.Go(func() {
		before = d.update(context.Background(), false, func(w writer) error {
			runs++
			return w.put(bucketMeta, "before", []byte("x"))
		})
	})
	waitFor(t, "the first in the queue", func() bool { return d.queued() == 1 })
	wg.Go(func() {
		bad = d.update(context.Background(), false, func(w writer) error {
			if err := w.put(bucketMeta, "bad", []byte("x")); err != nil {
				return err
			}
			return errBad
		})
	})
	waitFor(t, "the bad one in the queue", func() bool { return d.queued() == 2 })
	wg.Go(func() {
		after = d.update(context.Background(), false, func(w writer) error { return w.put(bucketMeta, "after", []byte("x")) })
	})
	waitFor(t, "all in the queue", func() bool { return d.queued() == 3 })
	release()
	wg.Wait()
	if before != nil || after != nil || !errors.Is(bad, errBad) || runs != 1 {
		t.Fatalf("before: %v (%d runs), bad: %v, after: %v", before, runs, bad, after)
	}
	err := d.view(func(tx reader) error {
		for key, want := range map[string]bool{"before": true, "bad": false, "after": true} {
			if tx.has(bucketMeta, key) != want {
				t.Errorf("%s: %v, want %v", key, !want, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A caller that has gone is not served; one that comes after Close is told.
func TestCancelAndClose(t *testing.T) {
	d, release, barriers := blocked(t)
	var wg sync.WaitGroup
	wg.Go(func() { d.Register(context.Background(), Registration{Infos: []store.Info{testInfo(t, "first")}}) })
	waitFor(t, "the first commit", func() bool { return barriers.Load() == 1 })
	ctx, cancel := context.WithCancel(context.Background())
	var gone, last error
	wg.Go(func() { gone = d.Register(ctx, Registration{Infos: []store.Info{testInfo(t, "gone")}}) })
	waitFor(t, "it to queue", func() bool { return d.queued() == 1 })
	cancel()
	wg.Go(func() {
		last = d.Register(context.Background(), Registration{Infos: []store.Info{testInfo(t, "last")}})
	})
	waitFor(t, "the last to queue", func() bool { return d.queued() == 2 })
	wg.Go(func() { d.Close() })
	waitFor(t, "Close", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.closing
	})
	if err := d.Register(context.Background(), Registration{Infos: []store.Info{testInfo(t, "late")}}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
	release()
	wg.Wait()
	if !errors.Is(gone, context.Canceled) || last != nil {
		t.Errorf("cancelled: %v; queued before Close: %v", gone, last)
	}
	d = open(t, d.path)
	for name, want := range map[string]bool{"first": true, "gone": false, "last": true} {
		if ok, err := d.Valid(testPath(t, name)); ok != want || err != nil {
			t.Errorf("%s: valid %v, %v", name, ok, err)
		}
	}
}

// What the barrier could not make durable does not become valid.
func TestBarrierFails(t *testing.T) {
	fail := true
	d, err := Open(filepath.Join(t.TempDir(), "db.bolt"), testDir, Options{Create: true, Barrier: func() error {
		if fail {
			return syscall.ENOSPC
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r := Registration{Infos: []store.Info{testInfo(t, "a")}}
	if err := d.Register(context.Background(), r); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("got %v, want ErrNoSpace", err)
	}
	if ok, _ := d.Valid(r.Infos[0].Path); ok {
		t.Fatal("it is valid all the same")
	}
	fail = false
	if err := d.Register(context.Background(), r); err != nil {
		t.Fatal(err)
	}
}

// Uses are noted while others are being written.
func TestTouchBesideCommits(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	info := testInfo(t, "used")
	register(t, d, Registration{Infos: []store.Info{info}})
	var touching sync.WaitGroup
	touching.Go(func() {
		for i := range 50 {
			d.Touch(time.Unix(int64(i+1), 0), info.Path)
			time.Sleep(time.Millisecond)
		}
	})
	for i := range 100 {
		register(t, d, Registration{Infos: []store.Info{testInfo(t, fmt.Sprint("other", i))}})
	}
	touching.Wait()
	if last, err := d.LastUse(info.Path); err != nil || last.Unix() != 50 {
		t.Errorf("last use %v, %v", last, err)
	}
}

// Patient writes wait for others, but not for long, and not beside one that is
// not patient.
func TestCompany(t *testing.T) {
	for name, test := range map[string]struct {
		first  []bool // patient?
		closes bool
		later  []bool // one a millisecond
		want   time.Duration
	}{
		"nothing":     {want: 0},
		"patient":     {first: []bool{true}, want: company},
		"hasty":       {first: []bool{false}, want: 0},
		"both":        {first: []bool{true, false, true}, want: 0},
		"later":       {first: []bool{true}, later: []bool{true, false}, want: 2 * time.Millisecond},
		"not put off": {first: []bool{true}, later: []bool{true, true, true, true, true, true}, want: company},
		"enough":      {first: slices.Repeat([]bool{true}, enough), want: 0},
		"closing":     {first: []bool{true}, closes: true, want: 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &DB{wake: make(chan struct{}, 1), closing: test.closes}
			add := func(patient bool) {
				d.mu.Lock()
				d.pending = append(d.pending, &write{})
				d.hasty = d.hasty || !patient
				d.mu.Unlock()
				d.wakeCommitter()
			}
			for _, p := range test.first {
				add(p)
			}
			go func() {
				for _, p := range test.later {
					time.Sleep(time.Millisecond)
					add(p)
				}
			}()
			wait := time.NewTimer(time.Hour)
			begin := time.Now()
			d.awaitCompany(wait)
			if got := time.Since(begin); got != test.want {
				t.Errorf("%s: waited %v, want %v", name, got, test.want)
			}
			time.Sleep(time.Second) // until nobody adds any more
		})
	}
}

func TestPatientIsRegistered(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	begin := time.Now()
	info := testInfo(t, "patient")
	register(t, d, Registration{Infos: []store.Info{info}, Patient: func() bool { return true }})
	if got := time.Since(begin); got < company {
		t.Errorf("it took %v, and should have waited for others", got)
	}
	if ok, err := d.Valid(info.Path); !ok || err != nil {
		t.Errorf("valid: %v, %v", ok, err)
	}
}

// What refers to something that is registered with it, or before it, goes where
// that goes.
func TestQueued(t *testing.T) {
	for _, fails := range []bool{false, true} {
		d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
		first, second := testInfo(t, "first"), testInfo(t, "second")
		second.References = []store.Path{first.Path}
		if fails {
			first.References = []store.Path{testInfo(t, "none").Path}
		}
		patient := func() bool { return true }
		var wg sync.WaitGroup
		var errSecond error
		queued := func() {
			wg.Go(func() {
				errSecond = d.Register(context.Background(), Registration{Infos: []store.Info{second}})
			})
		}
		err := d.Register(context.Background(), Registration{Infos: []store.Info{first}, Patient: patient, Queued: queued})
		wg.Wait()
		for _, err := range []error{err, errSecond} {
			if fails != errors.Is(err, store.ErrNotValid) || !fails && err != nil {
				t.Errorf("fails %v: %v", fails, err)
			}
		}
	}
}
