package db

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"storefs/store"
)

func (v *views) waiting() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.idle)
}

// Whoever registers sees it, and so does whoever hears of it, also through
// transactions that were begun before.
func TestViewsAreUpToDate(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 50 {
				info := testInfo(t, fmt.Sprint("a", w, "-", i))
				if valid, err := d.Valid(info.Path); valid || err != nil {
					t.Errorf("before: %v, %v", valid, err)
				}
				if err := d.Register(context.Background(), Registration{Infos: []store.Info{info}}); err != nil {
					t.Error(err)
				}
				var heard sync.WaitGroup
				for range 3 {
					heard.Go(func() {
						if valid, err := d.Valid(info.Path); !valid || err != nil {
							t.Errorf("after: %v, %v", valid, err)
						}
					})
				}
				heard.Wait()
			}
		})
	}
	all.Wait()
	if n, err := d.Count(); n != 200 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestViewsWait(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	for range 3 {
		if _, err := d.Count(); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.waiting(); n != 1 {
		t.Errorf("%d wait after one reader, want 1", n)
	}
	// More at a time than are kept.
	var nested func(depth int) error
	nested = func(depth int) error {
		return d.view(func(reader) error {
			if depth == 0 {
				return nil
			}
			return nested(depth - 1)
		})
	}
	if err := nested(maxViews + 3); err != nil || d.waiting() != maxViews {
		t.Errorf("%d wait, want %d; %v", d.waiting(), maxViews, err)
	}
	// None that was begun before the file is written is there meanwhile, or after.
	d.begin()
	if n := d.waiting(); n != 0 {
		t.Errorf("%d wait during a write", n)
	}
	if _, err := d.Count(); err != nil || d.waiting() != 0 {
		t.Errorf("%d wait that were begun meanwhile; %v", d.waiting(), err)
	}
	d.end()
	if n, err := d.Count(); n != 0 || err != nil || d.waiting() != 1 {
		t.Errorf("%d, %v; %d wait", n, err, d.waiting())
	}
	// One in which something is wrong is not used again.
	if err := d.view(func(reader) error { panic("page 7 is not a page") }); !errors.Is(err, ErrDamaged) || d.waiting() != 0 {
		t.Errorf("%v; %d wait after a panic", err, d.waiting())
	}
	refused := errors.New("refused")
	if err := d.view(func(reader) error { return refused }); err != refused || d.waiting() != 1 {
		t.Errorf("%v; %d wait after an error", err, d.waiting())
	}
}

func BenchmarkValid(b *testing.B) {
	d, err := Open(filepath.Join(b.TempDir(), "db.bolt"), testDir, Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	var infos []store.Info
	for i := range 1000 {
		infos = append(infos, testInfo(b, fmt.Sprint(i)))
	}
	if err := d.Register(context.Background(), Registration{Infos: infos}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if valid, err := d.Valid(infos[i%1000].Path); !valid || err != nil {
			b.Fatal(err)
		}
	}
}

// What is written into the file at once, beside what is in the log, is seen
// together with it.
func TestViewsAreOfOneMoment(t *testing.T) {
	ctx := context.Background()
	d, err := Open(filepath.Join(t.TempDir(), "db.bolt"), testDir, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	// Two keys that are always written together, now in the log, now into the
	// file, and b, which is written into the file with them.
	write := func(n int) error {
		value := fmt.Append(nil, n)
		settle := n%4 == 3
		return d.queue(&write{ctx: ctx, settle: settle, do: func(w writer) error {
			for _, key := range []string{"a", "b", "c"} {
				if key == "b" && !settle {
					continue
				}
				if err := w.put(bucketUse, key, value); err != nil {
					return err
				}
			}
			return nil
		}})
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			last := 0
			for {
				select {
				case <-stop:
					return
				default:
				}
				var got [3]int
				if err := d.view(func(tx reader) error {
					for i, key := range []string{"b", "a", "c"} {
						_, _ = fmt.Sscan(string(tx.get(bucketUse, key)), &got[i])
					}
					return nil
				}); err != nil {
					t.Error(err)
					return
				}
				if b, a, c := got[0], got[1], got[2]; a != c || b > a || b < a-3 || a < last {
					t.Errorf("saw %d of the file alone with %d and %d, after %d", b, a, c, last)
					return
				}
				last = got[1]
			}
		})
	}
	for n := 3; n < 300; n++ {
		if err := write(n); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	all.Wait()
}

// Who reads beside a transaction whose last sync has failed goes on to read what was
// there before it, also when more is written.
func TestReadsBesideFailedSync(t *testing.T) {
	d, infos := begun(t, 4)
	r := large(t)
	isAt, goOn := make(chan struct{}), make(chan struct{})
	ended := make(chan error)
	go func() {
		ended <- d.view(func(tx reader) error {
			close(isAt)
			<-goOn
			for _, i := range infos {
				if !tx.has(bucketValid, i.Path.Base()) {
					return fmt.Errorf("%s is not valid", i.Path)
				}
			}
			return nil
		})
	}()
	<-isAt
	failMetaSync(d)
	register(t, d, r)
	answer := make(chan error)
	go func() { // would write where the reader reads
		var r Registration
		for i := range 500 {
			r.Infos = append(r.Infos, testInfo(t, fmt.Sprint("more", i)))
		}
		answer <- d.Register(context.Background(), r)
	}()
	select {
	case err := <-answer:
		t.Errorf("it was answered while somebody read: %v", err)
		answer = nil
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if answer != nil {
		if err := <-answer; err != nil {
			t.Error(err)
		}
	}
}
