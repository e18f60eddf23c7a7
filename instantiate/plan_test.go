package instantiate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// memory is a store that keeps names. It accepts what a real one would: every
// reference must be there already, and paths must be right.
type memory struct {
	dir   store.Dir
	mu    sync.Mutex
	valid map[store.Path]bool
	added []string
	asked func() // nil, or what happens once it was said which expressions are missing
}

func newMemory(dir store.Dir) *memory { return &memory{dir: dir, valid: map[store.Path]bool{}} }

func (m *memory) Missing(_ context.Context, paths []store.Path) ([]store.Path, error) {
	return slices.DeleteFunc(slices.Clone(paths), func(p store.Path) bool { return m.valid[p] }), nil
}

func (m *memory) MissingExprs(ctx context.Context, exprs []*Expr) ([]store.Path, error) {
	var paths []store.Path
	for _, x := range exprs {
		paths = append(paths, x.Path)
	}
	missing, err := m.Missing(ctx, paths)
	if m.asked != nil {
		m.asked()
	}
	return missing, err
}

func (m *memory) AddSource(_ context.Context, name string, dump func(io.Writer) error) (store.Path, error) {
	var b bytes.Buffer
	if err := dump(&b); err != nil {
		return "", err
	}
	sum, err := nar.HashStream(&b)
	if err != nil {
		return "", err
	}
	p, err := store.SourcePath(m.dir, sum.Hash, name)
	if err != nil {
		return "", err
	}
	return p, m.add(p, nil)
}

func (m *memory) AddTexts(_ context.Context, texts []*Text) error {
	for _, t := range texts {
		if p, err := store.TextPath(m.dir, t.Name, []byte(t.Content), t.References); err != nil || p != t.Path {
			return fmt.Errorf("text %s would be %s (%w)", t.Path, p, err)
		}
		if err := m.add(t.Path, t.References); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) AddExprs(_ context.Context, exprs []*Expr) error {
	for _, x := range exprs {
		e, err := storeexpr.Parse(x.Text())
		if err != nil {
			return err
		}
		d := e.(*storeexpr.Derivation)
		if p, err := store.TextPath(m.dir, x.Name, x.Text(), d.References()); err != nil || p != x.Path {
			return fmt.Errorf("derivation %s would be %s (%w)", x.Path, p, err)
		}
		if err := m.add(x.Path, d.References()); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) add(p store.Path, refs []store.Path) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range refs {
		if !m.valid[r] {
			return fmt.Errorf("%s refers to %s: %w", p, r, store.ErrNotValid)
		}
	}
	m.valid[p] = true
	m.added = append(m.added, p.Name())
	return nil
}

func writeTree(t *testing.T) (dir string, plan *Plan) {
	t.Helper()
	dir = t.TempDir()
	writeFiles(t, dir, map[string]string{
		"src/run": "#!/bin/sh", "src/link": "->gone", "src/sub/x": "y", "one": "file", "only": "->nowhere",
		"main.star": `
s = source("src")
inner = text("inner", s + "\n" + source("one"))
outer = text("outer", inner)
a = derivation("a", s + "/run", args = [outer])
b = derivation("b", a.out, args = [source("only")], env = {"graph": a.drv})
unused = derivation("unused", "/b", args = [text("unused-text", "x")])
default = [b, source("src", name = "asked")]
`,
	})
	plan, err := Eval(context.Background(), Options{Dir: "/nix/store", File: filepath.Join(dir, "main.star")})
	if err != nil {
		t.Fatal(err)
	}
	return dir, plan
}

func TestWrite(t *testing.T) {
	_, plan := writeTree(t)
	m := newMemory("/nix/store")
	if err := plan.Write(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	got := slices.Sorted(slices.Values(m.added))
	if want := []string{"a.drv", "asked", "b.drv", "inner", "one", "only", "outer", "src"}; !slices.Equal(got, want) {
		t.Errorf("written: %q, want %q", got, want)
	}
	for _, x := range plan.Targets {
		if x.Drv == "" && !m.valid[x.Path] || x.Drv != "" && !m.valid[x.Drv] {
			t.Errorf("target %s was not written", x.Name)
		}
	}
	m.added = nil
	if err := plan.Write(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	if len(m.added) > 0 {
		t.Errorf("written again: %q", m.added)
	}
}

// Of derivations with the same output, the last one that was written is the one that is
// known to make it: also where only another one of them is missing.
func TestWriteSameOutput(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"main.star": `
sum = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
one = derivation("file", "/b", hash = sum, env = {"url": "one"})
two = derivation("file", "/b", hash = sum, env = {"url": "two"})
more = derivation("more", "/b")
default = [one, two, more]
`})
	plan, err := Eval(t.Context(), Options{Dir: "/nix/store", File: filepath.Join(dir, "main.star")})
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory("/nix/store")
	if err := plan.Write(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]string{{"file.drv", "file.drv"}, {"file.drv"}, {"more.drv"}} {
		m.added = nil
		delete(m.valid, plan.Exprs[i].Path)
		if err := plan.Write(t.Context(), m); err != nil || !slices.Equal(m.added, want) {
			t.Errorf("without the derivation %d: written %q, want %q (%v)", i, m.added, want, err)
		}
	}
}

// What was deleted after it was asked for is written all the same.
func TestWriteDeletedMeanwhile(t *testing.T) {
	_, plan := writeTree(t)
	m := newMemory("/nix/store")
	if err := plan.Write(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	m.added = nil
	last := plan.Exprs[len(plan.Exprs)-1].Path
	delete(m.valid, last)
	m.asked = func() { delete(m.valid, plan.Exprs[0].Path) }
	if err := plan.Write(t.Context(), m); err != nil || !slices.Equal(m.added, []string{"a.drv", "b.drv"}) {
		t.Errorf("written: %q, %v", m.added, err)
	}
	// And if it is not that, the error is told.
	delete(m.valid, last)
	m.asked = func() { clear(m.valid) }
	if err := plan.Write(t.Context(), m); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("without the sources: %v", err)
	}
}

func TestWriteChangedSource(t *testing.T) {
	dir, plan := writeTree(t)
	writeFiles(t, dir, map[string]string{"one": "other"})
	err := plan.Write(context.Background(), newMemory("/nix/store"))
	if !errors.Is(err, errChanged) {
		t.Errorf("got %v, want that a source changed", err)
	}
}

// A source is read as nar.Dump reads it, and what cannot be in a store is
// refused.
func TestSourceDump(t *testing.T) {
	dir, plan := writeTree(t)
	for _, s := range plan.Sources {
		var mine, theirs bytes.Buffer
		if err := s.Dump(context.Background(), &mine); err != nil {
			t.Fatal(err)
		}
		if err := nar.Dump(&theirs, s.Host()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(mine.Bytes(), theirs.Bytes()) || s.Size != int64(mine.Len()) {
			t.Errorf("%s: %d bytes (said to be %d) differ from the %d of package nar", s.Name, mine.Len(), s.Size, theirs.Len())
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "src/fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Eval(context.Background(), Options{Dir: "/nix/store", File: filepath.Join(dir, "main.star")})
	want := filepath.Join(dir, "main.star") + ":2:11: source src: " + filepath.Join(dir, "src/fifo") + ": neither a regular file, a directory nor a symbolic link"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestSourceFilter(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"src/a.go": "a", "src/a_test.go": "t", "src/d/e/b.go": "b", "src/d/c.txt": "c", "src/other/d.txt": "d", "src/l": "->a.go",
		"want1/a.go": "a", "want1/d/e/b.go": "b",
		"want2/a.go": "a", "want2/d/e/b.go": "b", "want2/a_test.go": "t", "want2/d/c.txt": "c", "want2/l": "->a.go",
		"want3/d/e/b.go": "b", "want3/d/c.txt": "c",
		"main.star": `
default = [
    source("src", name = "x", include = ["**/*.go"], exclude = ["*_test.go"]), source("want1", name = "x"),
    source("src", name = "x", exclude = ["other"]), source("want2", name = "x"),
    source("src", name = "x", include = ["d"]), source("want3", name = "x"),
]`,
	})
	if err := os.Mkdir(filepath.Join(dir, "src/hollow"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "want2/hollow"), 0o755); err != nil { // kept: nothing excludes it
		t.Fatal(err)
	}
	plan, err := Eval(context.Background(), Options{Dir: "/nix/store", File: filepath.Join(dir, "main.star")})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(plan.Targets); i += 2 {
		if got, want := plan.Targets[i].Path, plan.Targets[i+1].Path; got != want {
			t.Errorf("pair %d: %s, want %s", i/2+1, got, want)
		}
	}
}
