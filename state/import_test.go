package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// small is a state with a source, a derivation that uses it, its two outputs and
// their closure, and the whole of it as a stream.
func small(t testing.TB) (*State, *storeexpr.Derivation, []byte) {
	t.Helper()
	ctx := context.Background()
	s := newState(t)
	src := must(s.AddText(ctx, "src", []byte("hello"), nil))(t)
	drv, d := derivation(t, s, "x", []string{"dev", "out"}, nil, []store.Path{src.Path})
	if _, _, err := s.Register(ctx, Outcome{Drv: drv, Derivation: d, Outputs: build(t, s, d, src.Path)}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.Export(ctx, &b, allPaths(t, s)); err != nil {
		t.Fatal(err)
	}
	return s, d, b.Bytes()
}

func allPaths(t testing.TB, s *State) []store.Path {
	t.Helper()
	var paths []store.Path
	for _, e := range must(s.DB().Names("", 1e6))(t) {
		paths = append(paths, must(testStore.Join(e.Name))(t))
	}
	return paths
}

func verified(t testing.TB, s *State) Verified {
	t.Helper()
	return must(s.Verify(context.Background(), VerifyOptions{Contents: true}, func(p Problem) {
		t.Errorf("%s: %s", p.Path, p.Message)
	}))(t)
}

func TestExportImport(t *testing.T) {
	ctx := context.Background()
	from, d, stream := small(t)
	to := newState(t)
	paths := must(to.Import(ctx, bytes.NewReader(stream)))(t)
	if want := allPaths(t, from); len(paths) != len(want) || !slices.Equal(allPaths(t, to), want) {
		t.Fatalf("imported %v, want %v", paths, want)
	}
	for _, p := range paths {
		a, b := must(from.DB().Info(p))(t), must(to.DB().Info(p))(t)
		if a.NarHash != b.NarHash || a.NarSize != b.NarSize || !slices.Equal(a.References, b.References) || a.Kind != b.Kind || a.CA != b.CA {
			t.Errorf("%+v became %+v", a, b)
		}
	}
	verified(t, to)
	// The derivation that was in the stream is known as one.
	k := must(to.DB().Known(d.Outputs[1].Path))(t)
	if k.Output != "out" {
		t.Fatalf("known: %+v", k)
	}
	must(to.Normalised(ctx, k.Drv))(t)
	// A second time there is nothing to do, but it is compared.
	must(to.Import(ctx, bytes.NewReader(stream)))(t)
	left := must(os.ReadDir(to.Builds()))(t)
	if len(left) > 0 {
		t.Errorf("left in scratch: %v", left)
	}
}

// Streams may follow each other; what else follows one is an error that changes nothing.
func TestImportFollowed(t *testing.T) {
	ctx := context.Background()
	from, _, stream := small(t)
	to := newState(t)
	for _, junk := range []string{"\n", "\x00", "something else", "\x02\x00\x00\x00\x00\x00\x00\x00", string(stream[:100])} {
		_, err := to.Import(ctx, io.MultiReader(bytes.NewReader(stream), strings.NewReader(junk)))
		if !errors.Is(err, store.ErrBadArchive) {
			t.Errorf("followed by %q: %v, want ErrBadArchive", junk, err)
		}
		if c := must(to.DB().Count())(t); c != 0 {
			t.Fatalf("followed by %q: %d paths are valid", junk, c)
		}
	}
	last := must(from.AddText(ctx, "last", []byte("last"), nil))(t)
	var more bytes.Buffer
	if err := from.Export(ctx, &more, []store.Path{last.Path}); err != nil {
		t.Fatal(err)
	}
	paths := must(to.Import(ctx, io.MultiReader(bytes.NewReader(stream), bytes.NewReader(stream), &more)))(t)
	if want := allPaths(t, from); !slices.Equal(allPaths(t, to), want) || paths[len(paths)-1] != last.Path {
		t.Errorf("imported %v, want %v", paths, want)
	}
	verified(t, to)
}

// An import that is cut short anywhere changes nothing.
func TestImportTruncated(t *testing.T) {
	_, _, stream := small(t)
	to := newState(t)
	for n := range len(stream) {
		_, err := to.Import(context.Background(), bytes.NewReader(stream[:n]))
		if !errors.Is(err, store.ErrBadArchive) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("%d of %d bytes: %v, want ErrBadArchive", n, len(stream), err)
		}
		if c := must(to.DB().Count())(t); c != 0 {
			t.Fatalf("%d of %d bytes: %d paths are valid", n, len(stream), c)
		}
	}
	if left := must(os.ReadDir(to.Builds()))(t); len(left) > 0 {
		t.Errorf("left in scratch: %v", left)
	}
}

// A wrong byte is an error that changes nothing, except in what nobody can tell:
// the contents of outputs, and who made them.
func TestImportCorrupted(t *testing.T) {
	from, _, stream := small(t)
	to := newState(t)
	slipped := 0
	for i := range stream {
		bad := slices.Clone(stream)
		bad[i] ^= 1
		paths, err := to.Import(context.Background(), bytes.NewReader(bad))
		if err != nil {
			if c := must(to.DB().Count())(t); c != 0 {
				t.Fatalf("byte %d: %v, and %d paths are valid", i, err, c)
			}
			continue
		}
		slipped++
		for _, p := range paths {
			was, err := from.DB().Info(p)
			is := must(to.DB().Info(p))(t)
			if err != nil || is.CA != was.CA || was.CA != "" && is.NarHash != was.NarHash {
				t.Fatalf("byte %d: %+v became %+v (%v)", i, was, is, err)
			}
		}
		verified(t, to)
		must(to.Delete(context.Background(), paths...))(t)
	}
	if slipped == 0 || slipped > len(stream)/3 {
		t.Errorf("%d of %d wrong bytes were not noticed", slipped, len(stream))
	}
}

func TestImportRefusesWrongOrder(t *testing.T) {
	from, _, _ := small(t)
	infos := must(from.inOrder(allPaths(t, from)))(t)
	slices.Reverse(infos)
	var b bytes.Buffer
	x := nar.NewExportWriter(&b)
	for _, i := range infos {
		if err := x.Add(nar.Member{Path: i.Path, References: i.References}, func(w io.Writer) error { return from.dump(w, i) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := newState(t).Import(context.Background(), &b); !errors.Is(err, store.ErrNotValid) {
		t.Fatalf("got %v, want ErrNotValid", err)
	}
}

// A member that is valid here with other content is an error.
func TestImportDiffers(t *testing.T) {
	ctx := context.Background()
	_, d, stream := small(t)
	to := newState(t)
	src := must(to.AddText(ctx, "src", []byte("hello"), nil))(t)
	drv, _ := derivation(t, to, "x", []string{"dev", "out"}, nil, []store.Path{src.Path})
	if _, _, err := to.Register(ctx, Outcome{Drv: drv, Derivation: d, Outputs: build(t, to, d)}); err != nil {
		t.Fatal(err)
	}
	before := allPaths(t, to)
	if _, err := to.Import(ctx, bytes.NewReader(stream)); !errors.Is(err, store.ErrHashMismatch) {
		t.Fatalf("got %v, want ErrHashMismatch", err)
	}
	if after := allPaths(t, to); !slices.Equal(before, after) {
		t.Fatalf("valid were %v, are %v", before, after)
	}
}

func TestExportNoticesDamage(t *testing.T) {
	s, d, _ := small(t)
	file := filepath.Join(s.Real(d.Outputs[0].Path), "file")
	overwrite(t, file, "damaged")
	if err := s.Export(context.Background(), io.Discard, []store.Path{d.Outputs[0].Path}); !errors.Is(err, store.ErrHashMismatch) {
		t.Fatalf("got %v, want ErrHashMismatch", err)
	}
}

// overwrite changes a file of the store as a bad disk would: nothing but its
// content.
func overwrite(t testing.TB, file, text string) {
	t.Helper()
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
}

// writeExprs writes the text of expressions into a directory, under their names.
func writeExprs(t testing.TB, dir string, exprs map[store.Path]storeexpr.Expr) {
	t.Helper()
	for p, e := range exprs {
		if err := os.WriteFile(filepath.Join(dir, p.Base()), e.AppendText(nil), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A chain of derivations, longer than a stack of frames should be, is imported
// from its end.
func TestImportChain(t *testing.T) {
	n := 5000
	if testing.Short() {
		n = 500
	}
	dir := memoryDir(t)
	modulos := map[store.Path]storeexpr.Modulo{}
	modulo := func(p store.Path) (storeexpr.Modulo, error) { return modulos[p], nil }
	var last store.Path
	for i := range n {
		d := &storeexpr.Derivation{Outputs: []storeexpr.Output{{Name: "out"}}, Platform: "x", Builder: "/b"}
		if last != "" {
			d.Inputs = []storeexpr.Input{{Path: last, Outputs: []string{"out"}}}
		}
		name := fmt.Sprint("link-", i)
		if err := d.FillOutputs(testStore, name, modulo); err != nil {
			t.Fatal(err)
		}
		last = must(d.Path(testStore, name))(t)
		modulos[last] = must(d.HashModulo(modulo))(t)
		writeExprs(t, dir, map[store.Path]storeexpr.Expr{last: d})
	}
	s := newState(t)
	got := must(s.ImportExprs(context.Background(), []string{filepath.Join(dir, last.Base())}))(t)
	if len(got) != 1 || got[0] != last {
		t.Fatalf("imported %v, want %s", got, last)
	}
	if c := must(s.DB().Count())(t); c != n {
		t.Fatalf("%d valid, want %d", c, n)
	}
}

func TestImportExprsCycle(t *testing.T) {
	dir := t.TempDir()
	at := func(digit, name string) store.Path {
		return must(testStore.Join(strings.Repeat(digit, store.DigestLen) + "-" + name))(t)
	}
	a, b := at("a", "a.store"), at("b", "b.store")
	expr := func(in store.Path) storeexpr.Expr {
		return &storeexpr.Derivation{
			Form: storeexpr.Form2004, Outputs: []storeexpr.Output{{Path: at("0", "o")}},
			Inputs: []storeexpr.Input{{Path: in}}, Platform: "x", Builder: "/b",
		}
	}
	writeExprs(t, dir, map[store.Path]storeexpr.Expr{a: expr(b), b: expr(a)})
	_, err := newState(t).ImportExprs(context.Background(), []string{filepath.Join(dir, a.Base())})
	if !errors.Is(err, store.ErrCycle) || !strings.Contains(err.Error(), "a.store -> ") {
		t.Fatalf("got %v, want ErrCycle that names it", err)
	}
}

func TestImportExprsRefuses(t *testing.T) {
	ctx := context.Background()
	from := newState(t)
	src := must(from.AddText(ctx, "src", []byte("hello"), nil))(t)
	drv, d := derivation(t, from, "x", []string{"out"}, nil, []store.Path{src.Path})
	to := newState(t)
	refuse := func(what string, want error, files map[string][]byte, name string) {
		t.Helper()
		dir := t.TempDir()
		for n, text := range files {
			if err := os.WriteFile(filepath.Join(dir, n), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_, err := to.ImportExprs(ctx, []string{filepath.Join(dir, name)})
		if !errors.Is(err, want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %v in one line", what, err, want)
		}
		if c := must(to.DB().Count())(t); c != 0 {
			t.Errorf("%s: %d paths became valid", what, c)
		}
	}
	text := d.AppendText(nil)
	refuse("no such file", os.ErrNotExist, nil, "x.drv")
	refuse("garbage", store.ErrBadExpr, map[string][]byte{"x.drv": []byte("Derive(\n")}, "x.drv")
	refuse("its source is missing", store.ErrNotValid, map[string][]byte{drv.Base(): text}, drv.Base())
	refuse("its source is another", store.ErrHashMismatch, map[string][]byte{drv.Base(): text, src.Path.Base(): []byte("hullo")}, drv.Base())
	files := map[string][]byte{"y.drv": text, drv.Base(): append(slices.Clone(text), '\n'), src.Path.Base(): []byte("hello")}
	refuse("another name", store.ErrBadExpr, files, "y.drv") // output paths depend on it
	refuse("a byte too many", store.ErrBadExpr, files, drv.Base())
	wrong := bytes.Replace(text, []byte(`"/bin/sh"`), []byte(`"/bin/bash"`), 1)
	refuse("wrong output path", store.ErrBadExpr, map[string][]byte{"x.drv": wrong, src.Path.Base(): []byte("hello")}, "x.drv")
	claimed := strings.Repeat("0", 32) + "-x.drv"
	refuse("a digest that is not its own", store.ErrBadExpr, map[string][]byte{claimed: text, src.Path.Base(): []byte("hello")}, claimed)
}

// Sources may be called like expressions of 2004, and even read like them.
func TestImportSourcesCalledStore(t *testing.T) {
	ctx := context.Background()
	from := newState(t)
	texts := map[string]string{"conf.store": "hello", "closure.store": "Closure([],[])"}
	dir := t.TempDir()
	var sources []store.Path
	for name, text := range texts {
		p := must(from.AddText(ctx, name, []byte(text), nil))(t).Path
		sources = append(sources, p)
		if err := os.WriteFile(filepath.Join(dir, p.Base()), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree := must(from.AddNAR(ctx, "dir.store", true, store.SHA256, bytes.NewReader(archive(t, true, "in a directory"))))(t).Path
	sources = append(sources, tree)
	if err := os.CopyFS(filepath.Join(dir, tree.Base()), os.DirFS(from.Real(tree))); err != nil {
		t.Fatal(err)
	}
	slices.Sort(sources)
	drv, d := derivation(t, from, "x", []string{"out"}, nil, sources)
	writeExprs(t, dir, map[store.Path]storeexpr.Expr{drv: d})
	to := newState(t)
	must(to.ImportExprs(ctx, []string{filepath.Join(dir, drv.Base())}))(t)
	if !slices.Equal(allPaths(t, to), allPaths(t, from)) {
		t.Errorf("imported %v", allPaths(t, to))
	}
	var b bytes.Buffer
	if err := from.Export(ctx, &b, allPaths(t, from)); err != nil {
		t.Fatal(err)
	}
	must(newState(t).Import(ctx, &b))(t)
}

// A fixed output refers to nothing, whoever sends it.
func TestImportFixedWithReferences(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	src := must(s.AddText(ctx, "src", []byte("hello"), nil))(t).Path
	for _, algo := range []string{"md5", "r:md5", "r:sha256"} {
		text := "see " + string(src)
		data := []byte(text)
		if strings.HasPrefix(algo, "r:") {
			data = archive(t, false, text)
		}
		h := store.HashOf(store.Algo(strings.TrimPrefix(algo, "r:")), data)
		d := &storeexpr.Derivation{
			Outputs:  []storeexpr.Output{{Name: "out", Algo: algo, Hash: h.Base16()}},
			Platform: "x", Builder: "/b",
		}
		if err := d.FillOutputs(testStore, "fixed", nil); err != nil {
			t.Fatal(err)
		}
		must(s.AddExpr(ctx, "fixed.drv", d.AppendText(nil), nil))(t)
		m := nar.Member{Path: d.Outputs[0].Path, References: []store.Path{src}}
		if _, err := s.Import(ctx, bytes.NewReader(member(t, m, archive(t, false, text)))); !errors.Is(err, store.ErrBadArchive) {
			t.Errorf("%s: got %v, want ErrBadArchive", algo, err)
		}
		m.References = nil
		must(s.Import(ctx, bytes.NewReader(member(t, m, archive(t, false, text)))))(t)
	}
}
