package db

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTrails(t *testing.T) {
	ctx := context.Background()
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	want := []Trail{
		{"/bin/a", "x", 5, []byte("ax")},
		{"/bin/a", "y", 6, []byte("ay")},
		{"/bin/ab", "x", 7, []byte("abx")},
	}
	for _, r := range want {
		if err := d.SetTrail(ctx, Trail{r.Program, r.First, 1, []byte("old")}); err != nil {
			t.Fatal(err)
		}
		if err := d.SetTrail(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	for program, want := range map[string][]Trail{"/bin/a": want[:2], "/bin/ab": want[2:], "/bin": nil, "": want} {
		got, err := d.Trails(program)
		if err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%q: %v, %v", program, got, err)
		}
	}
	if err := d.SetTrail(ctx, Trail{Program: "/bin/a", First: "x"}); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Trails("/bin/a"); err != nil || len(got) != 1 {
		t.Errorf("after forgetting one: %v, %v", got, err)
	}
	for _, bad := range []string{"", "a\x00b", strings.Repeat("x", 40_000)} {
		if err := d.SetTrail(ctx, Trail{Program: bad, First: "x", Data: []byte("x")}); err == nil {
			t.Errorf("%.10q was taken", bad)
		}
	}
	// Beyond the bound, the oldest goes.
	errs := make(chan error)
	for i := range maxTrails {
		go func() {
			errs <- d.SetTrail(ctx, Trail{"/bin/many", fmt.Sprint(i), int64(100 + i), []byte("x")})
		}()
	}
	for range maxTrails {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	all, err := d.Trails("")
	if err != nil || len(all) != maxTrails {
		t.Fatalf("%d trails, %v", len(all), err)
	}
	for _, r := range all {
		if r.Program != "/bin/many" {
			t.Errorf("%s, followed at %d, is still there", r.Program, r.Last)
		}
	}
}
