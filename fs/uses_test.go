package fs

import (
	"slices"
	"testing"
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
