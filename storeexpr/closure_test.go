package storeexpr

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"storefs/store"
)

func TestNewClosure(t *testing.T) {
	refs := map[store.Path][]store.Path{
		"/d": {"/c", "/b", "/c"},
		"/c": {"/a", "/c"},
		"/b": {"/a", "/d"}, // a cycle
		"/a": nil,
		"/x": {"/a"}, // nobody needs it
	}
	asked := make(map[store.Path]int)
	roots := []store.Path{"/d", "/a", "/d"}
	got, err := NewClosure(roots, func(p store.Path) ([]store.Path, error) {
		asked[p]++
		return refs[p], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &Closure{
		Roots: []store.Path{"/a", "/d"},
		Elements: []Element{
			{Path: "/a"},
			{"/b", []store.Path{"/a", "/d"}},
			{"/c", []store.Path{"/a", "/c"}},
			{"/d", []store.Path{"/b", "/c"}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if want := map[store.Path]int{"/a": 1, "/b": 1, "/c": 1, "/d": 1}; !cmp.Equal(asked, want) {
		t.Errorf("asked for %v", asked)
	}
	if !slices.Equal(roots, []store.Path{"/d", "/a", "/d"}) || !slices.Equal(refs["/d"], []store.Path{"/c", "/b", "/c"}) {
		t.Errorf("the caller's lists were changed: %v %v", roots, refs["/d"])
	}
	if got.Has("/x") || !got.Has("/b") {
		t.Errorf("Has(/x) = %v, Has(/b) = %v", got.Has("/x"), got.Has("/b"))
	}
	if got := got.References(); !slices.Equal(got, []store.Path{"/a", "/b", "/c", "/d"}) {
		t.Errorf("References() = %v", got)
	}
}

func TestNewClosureError(t *testing.T) {
	cause := errors.New("no such thing")
	_, err := NewClosure([]store.Path{"/a"}, func(p store.Path) ([]store.Path, error) {
		if p == "/b" {
			return nil, cause
		}
		return []store.Path{"/b"}, nil
	})
	if !errors.Is(err, cause) || err.Error() != "closure of /b: no such thing" {
		t.Errorf("error %v", err)
	}
}

// A chain as deep as any graph is no deep recursion.
func TestNewClosureDeep(t *testing.T) {
	const n = 100_000
	c, err := NewClosure([]store.Path{"/0"}, func(p store.Path) ([]store.Path, error) {
		var i int
		if _, err := fmt.Sscanf(string(p), "/%d", &i); err != nil {
			return nil, err
		}
		if i == n-1 {
			return nil, nil
		}
		return []store.Path{store.Path(fmt.Sprintf("/%d", i+1))}, nil
	})
	if err != nil || len(c.Elements) != n {
		t.Fatalf("%d elements, %v", len(c.Elements), err)
	}
}

// The closure of today is named as Nix names a text with references; that of
// 2004 by what md5sum says.
func TestClosurePath(t *testing.T) {
	n := newNix(t)
	a := n.run(t, "nix-instantiate", "--eval", "--read-write-mode", "--expr", `builtins.toFile "a" "a"`)
	pa := store.Path(strings.Trim(a[0], `"`))
	c := &Closure{Roots: []store.Path{pa}, Elements: []Element{{Path: pa}}}
	got, err := c.Path(n.dir, FormToday)
	if err != nil {
		t.Fatal(err)
	}
	text := string(c.AppendText(nil))
	expr := fmt.Sprintf(`builtins.toFile "s.store" (builtins.replaceStrings [ "A" ] [ "${builtins.toFile "a" "a"}" ] "%s")`,
		strings.NewReplacer(string(pa), "A", `"`, `\"`).Replace(text))
	want := n.run(t, "nix-instantiate", "--eval", "--read-write-mode", "--expr", expr)
	if s := strings.Trim(want[0], `"`); s != string(got) {
		t.Errorf("Nix names the closure %s, we %s", s, got)
	}

	got, err = c.Path(n.dir, Form2004)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("md5sum")
	cmd.Stdin = strings.NewReader(text)
	sum, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := string(n.dir) + "/" + string(sum[:32]) + "-s.store"; string(got) != want {
		t.Errorf("2004: %s, want %s", got, want)
	}
}
