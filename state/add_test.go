package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"storefs/event"
	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// archive is the NAR of a file, or of a directory with one file.
func archive(t testing.TB, dir bool, text string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x")
	file := path
	if dir {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		file = filepath.Join(path, "file")
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := nar.Dump(&b, path); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAddNAR(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	data := archive(t, true, "hello")
	i := must(s.AddNAR(ctx, "src", true, store.SHA256, bytes.NewReader(data)))(t)
	h := store.HashOf(store.SHA256, data)
	want := must(store.SourcePath(testStore, h, "src"))(t)
	if i.Path != want || i.NarHash != h || i.NarSize != int64(len(data)) || i.Kind != store.KindDirectory {
		t.Errorf("%+v, want %s", i, want)
	}
	var back bytes.Buffer
	if err := nar.Dump(&back, s.Real(i.Path)); err != nil || !bytes.Equal(back.Bytes(), data) {
		t.Errorf("another NAR came back (%v)", err)
	}
	if again := must(s.AddNAR(ctx, "src", true, store.SHA256, bytes.NewReader(data)))(t); again.Path != i.Path {
		t.Errorf("added again it is %s", again.Path)
	}

	flat := archive(t, false, "hello")
	i = must(s.AddNAR(ctx, "f", false, store.SHA1, bytes.NewReader(flat)))(t)
	want = must(store.FixedPath(testStore, false, store.HashOf(store.SHA1, []byte("hello")), "f", nil, false))(t)
	if i.Path != want {
		t.Errorf("flat: %s, want %s", i.Path, want)
	}
	if _, err := s.AddNAR(ctx, "d", false, store.SHA256, bytes.NewReader(data)); err == nil {
		t.Error("a directory was added flat")
	}
	if _, err := s.AddNAR(ctx, "src", true, store.SHA256, bytes.NewReader(data[:len(data)-1])); !errors.Is(err, store.ErrBadArchive) {
		t.Errorf("truncated: %v", err)
	}
	for _, name := range []string{"", "..", "a/b", "x.drv"} {
		if _, err := s.AddNAR(ctx, name, true, store.SHA256, bytes.NewReader(data)); !errors.Is(err, store.ErrBadPath) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.AddNAR(gone, "src2", true, store.SHA256, bytes.NewReader(data)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left := must(os.ReadDir(s.Builds()))(t); len(left) > 0 {
		t.Errorf("left in scratch: %v", left)
	}
	verified(t, s)
}

func TestAddTexts(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	a := must(store.TextPath(testStore, "a", []byte("a"), nil))(t)
	infos := must(s.AddTexts(ctx, []NewText{{"a", []byte("a"), nil}, {"b", []byte("b"), []store.Path{a}}, {"a", []byte("a"), nil}}))(t)
	if infos[0].Path != a || infos[2].Path != a || !slices.Equal(infos[1].References, []store.Path{a}) {
		t.Fatalf("%+v", infos)
	}
	missing := must(store.TextPath(testStore, "missing", nil, nil))(t)
	if _, err := s.AddTexts(ctx, []NewText{{"c", nil, nil}, {"d", nil, []store.Path{missing}}}); !errors.Is(err, store.ErrNotValid) {
		t.Fatalf("got %v, want ErrNotValid", err)
	}
	if n := must(s.DB().Count())(t); n != 2 {
		t.Fatalf("%d valid, want 2", n)
	}
	verified(t, s)
}

// Many who add the same at once all get it, and it is there once.
func TestAddSameAtOnce(t *testing.T) {
	s := newState(t)
	sub := s.events.Subscribe(nil)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if _, err := s.AddText(context.Background(), "same", []byte(fmt.Sprint(i%2)), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := must(s.DB().Count())(t); n != 2 {
		t.Errorf("%d valid, want 2", n)
	}
	sub.Close()
	told := 0
	for events, ok := sub.Next(context.Background()); ok; events, ok = sub.Next(context.Background()) {
		for _, e := range events {
			if e.Kind == event.Valid {
				told += len(e.Paths)
			}
		}
	}
	if told != 2 {
		t.Errorf("%d paths were published as valid, want 2", told)
	}
	verified(t, s)
}

func TestAddExprKinds(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	d := &storeexpr.Derivation{Outputs: []storeexpr.Output{{Name: "dev"}, {Name: "out"}}, Platform: "x", Builder: "/b"}
	if err := d.FillOutputs(testStore, "x", nil); err != nil {
		t.Fatal(err)
	}
	kind := func(i int) store.Kind { return must(s.DB().Known(d.Outputs[i].Path))(t).Declared }
	add := func(kinds map[string]store.Kind) error {
		_, err := s.AddExpr(ctx, "x.drv", d.AppendText(nil), kinds)
		return err
	}
	if err := add(map[string]store.Kind{"out": store.KindDirectory}); err != nil {
		t.Fatal(err)
	}
	if kind(0) != store.KindUnknown || kind(1) != store.KindDirectory {
		t.Fatalf("declared %q, %q", kind(0), kind(1))
	}
	if err := add(map[string]store.Kind{"dev": store.KindSymlink}); err != nil {
		t.Fatal(err)
	}
	if kind(0) != store.KindSymlink || kind(1) != store.KindDirectory {
		t.Fatalf("declared %q, %q", kind(0), kind(1))
	}
	if err := add(map[string]store.Kind{"doc": store.KindSymlink}); !errors.Is(err, store.ErrBadExpr) {
		t.Fatalf("a kind for no output: %v", err)
	}

	flat := &storeexpr.Derivation{
		Outputs:  []storeexpr.Output{{Name: "out", Algo: "sha256", Hash: store.HashOf(store.SHA256, nil).Base16()}},
		Platform: "x", Builder: "/b",
	}
	if err := flat.FillOutputs(testStore, "flat", nil); err != nil {
		t.Fatal(err)
	}
	must(s.AddExpr(ctx, "flat.drv", flat.AppendText(nil), nil))(t)
	if k := must(s.DB().Known(flat.Outputs[0].Path))(t); k.Declared != store.KindRegular {
		t.Errorf("a flat fixed output is %q", k.Declared)
	}
}

// In 2004 a source is used through a closure, and names are MD5 in hexadecimal.
func TestExpressionsOf2004(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	src := must(s.AddText(ctx, "src", []byte("hello"), nil))(t)
	absent := must(store.TextPath(testStore, "absent", nil, nil))(t)
	c := &storeexpr.Closure{Roots: []store.Path{src.Path}, Elements: []storeexpr.Element{{Path: src.Path}, {Path: absent}}}
	slices.SortFunc(c.Elements, func(a, b storeexpr.Element) int { return strings.Compare(string(a.Path), string(b.Path)) })
	closure := must(s.AddExpr(ctx, "src.store", c.AppendText(nil), nil))(t)
	if want := must(store.HexPath(testStore, "src.store", c.AppendText(nil)))(t); closure != want {
		t.Fatalf("the closure is %s, want %s", closure, want)
	}
	if i := must(s.DB().Info(closure))(t); !slices.Equal(i.References, []store.Path{src.Path}) {
		t.Errorf("the closure refers to %v", i.References)
	}
	out := store.Path(string(testStore) + "/" + strings.Repeat("0123456789abcdef", 2) + "-x")
	d := &storeexpr.Derivation{
		Form: storeexpr.Form2004, Outputs: []storeexpr.Output{{Path: out}}, Inputs: []storeexpr.Input{{Path: closure}},
		Platform: "x", Builder: "/b",
	}
	drv := must(s.AddExpr(ctx, "x.store", d.AppendText(nil), map[string]store.Kind{string(out): store.KindDirectory}))(t)
	if k := must(s.DB().Known(out))(t); k.Drv != drv || k.Output != "" || k.Kind != store.KindDirectory {
		t.Errorf("known: %+v", k)
	}
	if _, err := s.AddExpr(ctx, drv.Base(), d.AppendText(nil), nil); err != nil {
		t.Errorf("with its digest: %v", err)
	}
	if _, err := s.AddExpr(ctx, strings.Repeat("0", 32)+"-x.store", d.AppendText(nil), nil); !errors.Is(err, store.ErrBadExpr) {
		t.Errorf("with another digest: %v", err)
	}
	_, normal, err := s.Register(ctx, Outcome{Drv: drv, Derivation: d, Outputs: build(t, s, d, src.Path)})
	if err != nil {
		t.Fatal(err)
	}
	text := must(os.ReadFile(s.Real(normal)))(t)
	if want := must(store.HexPath(testStore, "s.store", text))(t); normal != want {
		t.Errorf("the normal form is %s, want %s", normal, want)
	}
	if got := must(s.Normalised(ctx, closure))(t); got != closure {
		t.Errorf("the normal form of a closure is %s", got)
	}
	verified(t, s)
}

func TestAddExprsTogether(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	a := &storeexpr.Derivation{Outputs: []storeexpr.Output{{Name: "out"}}, Platform: "x", Builder: "/b"}
	if err := a.FillOutputs(testStore, "a", nil); err != nil {
		t.Fatal(err)
	}
	pa := must(a.Path(testStore, "a"))(t)
	ma := must(a.HashModulo(nil))(t)
	b := &storeexpr.Derivation{
		Outputs: []storeexpr.Output{{Name: "out"}}, Inputs: []storeexpr.Input{{Path: pa, Outputs: []string{"out"}}},
		Platform: "x", Builder: "/b",
	}
	if err := b.FillOutputs(testStore, "b", func(store.Path) (storeexpr.Modulo, error) { return ma, nil }); err != nil {
		t.Fatal(err)
	}
	ta, tb := a.AppendText(nil), b.AppendText(nil)
	if _, err := s.AddExprs(ctx, []NewExpr{{Name: "b.drv", Text: tb}, {Name: "a.drv", Text: ta}}); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("in the wrong order: %v, want ErrNotValid", err)
	}
	if n := must(s.DB().Count())(t); n != 0 {
		t.Fatalf("%d valid after a refusal", n)
	}
	paths := must(s.AddExprs(ctx, []NewExpr{{Name: "a.drv", Text: ta}, {Name: "b.drv", Text: tb}}))(t)
	if paths[0] != pa {
		t.Errorf("a is %s, want %s", paths[0], pa)
	}
	if _, err := s.AddExpr(ctx, "a.store", ta, nil); !errors.Is(err, store.ErrBadExpr) {
		t.Errorf("a derivation of today called .store: %v", err)
	}
	if _, err := s.Expr(must(store.TextPath(testStore, "no.drv", nil, nil))(t)); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("an expression that is not there: %v", err)
	}
	verified(t, s)
}
