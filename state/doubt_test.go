package state

import (
	"context"
	"errors"
	"os"
	"reflect"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"storefs/db"
	"storefs/store"
)

// unexported gives the place of a field that its package does not export.
func unexported[T any](v reflect.Value, field string) *T {
	return (*T)(unsafe.Pointer(v.FieldByName(field).UnsafeAddr()))
}

// failSync lets the last sync of the next transaction of bbolt fail, so that nobody
// knows whether it is on disk until mend is called.
func failSync(t *testing.T, s *State) (mend func()) {
	t.Helper()
	views := reflect.ValueOf(s.db).Elem().FieldByName("views")
	write := unexported[func(b []byte, off int64) (int, error)](views.FieldByName("bolt").Elem().FieldByName("ops"), "writeAt")
	disk := unexported[*os.File](views, "disk")
	old, whole, failed := *write, *disk, false
	*write = func(b []byte, off int64) (int, error) {
		n, err := old(b, off)
		if err == nil && off < int64(2*os.Getpagesize()) && !failed {
			failed = true
			return 0, unix.EIO
		}
		return n, err
	}
	readOnly, err := os.Open(s.path("db.bolt"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { readOnly.Close() })
	*disk = readOnly
	return func() { *disk = whole }
}

// What may be registered stays where it is, until the next owner knows.
func TestPlaceInDoubt(t *testing.T) {
	ctx := context.Background()
	for _, durable := range []bool{false, true} {
		s := newState(t)
		before := must(os.ReadFile(s.path("db.bolt")))(t)
		mend := failSync(t, s)
		// The first one goes into the file.
		if _, err := s.AddText(ctx, "src", []byte("hello"), nil); !errors.Is(err, db.ErrInDoubt) {
			t.Fatalf("got %v, want ErrInDoubt", err)
		}
		verified(t, s)
		if n := must(s.db.Names("", 1))(t); len(n) > 0 {
			t.Errorf("durable %v: %s is valid", durable, n[0].Name)
		}
		p := must(store.TextPath(s.Store(), "src", []byte("hello"), nil))(t).Base()
		if durable {
			mend()
		}
		if err := s.Close(); (err == nil) != durable {
			t.Errorf("durable %v: close: %v", durable, err)
		}
		if !durable {
			if err := os.WriteFile(s.path("db.bolt"), before, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s = openState(t, s.Dir())
		if mark := must(s.db.Mark())(t); mark != "" {
			t.Errorf("durable %v: the next owner looks for nothing", durable)
		}
		if err := s.Swept(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(s.path("real", p)); (err == nil) != durable {
			t.Errorf("durable %v: %v", durable, err)
		}
		verified(t, s)
	}
}

// What may be deleted stays, too.
func TestDeleteInDoubt(t *testing.T) {
	s := newState(t)
	p, _ := derivation(t, s, "x", []string{"out"}, nil, nil)
	s.db.Close() // as if killed: the next change goes into the file
	s = openState(t, s.Dir())
	if err := s.Swept(); err != nil {
		t.Fatal(err)
	}
	must(s.Expr(p))(t)
	mend := failSync(t, s)
	if _, err := s.Delete(context.Background(), p); !errors.Is(err, db.ErrInDoubt) {
		t.Fatalf("got %v, want ErrInDoubt", err)
	}
	must(s.Expr(p))(t)
	if _, err := os.Lstat(s.Real(p)); err != nil {
		t.Error(err)
	}
	mend()
	gone(t, s, p)
}

// gone checks that p is not there any more when the next owner has swept.
func gone(t *testing.T, s *State, p store.Path) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s = openState(t, s.Dir())
	if err := s.Swept(); err != nil {
		t.Error(err)
	}
	if ok, err := s.db.Valid(p); ok || err != nil {
		t.Errorf("it is valid: %v, %v", ok, err)
	}
	if _, err := os.Lstat(s.Real(p)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
}

// failLog lets what is registered be in doubt: it may be in the log, and cannot
// come into the file.
func failLog(t *testing.T, s *State) (mend func()) {
	t.Helper()
	d := reflect.ValueOf(s.db).Elem()
	write := unexported[func(b []byte, off int64) (int, error)](d.FieldByName("views").FieldByName("bolt").Elem().FieldByName("ops"), "writeAt")
	log := unexported[*os.File](d.FieldByName("file").Elem().FieldByName("log").Elem(), "file")
	oldWrite, oldLog := *write, *log
	*write = func([]byte, int64) (int, error) { return 0, unix.EIO }
	readOnly, err := os.Open(s.path("db.bolt.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { readOnly.Close() })
	*log = readOnly
	return func() { *write, *log = oldWrite, oldLog }
}

// What may be registered stays, whoever comes to make it again, or to sweep.
func TestTouchedInDoubt(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	must(s.AddText(ctx, "first", []byte("first"), nil))(t) // the log begins with it
	mend := failLog(t, s)
	if _, err := s.AddText(ctx, "src", []byte("hello"), nil); !errors.Is(err, db.ErrInDoubt) {
		t.Fatalf("got %v, want ErrInDoubt", err)
	}
	p, err := store.TextPath(s.Store(), "src", []byte("hello"), nil)
	if err != nil {
		t.Fatal(err)
	}
	before := must(os.Stat(s.Real(p)))(t)
	if _, err := s.AddText(ctx, "src", []byte("hello"), nil); err == nil {
		t.Error("it was answered in doubt")
	}
	if err := s.sweepStore(); err == nil {
		t.Error("it was swept in doubt")
	}
	if after, err := os.Stat(s.Real(p)); err != nil || !os.SameFile(before, after) {
		t.Errorf("it is gone, or another one: %v", err)
	}
	mend()
	must(s.AddText(ctx, "src", []byte("hello"), nil))(t)
	verified(t, s)
}
