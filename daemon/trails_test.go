package daemon

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"storefs/prefetch"
	"storefs/store"
)

func TestTrails(t *testing.T) { eachWay(t, testTrails) }

func testTrails(t *testing.T, dial dialer) {
	f := newFake(t)
	s, socket := f.serve()
	c := dial(t, s, socket)
	ctx := t.Context()
	want := []prefetch.Trail{{Program: "/bin/x", First: "a", Last: 7, Steps: []prefetch.Step{{Path: path("a"), Weight: 0.5, Last: 6}, {Path: path("b"), Weight: 8, Last: 7}}}}
	if n, err := c.AddTrails(ctx, want); err != nil || n != 1 {
		t.Fatalf("%d, %v", n, err)
	}
	if got, err := c.Trails(ctx); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v %s", err, cmp.Diff(want, got))
	}
	bad := prefetch.Trail{Program: "/bin/x", First: "a", Steps: []prefetch.Step{{Path: "/elsewhere/x", Weight: 1}}}
	if _, err := c.AddTrails(ctx, []prefetch.Trail{bad}); !errors.Is(err, store.ErrBadPath) {
		t.Errorf("a path that is not in the store: %v", err)
	}
}
