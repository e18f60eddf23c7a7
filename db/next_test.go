package db

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"storefs/store"
)

// held is a database that has a log, and whose committer can be held where it is
// about to write a record.
type held struct {
	*DB
	holds atomic.Bool
	isAt  chan struct{} // it is held
	let   chan error    // lets it go on, or fail
}

func openHeld(t *testing.T) *held {
	t.Helper()
	h := &held{isAt: make(chan struct{}), let: make(chan error)}
	var err error
	h.DB, err = Open(filepath.Join(t.TempDir(), "db.bolt"), testDir, Options{Create: true, rest: time.Hour, Barrier: func() error {
		if !h.holds.Load() {
			return nil
		}
		h.isAt <- struct{}{}
		return <-h.let
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	register(t, h.DB, Registration{Infos: []store.Info{testInfo(t, "first")}}) // the log begins with it
	return h
}

// begin has a write as the record that is about to be written.
func (h *held) begin(do func(w writer) error) <-chan error {
	h.holds.Store(true)
	answer := make(chan error, 1)
	go func() { answer <- h.update(context.Background(), true, do) }()
	<-h.isAt
	h.holds.Store(false)
	return answer
}

// prepare has another one prepared behind that.
func (h *held) prepare(t *testing.T, ctx context.Context, do func(w writer) error) <-chan error {
	t.Helper()
	var ran atomic.Bool
	answer := make(chan error, 1)
	go func() {
		answer <- h.update(ctx, false, func(w writer) error {
			defer ran.Store(true)
			return do(w)
		})
	}()
	waitFor(t, "the next record", ran.Load)
	return answer
}

func (h *held) shows(t *testing.T, key string) bool {
	t.Helper()
	return shows(t, h.DB, key)
}

func shows(t *testing.T, d *DB, key string) (ok bool) {
	t.Helper()
	if err := d.view(func(tx reader) error {
		ok = tx.has(bucketUse, key)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return ok
}

func putUse(key string) func(w writer) error {
	return func(w writer) error { return w.put(bucketUse, key, []byte("x")) }
}

// copied opens what is on disk now.
func copied(t *testing.T, path string) *DB {
	t.Helper()
	to := filepath.Join(t.TempDir(), "db.bolt")
	for _, name := range []string{"", ".log"} {
		b, err := os.ReadFile(path + name)
		if err == nil {
			err = os.WriteFile(to+name, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return open(t, to)
}

// What is prepared while another record is being written is seen by nobody, and
// answered, be it with a refusal, when both are durable.
func TestNextWaits(t *testing.T) {
	h := openHeld(t)
	first := h.begin(putUse("a"))
	errRefused := errors.New("refused")
	refused := h.prepare(t, context.Background(), func(w writer) error {
		if w.has(bucketUse, "a") {
			return errRefused
		}
		return nil
	})
	second := h.prepare(t, context.Background(), putUse("b"))
	time.Sleep(20 * time.Millisecond)
	for name, answer := range map[string]<-chan error{"the first": first, "refused": refused, "the second": second} {
		select {
		case err := <-answer:
			t.Errorf("%s was answered too early: %v", name, err)
		default:
		}
	}
	if h.shows(t, "a") || h.shows(t, "b") {
		t.Error("something is to be seen that is not durable")
	}
	h.let <- nil
	if err := <-refused; !errors.Is(err, errRefused) {
		t.Errorf("refused: %v", err)
	}
	if !shows(t, copied(t, h.path), "a") {
		t.Error("there is a refusal for something that is not durable")
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := <-second; err != nil {
		t.Error(err)
	}
	d := copied(t, h.path)
	if !shows(t, d, "a") || !shows(t, d, "b") {
		t.Error("something is not on disk that was answered")
	}
	if h.file.log.seq != 3 {
		t.Errorf("%d records, want 3", h.file.log.seq)
	}
}

// If the record before does not become one, what was prepared on top of it runs
// again, on top of what there is then.
func TestNextIsTakenBack(t *testing.T) {
	errBarrier := errors.New("barrier")
	large := func(w writer) error { return w.put(bucketUse, "a", make([]byte, 400_000)) }
	for name, test := range map[string]struct {
		do      func(w writer) error
		barrier error
		log     bool // it cannot be written
		full    bool // the file cannot grow
		kept    bool // the first one
	}{
		"barrier":      {do: putUse("a"), barrier: errBarrier},
		"log":          {do: putUse("a"), log: true, kept: true},
		"log and file": {do: large, log: true, full: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := openHeld(t)
			whole := h.file.log.file
			first := h.begin(test.do)
			var saw []bool
			errMissing := errors.New("missing")
			needs := h.prepare(t, context.Background(), func(w writer) error {
				saw = append(saw, w.has(bucketUse, "a"))
				if !saw[len(saw)-1] {
					return errMissing
				}
				return w.put(bucketUse, "b", []byte("x"))
			})
			ctx, cancel := context.WithCancel(context.Background())
			gone := h.prepare(t, ctx, putUse("gone"))
			other := h.prepare(t, context.Background(), func(w writer) error {
				w.batch.valid++
				return w.put(bucketUse, "c", []byte("x"))
			})
			cancel()
			if test.log {
				var err error
				if h.file.log.file, err = os.Open(h.path + ".log"); err != nil {
					t.Fatal(err)
				}
			}
			if test.full {
				h.bolt.MaxSize = 1
			}
			h.let <- test.barrier
			if err := <-first; (err == nil) != test.kept || test.barrier != nil && !errors.Is(err, test.barrier) {
				t.Errorf("the first: %v", err)
			}
			if err := <-needs; test.kept && err != nil || !test.kept && !errors.Is(err, errMissing) {
				t.Errorf("what needs it: %v", err)
			}
			if err := <-gone; !errors.Is(err, context.Canceled) {
				t.Errorf("the cancelled one: %v", err)
			}
			if err := <-other; err != nil {
				t.Errorf("the other: %v", err)
			}
			if len(saw) != 2 || !saw[0] || saw[1] != test.kept {
				t.Errorf("the next saw the first: %v", saw)
			}
			if test.log {
				h.file.log.file.Close()
				h.file.log.file = whole
			}
			h.bolt.MaxSize = 0
			for i := range 3 { // later records do not bring back what was taken back
				if err := h.update(context.Background(), false, putUse(fmt.Sprint("later", i))); err != nil {
					t.Error(err)
				}
			}
			for _, d := range []*DB{h.DB, copied(t, h.path)} {
				for key, want := range map[string]bool{"a": test.kept, "b": test.kept, "c": true, "gone": false} {
					if shows(t, d, key) != want {
						t.Errorf("%s: %v, want %v", key, !want, want)
					}
				}
				if n, err := d.Count(); n != 2 || err != nil {
					t.Errorf("count %d, %v", n, err)
				}
			}
		})
	}
}

// What runs again does not wait for company.
func TestTakenBackIsHasty(t *testing.T) {
	patient := &write{}
	d := &DB{pending: []*write{patient}}
	again := &write{}
	d.takeBack(&batch{layer: new(layer), writes: []*write{again}})
	if !d.isReady() || len(d.pending) != 2 || d.pending[0] != again {
		t.Errorf("ready %v, %d in the queue", d.isReady(), len(d.pending))
	}
}

// Once its turn has come, the result is awaited; and who has gone before is told
// when the record before is durable.
func TestNextIsCancelled(t *testing.T) {
	h := openHeld(t)
	first := h.begin(putUse("a"))
	ctx, cancel := context.WithCancel(context.Background())
	late := h.prepare(t, ctx, putUse("b"))
	cancel()
	early := make(chan error, 1)
	go func() { early <- h.update(ctx, false, putUse("c")) }()
	waitFor(t, "it to be prepared", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.prepared == 2
	})
	h.let <- nil
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := <-late; err != nil {
		t.Errorf("cancelled when it was prepared: %v", err)
	}
	if err := <-early; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	if !h.shows(t, "b") || h.shows(t, "c") {
		t.Error("what was answered is not what is there")
	}
}

// Close leaves nothing behind, neither what is being written nor what is prepared,
// nor the patient that wait.
func TestCloseBesideNext(t *testing.T) {
	h := openHeld(t)
	answers := []<-chan error{h.begin(putUse("a")), h.prepare(t, context.Background(), putUse("b"))}
	patient := make(chan error, 1)
	info := testInfo(t, "patient")
	go func() {
		patient <- h.Register(context.Background(), Registration{Infos: []store.Info{info}, Patient: func() bool { return true }})
	}()
	waitFor(t, "the patient one", func() bool { return h.queued() == 1 })
	closed := make(chan error, 1)
	go func() { closed <- h.Close() }()
	waitFor(t, "Close", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.closing
	})
	h.let <- nil
	for _, answer := range append(answers, patient, closed) {
		if err := <-answer; err != nil {
			t.Error(err)
		}
	}
	d := open(t, h.path)
	if ok, err := d.Valid(info.Path); !ok || err != nil || !shows(t, d, "a") || !shows(t, d, "b") {
		t.Errorf("something is missing: %v, %v", ok, err)
	}
}

// While something is due to be written into the file, nothing is prepared: there
// would always be something that must not get there yet.
func TestFileGetsItsTurn(t *testing.T) {
	h := openHeld(t)
	before := h.over.Load().since
	first := h.begin(func(w writer) error {
		h.file.dueAt = time.Now() // the committer runs it
		return w.put(bucketUse, "a", []byte("x"))
	})
	second := make(chan error, 1)
	go func() { second <- h.update(context.Background(), false, putUse("b")) }()
	waitFor(t, "the second one", func() bool { return h.queued() == 1 })
	time.Sleep(20 * time.Millisecond)
	if h.queued() != 1 {
		t.Error("it was prepared")
	}
	h.let <- nil
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := <-second; err != nil {
		t.Error(err)
	}
	waitFor(t, "the file", func() bool { return h.over.Load().since > before })
	if !h.shows(t, "a") || !h.shows(t, "b") {
		t.Error("something is missing")
	}
}

// Many who register at once, beside a disk that fails now and then: each is told
// what is so, then and after a crash at any moment.
func TestManyAndFailures(t *testing.T) {
	for name, rest := range map[string]time.Duration{"log": time.Hour, "file": time.Millisecond} {
		t.Run(name, func(t *testing.T) { testManyAndFailures(t, rest) })
	}
}

func testManyAndFailures(t *testing.T, rest time.Duration) {
	const callers, each = 16, 60
	path := filepath.Join(t.TempDir(), "db.bolt")
	errBarrier := errors.New("barrier")
	var mu sync.Mutex
	answered := map[store.Path]bool{} // whether it was registered
	var asked []store.Path
	registered := func() (all []store.Path) {
		mu.Lock()
		defer mu.Unlock()
		for p, ok := range answered {
			if ok {
				all = append(all, p)
			}
		}
		return all
	}
	var d *DB
	var whole, bad *os.File
	crashes := 0
	// The committer calls it, so that it may change what only he uses.
	barrier := func() error {
		if d == nil || whole == nil {
			return nil
		}
		switch rand.IntN(12) {
		case 0:
			return errBarrier
		case 1:
			d.file.log.file = bad
		case 2:
			if rest < time.Hour || crashes == 10 {
				break // something may be written just now
			}
			crashes++
			all := registered()
			c := copied(t, path)
			checkAll(t, c, all)
			c.Close()
		default:
			d.file.log.file = whole
		}
		return nil
	}
	opened, err := Open(path, testDir, Options{Create: true, rest: rest, Barrier: barrier})
	if err != nil {
		t.Fatal(err)
	}
	register(t, opened, Registration{Infos: []store.Info{testInfo(t, "first")}})
	if bad, err = os.Open(path + ".log"); err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	d, whole = opened, opened.file.log.file
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for i := range each {
				info := testInfo(t, fmt.Sprint("p", c, "-", i))
				mu.Lock()
				if n := len(asked); n > 0 && rand.IntN(2) == 0 {
					// Often one that is just being registered, by somebody else.
					info.References = []store.Path{asked[max(0, n-1-rand.IntN(20))]}
				}
				asked = append(asked, info.Path)
				mu.Unlock()
				err := d.Register(context.Background(), Registration{Infos: []store.Info{info}})
				if err != nil && !errors.Is(err, errBarrier) && !errors.Is(err, store.ErrNotValid) {
					t.Error(err)
				}
				if ok, e := d.Valid(info.Path); ok != (err == nil) || e != nil {
					t.Errorf("answered %v, valid %v, %v", err, ok, e)
				}
				mu.Lock()
				answered[info.Path] = err == nil
				mu.Unlock()
			}
		})
	}
	all.Wait()
	kept := registered()
	if len(kept) == 0 || len(kept) == callers*each {
		t.Errorf("%d of %d were registered", len(kept), callers*each)
	}
	for p, want := range answered {
		if ok, err := d.Valid(p); ok != want || err != nil {
			t.Errorf("%s: valid %v, want %v; %v", p, ok, want, err)
		}
	}
	if rest == time.Hour && crashes == 0 {
		t.Error("there was no crash")
	}
	checkAll(t, d, kept)
	whole = nil
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	d = open(t, path)
	checkAll(t, d, kept)
	if n, err := d.Count(); n != len(kept)+1 || err != nil {
		t.Errorf("count %d, want %d; %v", n, len(kept)+1, err)
	}
}

// checkAll looks for paths, and for contradictions.
func checkAll(t *testing.T, d *DB, paths []store.Path) {
	t.Helper()
	for _, p := range paths {
		if ok, err := d.Valid(p); !ok || err != nil {
			t.Errorf("%s was answered: valid %v, %v", p, ok, err)
		}
	}
	if err := d.Check(context.Background(), func(p store.Path, m string) { t.Errorf("%s: %s", p, m) }); err != nil {
		t.Error(err)
	}
	names, err := d.Names("", 1<<20)
	if n, e := d.Count(); n != len(names) || err != nil || e != nil {
		t.Errorf("count %d, but there are %d; %v, %v", n, len(names), err, e)
	}
}

// Who looks a key up beside the one who writes finds what was there when his
// record was durable, also while the index grows.
func TestLayerBesideWriter(t *testing.T) {
	const keys = 5000
	l := new(layer)
	var durable atomic.Uint64
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for seq := durable.Load(); seq < keys; seq = durable.Load() {
				if seq == 0 {
					continue
				}
				n := 1 + rand.Uint64N(seq)
				key := fmt.Sprint("k", n)
				if v, ok := l.get(bucketUse, key, seq); !ok || string(v) != key {
					t.Errorf("at %d, %s: %q, %v", seq, key, v, ok)
					return
				}
				if v, ok := l.get(bucketUse, key, n-1); ok {
					t.Errorf("at %d, %s: %q", n-1, key, v)
					return
				}
				if rand.IntN(100) == 0 {
					if p := l.from(bucketUse, key, seq); p.key != key || !bytes.Equal(p.value, []byte(key)) {
						t.Errorf("at %d, from %s: %q", seq, key, p)
						return
					}
				}
			}
		})
	}
	for seq := uint64(1); seq <= keys; seq++ {
		b := &batch{seq: seq, layer: l}
		key := fmt.Sprint("k", seq)
		b.add(bucketUse, "refused"+key, []byte("x"))
		b.cut(mark{})
		b.add(bucketUse, key, []byte(key))
		durable.Store(seq)
	}
	all.Wait()
	for seq := range uint64(keys) {
		if _, ok := l.get(bucketUse, fmt.Sprint("k", seq+1), keys); !ok {
			t.Errorf("k%d is lost", seq+1)
		}
	}
}

// Beside many who register, nothing is written into the file before the log is
// three quarters full.
func TestFileWaitsForMany(t *testing.T) {
	h := openHeld(t)
	past, now := time.Now().Add(-time.Hour), time.Now()
	for name, test := range map[string]struct {
		dueAt, manyAt time.Time
		quarters      int // of the log that are used
		want          bool
	}{
		"nothing":          {},
		"due":              {dueAt: past, want: true},
		"due, many":        {dueAt: past, manyAt: now},
		"due, many before": {dueAt: past, manyAt: past, want: true},
		"full":             {quarters: 2, want: true},
		"full, many":       {quarters: 2, manyAt: now},
		"fuller, many":     {quarters: 3, manyAt: now, want: true},
	} {
		// The committer runs it, who alone may look.
		err := h.update(context.Background(), false, func(writer) error {
			f := h.file
			dueAt, manyAt, used := f.dueAt, f.manyAt, f.log.used
			f.dueAt, f.manyAt, f.log.used = test.dueAt, test.manyAt, test.quarters*f.log.head.pages/4+1
			if test.manyAt.Equal(now) {
				f.manyAt = time.Now()
			}
			if got := f.isDue(); got != test.want {
				t.Errorf("%s: %v, want %v", name, got, test.want)
			}
			f.dueAt, f.manyAt, f.log.used = dueAt, manyAt, used
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
