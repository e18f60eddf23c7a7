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
		p := must(s.db.Names("", 1))(t)[0].Name
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
