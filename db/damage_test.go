package db

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"storefs/store"
)

// sample writes a database with a few hundred paths and returns those of its
// bytes that hold something: bbolt makes the file larger.
func sample(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db.bolt")
	d := open(t, path)
	var prev []store.Path
	for i := range 20 {
		var r Registration
		for j := range 20 {
			info := testInfo(t, fmt.Sprint("p", i, "-", j), prev...)
			r.Infos = append(r.Infos, info)
			prev = []store.Path{info.Path}
		}
		r.Outputs = []KnownOutput{{Path: testPath(t, fmt.Sprint("out", i)), Drv: prev[0], Name: "out"}}
		if err := d.Register(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	used := int64(0)
	for _, off := range []int64{0, int64(os.Getpagesize())} {
		if m, err := readMeta(f, off); err == nil && m != nil {
			used = max(used, m.bytes)
		}
	}
	if used == 0 || used > int64(len(data)) {
		t.Fatalf("%d of %d bytes are used", used, len(data))
	}
	return data[:used]
}

// use opens a file that may be damaged and does a bit of everything with it. It
// must not panic; the errors must be one line each.
func use(t *testing.T, path string) error {
	t.Helper()
	var errs []error
	d, err := Open(path, testDir, Options{})
	if err == nil {
		_, e1 := d.Names("", 1000)
		e2 := d.Check(context.Background(), func(store.Path, string) {})
		_, e3 := d.Requisites([]store.Path{testPath(t, "p19-19")})
		e4 := d.Register(context.Background(), Registration{Infos: []store.Info{testInfo(t, "new")}})
		_, e5 := d.Delete(context.Background(), testPath(t, "p19-19"))
		errs = append(errs, e1, e2, e3, e4, e5, d.Close())
	} else {
		errs = append(errs, err)
	}
	for _, e := range errs {
		if e != nil && strings.Contains(e.Error(), "\n") {
			t.Errorf("an error of several lines: %v", e)
		}
	}
	return errors.Join(errs...)
}

func TestTruncated(t *testing.T) {
	data := sample(t)
	path := filepath.Join(t.TempDir(), "db.bolt")
	for _, n := range []int{0, 1, 100, 4095, 4096, 8191, 8192, 12288, len(data) / 2, len(data) - 1} {
		if err := os.WriteFile(path, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		err := use(t, path)
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%d of %d bytes: %v, want ErrDamaged", n, len(data), err)
		}
	}
}

// growing is a file that gets longer before what is read of it is written, as those
// that somebody else has.
type growing struct {
	*os.File
	whole []byte
}

func (g growing) ReadAt(b []byte, off int64) (int, error) {
	if err := os.WriteFile(g.Name(), g.whole, 0o600); err != nil {
		return 0, err
	}
	return g.File.ReadAt(b, off)
}

// A file that somebody else makes longer is not truncated.
func TestGrowing(t *testing.T) {
	data := sample(t)
	path := filepath.Join(t.TempDir(), "db.bolt")
	if err := os.WriteFile(path, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := checkLength(growing{f, data}); err != nil {
		t.Error(err)
	}
}

// A file that gets shorter while it is open is an error, of whatever is asked of it,
// and nobody waits for ever.
func TestTruncatedMeanwhile(t *testing.T) {
	r := large(t)
	for _, n := range []int64{0, 4096, 8192} {
		for _, reads := range []bool{false, true} {
			d, _ := begun(t, 2)
			if err := os.Truncate(d.path, n); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error)
			go func() {
				if reads {
					d.begin() // no transaction waits for the next reader
					d.end()
				}
				for range 2 {
					if reads {
						_, _ = d.Names("", 10)
					}
					_ = d.Register(context.Background(), r)
				}
				ended <- d.Close()
			}()
			select {
			case err := <-ended:
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("%d bytes: %v, want ErrDamaged", n, err)
				}
			case <-time.After(time.Minute):
				t.Fatalf("%d bytes, read %v: somebody waits for ever", n, reads)
			}
		}
	}
}

func TestDamaged(t *testing.T) {
	data := sample(t)
	path := filepath.Join(t.TempDir(), "db.bolt")
	r := rand.New(rand.NewPCG(1, 2))
	noticed := 0
	for range 100 {
		bad := append([]byte(nil), data...)
		// A page of garbage, anywhere but in the two meta pages.
		page := 2 + r.IntN(len(bad)/4096-2)
		for i := range 4096 {
			bad[page*4096+i] = byte(r.Uint32())
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if use(t, path) != nil {
			noticed++
		}
	}
	if noticed == 0 {
		t.Error("no damage was noticed at all")
	}
}

func TestNotADatabase(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not a database\n", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	b, err := bolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("things")); return err }); err != nil {
		t.Fatal(err)
	}
	b.Close()
	for _, path := range []string{garbage, other, dir} {
		if err := use(t, path); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", path, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "missing"), testDir, Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v, want ErrNotExist", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "missing")); err == nil {
		t.Error("opening a missing database made one")
	}
}

func TestVersionAndStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.bolt")
	d := open(t, path)
	if err := d.update(context.Background(), false, func(w writer) error {
		return w.put(bucketMeta, keyVersion, []byte("99"))
	}); err != nil {
		t.Fatal(err)
	}
	d.Close()
	if _, err := Open(path, testDir, Options{}); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), `"99"`) {
		t.Errorf("got %v, want ErrVersion that names the version", err)
	}
	path = filepath.Join(t.TempDir(), "db.bolt")
	open(t, path).Close()
	if _, err := Open(path, "/another/store", Options{}); err == nil || !strings.Contains(err.Error(), "/t/store") {
		t.Errorf("got %v, want an error that names the store", err)
	}
}
