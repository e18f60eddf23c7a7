package fs

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// What one caller used in many requests is told after one look at it.
func TestUsesAreGrouped(t *testing.T) {
	var told []string
	u := newUses(nil, func(name string) { told = append(told, name) })
	for _, name := range []string{"a", "b", "c"} {
		q := new(request)
		q.set(make([]byte, unsafe.Sizeof(fuse.InHeader{})))
		q.header().Pid = 42
		u.add(callerOf(q), name)
	}
	if len(u.queue) != 1 {
		t.Errorf("one caller is %d", len(u.queue))
	}
	u.tell()
	if !slices.Equal(told, []string{"a", "b", "c"}) {
		t.Errorf("told: %q", told)
	}
}

// What is used just before the end is told.
func TestUsesAtTheEnd(t *testing.T) {
	over := make(chan struct{})
	close(over)
	for range 20 { // either of two channels may be looked at first
		told := 0
		u := newUses(nil, func(string) { told++ })
		u.add(caller{}, "a")
		if u.run(over); told != 1 {
			t.Fatalf("told %d times", told)
		}
	}
}

// The kernel asks again for what is in use, and for a link, which it follows without a
// question.
func TestNamesAreAskedAgain(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/dir", 0o755), os.Symlink("there", dir+"/link")); err != nil {
		t.Fatal(err)
	}
	b, err := openBacking(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	q := new(request)
	q.set(make([]byte, unsafe.Sizeof(fuse.InHeader{})))
	for _, c := range []struct {
		name string
		uses *uses
		want time.Duration
	}{
		{"dir", nil, forever}, {"dir", newUses(nil, nil), useTime}, {"link", nil, linkTime}, {"link", newUses(nil, nil), linkTime},
	} {
		r := &raw{nodes: newNodes(), backing: b, uses: c.uses}
		var out fuse.EntryOut
		if st := r.lookupObject(q, Entry{Name: c.name, Valid: true}, &out); !st.Ok() || out.EntryTimeout() != c.want {
			t.Errorf("%s, uses are told: %v: %v, %v, want %v", c.name, c.uses != nil, st, out.EntryTimeout(), c.want)
		}
	}
}
