package integrity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"storefs/nar"
	"storefs/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const dir = store.Dir("/s")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is objects on disk, and what is registered of them, in memory.
type world struct {
	t     testing.TB
	real  string
	found []store.Damage

	mu    sync.Mutex
	infos map[store.Path]store.Info
	files map[store.Path][]byte
	asked int // for records
	asks  func()
}

func newWorld(t testing.TB) *world {
	return &world{t: t, real: t.TempDir(), infos: map[store.Path]store.Info{}, files: map[store.Path][]byte{}}
}

func (w *world) Info(p store.Path) (store.Info, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i, ok := w.infos[p]
	if !ok {
		return i, store.ErrNotValid
	}
	return i, nil
}

func (w *world) Files(i store.Info) (*Files, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if w.asks != nil {
		w.asks()
	}
	f, err := DecodeFiles(bytes.Clone(w.files[i.Path]), i.NarHash)
	if err != nil {
		return nil, nil
	}
	return f, nil
}

func (w *world) SetFiles(i store.Info, f *Files) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files[i.Path] = f.Bytes()
	return nil
}

// path makes a well-formed path.
func path(name string) store.Path {
	return store.Path(string(dir) + "/" + strings.Repeat("0", 32) + "-" + name)
}

// add registers a tree: of small files and, if it is large, more than
// SmallObject.
func (w *world) add(name string, large bool) store.Path {
	w.t.Helper()
	p := path(name)
	at := filepath.Join(w.real, p.Base())
	must(w.t, os.MkdirAll(at+"/a/b", 0o755))
	for i := range 30 {
		must(w.t, os.WriteFile(fmt.Sprintf("%s/a/b/%d", at, i), fmt.Append(nil, name, i), 0o644))
	}
	must(w.t, os.WriteFile(at+"/a/run", []byte("#!/bin/sh\n"), 0o755))
	must(w.t, os.WriteFile(at+"/a/empty", nil, 0o644))
	must(w.t, os.Symlink("run", at+"/a/link"))
	if large {
		must(w.t, os.WriteFile(at+"/large", bytes.Repeat([]byte("x"), SmallObject), 0o644))
	}
	if f := w.register(p); (f != nil) != large {
		w.t.Fatalf("%s: record %v", name, f)
	}
	return p
}

// register registers what is there.
func (w *world) register(p store.Path) *Files {
	w.t.Helper()
	at := filepath.Join(w.real, p.Base())
	var r Recorder
	sum, err := nar.Ingest(w.t.Context(), at, nar.IngestOptions{UID: -1, GID: -1, File: r.File})
	must(w.t, err)
	w.infos[p] = store.Info{Path: p, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size, Registered: 1}
	f := r.Files(sum)
	if f != nil {
		w.files[p] = f.Bytes()
	}
	w.t.Cleanup(func() {
		filepath.Walk(at, func(p string, i os.FileInfo, err error) error {
			if err == nil && i.IsDir() {
				os.Chmod(p, 0o755)
			}
			return nil
		})
	})
	return f
}

// change rewrites what is inside of an object.
func (w *world) change(p store.Path, inside string, f func(file string) error) {
	w.t.Helper()
	file := filepath.Join(w.real, p.Base(), inside)
	must(w.t, os.Chmod(filepath.Dir(file), 0o755))
	os.Chmod(file, 0o755)
	must(w.t, f(file))
}

func (w *world) memory() *Memory {
	w.t.Helper()
	m, err := openMemory(filepath.Join(w.t.TempDir(), "verified"), []byte("boot"))
	must(w.t, err)
	w.t.Cleanup(func() { m.Close() })
	return m
}

func (w *world) checker(m *Memory) *Checker {
	c := New(Options{
		Store: dir, Real: w.real, Records: w, Memory: m,
		Found: func(d store.Damage) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.found = append(w.found, d)
		},
		Failed: func(err error) { w.t.Error(err) },
	})
	w.t.Cleanup(c.Close)
	return c
}

func write(text string) func(string) error {
	return func(file string) error { return os.WriteFile(file, []byte(text), 0o644) }
}

func TestCheckerFindsDamage(t *testing.T) {
	w := newWorld(t)
	c := w.checker(w.memory())
	ctx := t.Context()
	cases := map[string]func(file string) error{
		"a/b/7":   write("other"),
		"a/b/8":   os.Remove,
		"a/b/9":   write(""),
		"a/b/10":  func(f string) error { return errors.Join(os.Remove(f), os.Symlink("7", f)) },
		"a/b/11":  func(f string) error { return errors.Join(os.Remove(f), os.Mkdir(f, 0o755)) },
		"a/b/12":  func(f string) error { return os.Chmod(f, 0o555) }, // executable now
		"a/empty": write("no longer"),
		"a/link":  func(f string) error { return errors.Join(os.Remove(f), os.Symlink("b/7", f)) },
		"a/run":   func(f string) error { return os.Chmod(f, 0o444) },
		"a/new":   write("never registered"),
	}
	for inside, f := range cases {
		p := w.add("large-"+strings.ReplaceAll(inside, "/", "-"), true)
		w.change(p, inside, f)
		if err := c.Verify(ctx, p.Base(), inside); !errors.Is(err, store.ErrHashMismatch) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", inside, err)
		}
		for _, other := range []string{"a/b/1", "large"} {
			if err := c.Verify(ctx, p.Base(), other); err != nil {
				t.Errorf("%s, while %s is damaged: %v", other, inside, err)
			}
		}
		n := len(w.found)
		if n == 0 || w.found[n-1].Path != p || w.found[n-1].File != inside {
			t.Errorf("%s: found %+v", inside, w.found)
		}
		// What is known is neither read nor told again.
		if err := c.Verify(ctx, p.Base(), inside); err == nil || len(w.found) != n {
			t.Errorf("%s, again: %v, found %d times", inside, err, len(w.found)-n+1)
		}
	}
	// What is in a directory is compared without being read.
	for inside, bad := range map[string][]string{
		"a/b/7": nil, "a/b/8": {"a/b"}, "a/b/9": nil, "a/b/10": {"a/b"}, "a/b/11": {"a/b"}, "a/b/12": {"a/b"},
		"a/empty": nil, "a/link": nil, "a/run": {"a"}, "a/new": {"a"}, "a/b": {"a"}, "": {""}, "void": nil,
	} {
		p := w.add("shape-"+strings.ReplaceAll(inside, "/", "-"), true)
		f := cases[inside]
		switch inside {
		case "a/b", "":
			f = os.RemoveAll
		case "void":
			f = func(f string) error { return os.Mkdir(f, 0o755) }
		}
		w.change(p, inside, f)
		if bad == nil && inside != "void" && inside != "a/link" {
			must(t, os.Chmod(filepath.Join(c.real(p), inside), 0o444))
		}
		for _, dir := range []string{"", "a", "a/b", "void"} {
			there, _ := isDirectory(c.real(p), dir)
			if err := c.Verify(ctx, p.Base(), dir); there && (err != nil) != slices.Contains(bad, dir) || !there && err == nil {
				t.Errorf("%q, after a change of %q: %v", dir, inside, err)
			}
		}
		if n := len(w.found); len(bad) > 0 && w.found[n-1].Path != p {
			t.Errorf("%s: found %+v", inside, w.found)
		}
	}
	p := w.add("little", false)
	w.change(p, "a/b/7", write("other"))
	for _, inside := range []string{"a/b/7", "a/b/8", "a/link"} {
		if err := c.Verify(ctx, p.Base(), inside); !errors.Is(err, store.ErrHashMismatch) {
			t.Errorf("of a damaged small object: %s: %v", inside, err)
		}
	}
	if err := c.Verify(ctx, path("nothing").Base(), ""); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("not registered: %v", err)
	}
}

// A link on the way to a file leads nowhere.
// Who has no descriptor left, for a moment, finds no damage, wherever it looks.
func TestCheckerWithoutDescriptors(t *testing.T) {
	w := newWorld(t)
	p := path("bare")
	at := filepath.Join(w.real, p.Base())
	must(t, os.MkdirAll(at+"/bare", 0o755)) // without files, so it is not recorded
	must(t, os.WriteFile(at+"/large", bytes.Repeat([]byte("x"), SmallObject), 0o644))
	w.register(p)
	c := w.checker(w.memory())
	all := []string{"", "large", "bare"}
	var most unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &most))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: most.Max}))
	for _, inside := range all {
		if err := c.Verify(t.Context(), p.Base(), inside); !errors.Is(err, unix.EMFILE) {
			t.Errorf("%q without descriptors: %v", inside, err)
		}
	}
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &most))
	for _, inside := range all {
		if err := c.Verify(t.Context(), p.Base(), inside); err != nil {
			t.Errorf("%q: %v", inside, err)
		}
	}
	if len(w.found) > 0 {
		t.Errorf("found %+v", w.found)
	}
}

func TestCheckerFollowsNoLink(t *testing.T) {
	w := newWorld(t)
	c := w.checker(w.memory())
	p := w.add("large", true)
	w.change(p, "a/b", func(file string) error {
		return errors.Join(os.Rename(file, w.real+"/elsewhere"), os.Symlink(w.real+"/elsewhere", file))
	})
	if err := c.Verify(t.Context(), p.Base(), "a/b/7"); err == nil {
		t.Error("it read through a link")
	}
}

func TestCheckerReadsOnce(t *testing.T) {
	w := newWorld(t)
	m := w.memory()
	c := w.checker(m)
	large, little := w.add("large", true), w.add("little", false)
	for range 3 {
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for _, p := range []store.Path{large, little} {
					if err := c.Verify(t.Context(), p.Base(), fmt.Sprintf("a/b/%d", i%20)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	// 20 files and one object.
	if n := (m.size - int64(len("boot\n"))) / memorySize; n != 21 {
		t.Errorf("%d things were found whole, want 21", n)
	}
	// What was found whole is not read again …
	w.change(large, "a/b/7", write("other"))
	w.change(little, "a/b/7", write("other"))
	for _, p := range []store.Path{large, little} {
		if err := c.Verify(t.Context(), p.Base(), "a/b/7"); err != nil {
			t.Error(err)
		}
	}
	// … unless it was forgotten, or is another object now.
	c.Forget(w.infos[large])
	i := w.infos[little]
	i.Registered++
	w.infos[little] = i
	for _, p := range []store.Path{large, little} {
		if err := c.Verify(t.Context(), p.Base(), "a/b/7"); !errors.Is(err, store.ErrHashMismatch) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// An object without a record, or with a spoilt one, is read whole, and has one
// afterwards.
func TestCheckerRecords(t *testing.T) {
	w := newWorld(t)
	for _, spoil := range []func(b []byte) []byte{
		func([]byte) []byte { return nil },
		func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		func(b []byte) []byte { return b[:len(b)-entrySize] },
	} {
		c := w.checker(w.memory())
		p := w.add(fmt.Sprint("large", len(w.infos)), true)
		want := bytes.Clone(w.files[p])
		w.files[p] = spoil(bytes.Clone(want))
		must(t, c.Verify(t.Context(), p.Base(), "a/b/7"))
		if !bytes.Equal(w.files[p], want) {
			t.Error("the record was not made anew")
		}
		w.files[p] = nil
		c = w.checker(w.memory())
		w.change(p, "a/b/7", write("other"))
		if err := c.Verify(t.Context(), p.Base(), "a/b/8"); !errors.Is(err, store.ErrHashMismatch) {
			t.Errorf("a damaged object without a record: %v", err)
		}
		if w.files[p] != nil {
			t.Error("damage was recorded")
		}
	}
}

// Nobody is told anything of what is being replaced, also if the comparison began
// before that, of the old one or the new.
func TestCheckerHold(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		t.Run(fmt.Sprint("damaged=", damaged), func(t *testing.T) {
			w := newWorld(t)
			c := w.checker(w.memory())
			p := w.add("large", true)
			if damaged {
				w.change(p, "a/b/7", write("other"))
			}
			var release func()
			held := make(chan struct{})
			w.asks = func() {
				w.asks = nil
				release = c.Hold(p)
				close(held)
			}
			answers := make(chan error, 2)
			ask := func() { answers <- c.Verify(t.Context(), p.Base(), "a/b/7") }
			go ask()
			<-held
			go ask()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := c.Verify(ctx, p.Base(), "a/b/7"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v; want to wait", err)
			}
			select {
			case err := <-answers:
				t.Errorf("answered meanwhile: %v", err)
			default:
			}

			w.change(p, "a/b/7", write("new"))
			w.change(p, "a/b/7", func(f string) error { return os.Chmod(f, 0o444) })
			at := filepath.Join(w.real, p.Base())
			var r Recorder
			sum, err := nar.Ingest(t.Context(), at, nar.IngestOptions{UID: -1, GID: -1, File: r.File})
			must(t, err)
			info := store.Info{Path: p, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size, Registered: 2}
			must(t, w.SetFiles(info, r.Files(sum)))
			w.mu.Lock()
			w.infos[p] = info
			w.mu.Unlock()
			release()
			for range 2 {
				// Who had begun with the old one may be told that it is no more.
				if err := <-answers; err != nil && !(damaged && errors.Is(err, store.ErrNotValid)) {
					t.Error(err)
				}
			}
			must(t, c.Verify(t.Context(), p.Base(), "a/b/7"))
			if len(w.found) != 0 {
				t.Errorf("found %+v", w.found)
			}
		})
	}
}

// Whoever goes does not end the check.
func TestCheckerOutlivesCaller(t *testing.T) {
	w := newWorld(t)
	m := w.memory()
	c := w.checker(m)
	p := w.add("large", true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Verify(ctx, p.Base(), "large"); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, c.Verify(t.Context(), p.Base(), "large"))
	c.Close()
	if err := c.Verify(t.Context(), p.Base(), "a/b/1"); err == nil {
		t.Error("it answered after Close")
	}
	must(t, c.Verify(t.Context(), p.Base(), "large")) // that is known
}

func TestMemory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "verified")
	open := func(boot string) *Memory {
		t.Helper()
		m, err := openMemory(file, []byte(boot))
		must(t, err)
		return m
	}
	a, b, c := objectKey{1}, objectKey{2}, objectKey{3}
	check := func(m *Memory) {
		t.Helper()
		for _, x := range []struct {
			k    objectKey
			i    uint32
			want bool
		}{
			{a, 0, true},
			{a, 1, false},
			{a, 100_000, true},
			{a, allFiles, false},
			{b, 0, true},
			{b, allFiles, true},
			{c, 5, false},
			{objectKey{4}, 0, false},
		} {
			if m.has(x.k, x.i) != x.want {
				t.Errorf("%v %d: %v", x.k, x.i, !x.want)
			}
		}
	}
	m := open("one")
	for _, x := range []struct {
		k objectKey
		i uint32
	}{{a, 0}, {a, 100_000}, {b, 3}, {b, allFiles}, {c, 5}, {c, noFiles}} {
		must(t, m.add(x.k, x.i))
	}
	check(m)
	must(t, m.Close())

	// A crash in the middle of a record.
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.Write([]byte("torn"))
	must(t, errors.Join(err, f.Close()))
	m = open("one")
	check(m)
	must(t, m.add(c, 9))
	must(t, m.Close())
	m = open("one")
	check(m)
	if !m.has(c, 9) {
		t.Error("what followed the torn record is lost")
	}
	must(t, m.Close())
	m = open("two")
	if m.has(a, 0) || m.has(b, 3) {
		t.Error("it remembers another boot")
	}
	must(t, m.Close())
}

// BenchmarkFirstOpen is what the first READ of a file costs more, and each
// following one of a file whose node was forgotten meanwhile.
func BenchmarkFirstOpen(b *testing.B) {
	w := newWorld(b)
	p := w.add("large", true)
	m, err := openMemory(filepath.Join(b.TempDir(), "verified"), []byte("boot"))
	must(b, err)
	defer m.Close()
	c := New(Options{Store: dir, Real: w.real, Records: w, Memory: m})
	defer c.Close()
	for _, inside := range []string{"a/b/1", "large"} {
		b.Run("first/"+filepath.Base(inside), func(b *testing.B) {
			key := keyOf(w.infos[p])
			for b.Loop() {
				delete(m.objects, key)
				must(b, c.Verify(b.Context(), p.Base(), inside))
			}
		})
	}
	b.Run("known", func(b *testing.B) {
		for b.Loop() {
			must(b, c.Verify(b.Context(), p.Base(), "large"))
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	var r Recorder
	for i := range 100_000 {
		r.File(fmt.Sprint(i), store.KindRegular, [32]byte{byte(i)})
	}
	sum := nar.Summary{Kind: store.KindDirectory, Hash: store.HashOf(store.SHA256, nil), Size: 1 << 30}
	data := r.Files(sum).Bytes()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := DecodeFiles(data, sum.Hash); err != nil {
			b.Fatal(err)
		}
	}
}

// A record that finds no room is left out, and those that come later are read.
func TestMemoryWithoutRoom(t *testing.T) {
	file := filepath.Join(t.TempDir(), "verified")
	m, err := openMemory(file, []byte("boot"))
	must(t, err)
	a, b, c := objectKey{1}, objectKey{2}, objectKey{3}
	must(t, m.add(a, 0))
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &before))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(m.size + 5), Max: before.Max}))
	err = m.add(b, 0)
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &before))
	if !errors.Is(err, unix.EFBIG) {
		t.Errorf("%v", err)
	}
	must(t, m.add(c, 0))
	must(t, m.Close())
	m, err = openMemory(file, []byte("boot"))
	must(t, err)
	defer m.Close()
	if !m.has(a, 0) || m.has(b, 0) || !m.has(c, 0) {
		t.Error("other records than those that were written")
	}
}
