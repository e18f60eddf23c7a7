package db

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"storefs/store"
)

type writeAt = func(b []byte, off int64) (int, error)

// hookWrites puts hook before the writes of bbolt, which has it in a field that it
// does not export.
func hookWrites(d *DB, hook func(write writeAt, b []byte, off int64) (int, error)) {
	field := reflect.ValueOf(d.bolt).Elem().FieldByName("ops").FieldByName("writeAt")
	p := (*writeAt)(unsafe.Pointer(field.UnsafeAddr()))
	write := *p
	*p = func(b []byte, off int64) (int, error) { return hook(write, b, off) }
}

// failMetaSync lets the sync of the next meta page fail, once: the page is in the
// kernel's cache, and shown, and nobody knows whether the disk has it.
func failMetaSync(d *DB) (failed *atomic.Bool) {
	failed = new(atomic.Bool)
	hookWrites(d, func(write writeAt, b []byte, off int64) (int, error) {
		n, err := write(b, off)
		if err == nil && off < int64(2*os.Getpagesize()) && failed.CompareAndSwap(false, true) {
			return 0, unix.EIO
		}
		return n, err
	})
	return failed
}

// failAssure lets assure fail until mend is called.
func failAssure(t *testing.T, d *DB) (mend func()) {
	t.Helper()
	whole := d.disk
	other, err := os.Open(d.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	d.disk = other
	// The committer may be about to use it: it stays the same file for him.
	return func() {
		if err := unix.Dup3(int(whole.Fd()), int(other.Fd()), unix.O_CLOEXEC); err != nil {
			t.Error(err)
		}
	}
}

// begun is a database that has a log, and so many paths, the first one in the file.
func begun(t *testing.T, n int) (d *DB, infos []store.Info) {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "db.bolt"), testDir, Options{Create: true, rest: time.Hour, pages: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	for i := range n {
		infos = append(infos, testInfo(t, fmt.Sprint("first", i)))
		register(t, d, Registration{Infos: infos[i:]})
	}
	return d, infos
}

// large is more than goes into the log.
func large(t *testing.T) Registration {
	t.Helper()
	var r Registration
	for i := range 500 {
		r.Infos = append(r.Infos, testInfo(t, fmt.Sprint("large", i)))
	}
	return r
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// haveAll checks what is valid where file is that of bbolt, and the log is as it is
// now: after a kill, or when the power fails.
func haveAll(t *testing.T, file []byte, log string, infos ...store.Info) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db.bolt")
	err := os.WriteFile(path, file, 0o600)
	if err == nil {
		err = os.WriteFile(path+".log", read(t, log), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, path)
	for _, i := range infos {
		if ok, err := d.Valid(i.Path); !ok || err != nil {
			t.Errorf("%s was answered: valid %v, %v", i.Path.Name(), ok, err)
		}
	}
	if err := d.Check(context.Background(), func(p store.Path, m string) { t.Errorf("%s: %s", p, m) }); err != nil {
		t.Error(err)
	}
	names, err := d.Names("", 10_000)
	if n, e := d.Count(); n != len(names) || err != nil || e != nil {
		t.Errorf("%d paths, it counts %d; %v, %v", len(names), n, err, e)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// A transaction whose last sync has failed is made durable after all: it may be on
// disk, with the number of the log's next record.
func TestMetaSyncFails(t *testing.T) {
	d, infos := begun(t, 2)
	r := large(t)
	failed := failMetaSync(d)
	register(t, d, r)
	if !failed.Load() {
		t.Fatal("nothing failed")
	}
	infos = append(infos, r.Infos[0])
	for i := range 2 {
		infos = append(infos, testInfo(t, fmt.Sprint("later", i)))
		register(t, d, Registration{Infos: infos[len(infos)-1:]})
	}
	haveAll(t, read(t, d.path), d.path+".log", infos...)
}

// As long as it cannot be made durable, nothing is written into the file, which
// might still need what is there, or into the log, and nothing is answered.
func TestInDoubt(t *testing.T) {
	ctx := context.Background()
	for _, closed := range []bool{false, true} {
		d, infos := begun(t, 2)
		before := read(t, d.path)
		log := read(t, d.path+".log")
		failMetaSync(d)
		mend := failAssure(t, d)
		r := large(t)
		if err := d.Register(ctx, r); !errors.Is(err, ErrInDoubt) {
			t.Fatalf("got %v, want ErrInDoubt", err)
		}
		names, err := d.Names("", 1000)
		if n, e := d.Count(); n != 2 || len(names) != 2 || err != nil || e != nil {
			t.Errorf("in doubt %d are counted, and %d listed; %v, %v", n, len(names), err, e)
		}
		checkAll(t, d, []store.Path{infos[0].Path, infos[1].Path})
		shown := read(t, d.path)
		later := Registration{Infos: []store.Info{testInfo(t, "later")}}
		for _, r := range []Registration{r, later} { // one is so already, perhaps not on disk
			if err := d.Register(ctx, r); err == nil {
				t.Error("something was answered in doubt")
			}
		}
		if string(read(t, d.path)) != string(shown) || string(read(t, d.path+".log")) != string(log) {
			t.Error("something was written in doubt")
		}
		haveAll(t, before, d.path+".log", infos...)
		haveAll(t, shown, d.path+".log", infos...)

		mend()
		infos = append(infos, r.Infos[0])
		if closed {
			if err := d.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			haveAll(t, read(t, d.path), d.path+".log", infos...)
			continue
		}
		register(t, d, r)
		register(t, d, later)
		haveAll(t, read(t, d.path), d.path+".log", append(infos, later.Infos...)...)
	}
}

// A record that may be on disk, and whose batch does not come into the file: none
// may get its number.
func TestLogAndFileFail(t *testing.T) {
	ctx := context.Background()
	d, infos := begun(t, 2)
	var full atomic.Bool
	hookWrites(d, func(write writeAt, b []byte, off int64) (int, error) {
		if full.Load() {
			return 0, unix.ENOSPC
		}
		return write(b, off)
	})
	lost := *d.file.log
	whole := d.file.log.file
	if err := lost.append(encodeAll([]change{{bucket: bucketUse, key: "lost", value: []byte("x")}})); err != nil {
		t.Fatal(err)
	}
	var err error
	if d.file.log.file, err = os.Open(d.path + ".log"); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	if err := d.Register(ctx, Registration{Infos: []store.Info{testInfo(t, "refused")}}); !errors.Is(err, ErrInDoubt) {
		t.Errorf("got %v, want ErrInDoubt", err)
	}
	d.file.log.file.Close()
	d.file.log.file = whole
	if err := d.Register(ctx, Registration{Infos: []store.Info{testInfo(t, "another")}}); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("got %v, want ErrNoSpace", err)
	}
	full.Store(false)
	for i := range 2 {
		infos = append(infos, testInfo(t, fmt.Sprint("later", i)))
		register(t, d, Registration{Infos: infos[len(infos)-1:]})
		haveAll(t, read(t, d.path), d.path+".log", infos...)
	}
	if c := copied(t, d.path); shows(t, c, "lost") {
		t.Error("what was lost is there")
	}
}

// Doubt ends by itself.
func TestDoubtEnds(t *testing.T) {
	d, _ := begun(t, 1)
	failMetaSync(d)
	mend := failAssure(t, d)
	if err := d.SetMark(context.Background(), "mark"); !errors.Is(err, ErrInDoubt) {
		t.Fatalf("got %v, want ErrInDoubt", err)
	}
	m, err := newest(d.disk)
	if err != nil {
		t.Fatal(err)
	}
	file := d.disk
	mend()
	d.wakeCommitter() // who sees that
	waitFor(t, "another transaction", func() bool {
		n, err := newest(file)
		return err == nil && n.txid > m.txid
	})
}

// Close tries again what was in doubt, be it that nothing is in the log.
func TestCloseInDoubt(t *testing.T) {
	d, infos := begun(t, 2)
	failMetaSync(d)
	mend := failAssure(t, d)
	if err := d.SetMark(context.Background(), "mark"); !errors.Is(err, ErrInDoubt) {
		t.Fatalf("got %v, want ErrInDoubt", err)
	}
	mend()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	haveAll(t, read(t, d.path), d.path+".log", infos...)
}

// What is written into the file beside the use of the log, and is in doubt, is in
// the log.
func TestInDoubtBeside(t *testing.T) {
	d, infos := begun(t, 1)
	before := read(t, d.path)
	failed := failMetaSync(d)
	failAssure(t, d)
	d.file.rest = time.Millisecond
	for i := 0; i < 3 || !failed.Load(); i++ {
		infos = append(infos, testInfo(t, fmt.Sprint("later", i)))
		register(t, d, Registration{Infos: infos[len(infos)-1:]})
		time.Sleep(time.Millisecond)
	}
	haveAll(t, before, d.path+".log", infos...)
	haveAll(t, read(t, d.path), d.path+".log", infos...)
	if err := d.Close(); err == nil {
		t.Error("nobody was told")
	}
	haveAll(t, before, d.path+".log", infos...)
	haveAll(t, read(t, d.path), d.path+".log", infos...)
}

// What an owner that did not close the file has left may be shown, and not be on
// disk: it is made durable before anything is written.
func TestOpenAssures(t *testing.T) {
	d, _ := begun(t, 1)
	for _, closed := range []bool{false, true} {
		if closed {
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(t.TempDir(), "db.bolt")
		long := time.Unix(1, 0)
		for _, name := range []string{"", ".log"} {
			err := os.WriteFile(path+name, read(t, d.path+name), 0o600)
			if err == nil {
				err = os.Chtimes(path+name, long, long)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		open(t, path)
		st, err := os.Stat(path)
		if err != nil || st.ModTime().Equal(long) != closed {
			t.Errorf("closed %v: it was written at %v, %v", closed, st.ModTime(), err)
		}
	}
}

// Who writes behind an owner whose end is in doubt makes that durable first: on disk
// there may be the tree of before, and bbolt writes where that was.
func TestNextOwnerInDoubt(t *testing.T) {
	for name, end := range map[string]func(d *DB){
		"closed": func(d *DB) {
			if err := d.Close(); err == nil {
				t.Error("nobody was told")
			}
		},
		"killed": func(d *DB) { // when the word for the next owner had been written
			if err := d.SetMark(context.Background(), "mark"); !errors.Is(err, ErrInDoubt) {
				t.Errorf("got %v, want ErrInDoubt", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, infos := begun(t, 6)
			disk := read(t, d.path)
			failMetaSync(d)
			failAssure(t, d)
			end(d)
			path := filepath.Join(t.TempDir(), "db.bolt")
			long := time.Unix(1, 0)
			for _, name := range []string{"", ".log"} {
				err := os.WriteFile(path+name, read(t, d.path+name), 0o600)
				if err == nil {
					err = os.Chtimes(path+name, long, long)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			next := open(t, path)
			if st, err := os.Stat(path); err != nil {
				t.Fatal(err)
			} else if !st.ModTime().Equal(long) {
				disk = read(t, path)
			}
			var failed []byte // what the disk has if it fails before the tree is another one
			hookWrites(next, func(write writeAt, b []byte, off int64) (int, error) {
				if off >= int64(2*os.Getpagesize()) {
					disk = append(disk, make([]byte, max(0, int(off)+len(b)-len(disk)))...)
					copy(disk[off:], b)
				} else if failed == nil {
					failed = bytes.Clone(disk)
				}
				return write(b, off)
			})
			log := read(t, path+".log")
			register(t, next, large(t))
			if err := next.Close(); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(path+".log", log, 0o600); err != nil {
				t.Fatal(err)
			}
			haveAll(t, failed, path+".log", infos...)
		})
	}
}
