package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/db"
	"storefs/store"
	"storefs/tree"
)

// life is everything that a state goes through, for whoever runs it.
func life(dir string) error {
	ctx := context.Background()
	if err := Init(dir, testStore); err != nil {
		return err
	}
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	for i := range 2 { // the second time it is realised anew
		if err := registerOne(s, "x", false); err != nil {
			return err
		}
		drvs, err := s.DB().Names("", 100)
		if err != nil {
			return err
		}
		var drv store.Path
		for _, e := range drvs {
			if p, err := testStore.Join(e.Name); err == nil && p.IsDerivation() {
				drv = p
			}
		}
		outs, err := s.DB().Outputs(drv)
		if err != nil || len(outs) != 2 {
			return fmt.Errorf("outputs of %s: %v, %w", drv, outs, err)
		}
		var stream bytes.Buffer
		if err := s.Export(ctx, &stream, []store.Path{outs[0].Path, outs[1].Path}); err != nil {
			return err
		}
		gone, err := s.Delete(ctx, outs[0].Path, outs[1].Path)
		if err != nil || len(gone) != 3 {
			return fmt.Errorf("deleted %v, %w", gone, err)
		}
		for _, p := range gone {
			if _, err := os.Lstat(s.Real(p)); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%s is still on disk: %w", p, err)
			}
		}
		if i == 0 {
			continue
		}
		if _, err := s.Import(ctx, &stream); err != nil {
			return err
		}
		if _, err := s.Normalised(ctx, drv); err != nil {
			return err
		}
	}
	return nil
}

func TestInitRefuses(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "letter"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Init(full, testStore); err == nil || !strings.Contains(err.Error(), "letter") {
		t.Errorf("a directory that is not empty: %v", err)
	}
	if err := Init(filepath.Join(full, "s"), "relative"); !errors.Is(err, store.ErrBadPath) {
		t.Errorf("a relative store: %v", err)
	}
	if _, err := os.Stat(filepath.Join(full, "s")); err == nil {
		t.Error("a refused Init made a directory")
	}
	s := newState(t)
	if err := Init(s.Dir(), testStore); err == nil {
		t.Error("a second Init succeeded")
	}
}

func TestInitAfterKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	if err := Init(dir, testStore); err != nil {
		t.Fatal(err)
	}
	// As if it had been killed before the last step.
	if err := os.Remove(filepath.Join(dir, "config.json")); err != nil {
		t.Fatal(err)
	}
	if err := Init(dir, testStore); err != nil {
		t.Fatal(err)
	}
	openState(t, dir)
}

func TestOpenRefuses(t *testing.T) {
	damage := func(t *testing.T, change func(dir string) error) error {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "s")
		err := Init(dir, testStore)
		if err == nil {
			err = change(dir)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(dir, Options{})
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v, want one line that names %s", err, dir)
		}
		return err
	}
	config := func(text string) func(dir string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o644) }
	}
	if err := damage(t, tree.RemoveAll); !errors.Is(err, ErrNotState) {
		t.Errorf("nothing there: %v", err)
	}
	if err := damage(t, config("{\n\n]")); !errors.Is(err, ErrNotState) {
		t.Errorf("garbage: %v", err)
	}
	if err := damage(t, config(`{"version":2,"store":"/t/store"}`)); err != nil && !strings.Contains(err.Error(), "version 2") {
		t.Errorf("another version: %v", err)
	}
	damage(t, config(`{"version":1,"store":"store"}`))
	damage(t, config(`{"version":1,"store":"/other/store"}`))
	damage(t, func(dir string) error { return os.Remove(filepath.Join(dir, "real")) })
	// An empty database would turn every object into a leftover.
	if err := damage(t, func(dir string) error { return os.Remove(filepath.Join(dir, "db.bolt")) }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no database: %v", err)
	}
	damage(t, func(dir string) error { return os.Truncate(filepath.Join(dir, "db.bolt"), 0) })
	damage(t, func(dir string) error { return os.Truncate(filepath.Join(dir, "db.bolt"), 5000) })
	if os.Geteuid() == 0 {
		err := damage(t, func(dir string) error { return os.Chown(filepath.Join(dir, "real"), otherUser, otherUser) })
		if err != nil && !strings.Contains(err.Error(), "uid") {
			t.Errorf("somebody else's: %v", err)
		}
	}
}

func TestSecondOwnerIsToldWho(t *testing.T) {
	s := newState(t)
	_, err := Open(s.Dir(), Options{})
	want := fmt.Sprintf("state %s: in use by test (pid %d)", s.Dir(), os.Getpid())
	if !errors.Is(err, store.ErrInUse) || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openState(t, s.Dir())
}

// What is not valid goes after Open, and what is valid stays.
func TestSweep(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	kept := must(s.AddText(ctx, "kept", []byte("kept"), nil))(t)
	stray := must(store.TextPath(testStore, "stray", nil, nil))(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.Real(stray), filepath.Join(s.Builds(), "old"), filepath.Join(s.Builds(), "kept-1")} {
		if err := os.MkdirAll(filepath.Join(dir, "a"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o555); err != nil {
			t.Fatal(err)
		}
	}
	s = openState(t, s.Dir())
	if err := s.Swept(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		s.Real(kept.Path): true, s.Real(stray): false, filepath.Join(s.Builds(), "old"): false,
		filepath.Join(s.Builds(), "kept-1"): true,
	} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s: %v, want there: %v", path, err, want)
		}
	}
}

// What becomes valid while leftovers of its name are swept stays.
func TestSweepBesideUse(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	const n = 200
	name := func(i int) string { return fmt.Sprint("x", i) }
	var paths []store.Path
	for i := range n {
		p := must(store.TextPath(testStore, name(i), []byte("text"), nil))(t)
		if err := os.MkdirAll(filepath.Join(s.Real(p), "junk"), 0o755); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	s.db.Close() // as if killed
	s = openState(t, s.Dir())
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for i := range n / 2 {
		// From both ends: some before they are swept, some after.
		for _, k := range []int{i, n - 1 - i} {
			wg.Go(func() {
				_, err := s.AddText(ctx, name(k), []byte("text"), nil)
				errs <- err
			})
		}
	}
	wg.Wait()
	for range n {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Swept(); err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if b, err := os.ReadFile(s.Real(p)); err != nil || string(b) != "text" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	for _, dir := range []string{s.RealDir(), s.Builds()} {
		entries := must(os.ReadDir(dir))(t)
		if want := map[string]int{s.RealDir(): n}[dir]; len(entries) != want {
			t.Errorf("%s: %d entries, want %d", dir, len(entries), want)
		}
	}
}

// A leftover does not keep the real thing from taking its name.
func TestLeftoverIsReplaced(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	p := must(store.TextPath(testStore, "x", []byte("text"), nil))(t)
	if err := os.MkdirAll(filepath.Join(s.Real(p), "junk"), 0o755); err != nil {
		t.Fatal(err)
	}
	must(s.AddText(ctx, "x", []byte("text"), nil))(t)
	if b, err := os.ReadFile(s.Real(p)); err != nil || string(b) != "text" {
		t.Fatalf("%q, %v", b, err)
	}
}

// What could not be taken out of the store after an error is for the next owner to
// sweep.
func TestLeftIsSwept(t *testing.T) {
	ctx := context.Background()
	t.Run("deleted", func(t *testing.T) {
		s := newState(t)
		p := must(s.AddText(ctx, "x", []byte("text"), nil))(t).Path
		// Something has the name to which it would be moved.
		if err := os.Mkdir(s.path("builds", fmt.Sprint("deleted-", s.scratch.Load()+1)), 0o755); err != nil {
			t.Fatal(err)
		}
		if gone, err := s.Delete(ctx, p); err == nil || len(gone) != 1 {
			t.Errorf("deleted %v, %v", gone, err)
		}
		gone(t, s, p)
	})
	t.Run("placed", func(t *testing.T) {
		s := newState(t)
		p := must(store.TextPath(testStore, "x", nil, nil))(t)
		o := textObject(p, nil, []store.Path{must(store.TextPath(testStore, "missing", nil, nil))(t)}, textCA(nil))
		away := s.path("away")
		err := s.place(ctx, []object{o}, db.Registration{}, nil, func() {
			// It cannot be removed where it was put.
			if err := os.Rename(s.RealDir(), away); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(s.RealDir(), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		})
		if !errors.Is(err, store.ErrNotValid) || !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("got %v, want ErrNotValid and ENOTDIR", err)
		}
		err = os.Remove(s.RealDir())
		if err == nil {
			err = os.Rename(away, s.RealDir())
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(s.Real(p)); err != nil {
			t.Error(err)
		}
		gone(t, s, p)
	})
}

// Whatever somebody has put in the place of an object goes when it is deleted.
func TestDeleteWhatIsNone(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	p := must(s.AddText(ctx, "x", []byte("text"), nil))(t).Path
	err := os.Remove(s.Real(p))
	if err == nil {
		err = unix.Mkfifo(s.Real(p), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	must(s.Delete(ctx, p))(t)
	if _, err := os.Lstat(s.Real(p)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
}

// An owner that changes nothing writes nothing, and what it leaves when it is
// killed is as good as what it leaves when it ends. One that changes something
// says so first.
func TestOwnerThatChangesNothing(t *testing.T) {
	dir := openDir(t)
	if err := Init(dir, testStore); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := registerNew(s, "x"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	read := func() (all [2][]byte) {
		for i, name := range []string{"db.bolt", "db.bolt.log"} {
			var err error
			if all[i], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	before := read()
	if s, err = Open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	if s.unclean.Load() {
		t.Error("there is something to sweep after an orderly end")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for i, after := range read() {
		if !bytes.Equal(before[i], after) {
			t.Errorf("file %d was written", i)
		}
	}
	s = openState(t, dir)
	if _, err := registerNew(s, "y"); err != nil {
		t.Fatal(err)
	}
	if mark, err := s.db.Mark(); err != nil || mark != "" {
		t.Errorf("something was changed, and the mark is %q, %v", mark, err)
	}
}

// What was settled is as Close leaves it, and whoever changes something nevertheless says
// so first.
func TestSettle(t *testing.T) {
	dir := openDir(t)
	if err := Init(dir, testStore); err != nil {
		t.Fatal(err)
	}
	s := openState(t, dir)
	for _, name := range []string{"x", "y"} {
		if _, err := registerNew(s, name); err != nil {
			t.Fatal(err)
		}
		if mark, err := s.db.Mark(); err != nil || mark != "" {
			t.Errorf("something was changed, and the mark is %q, %v", mark, err)
		}
		for range 2 {
			if err := s.Settle(); err != nil {
				t.Fatal(err)
			}
		}
		now, err := s.realTime()
		if err != nil {
			t.Fatal(err)
		}
		if mark, err := s.db.Mark(); err != nil || mark != now {
			t.Errorf("settled, the mark is %q, %v; want %q", mark, err, now)
		}
		log, err := os.ReadFile(s.path("db.bolt.log"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Settle(); err != nil {
			t.Fatal(err)
		}
		if again, err := os.ReadFile(s.path("db.bolt.log")); err != nil || !bytes.Equal(again, log) {
			t.Errorf("what is settled was written again: %v", err)
		}
	}
}
