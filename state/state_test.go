package state

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"storefs/event"
	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
	"storefs/tree"
)

const testStore = store.Dir("/t/store")

func newState(t testing.TB) *State {
	t.Helper()
	dir := filepath.Join(memoryDir(t), "state")
	if err := Init(dir, testStore); err != nil {
		t.Fatal(err)
	}
	s := openState(t, dir)
	// Or what a test makes in its real/ would be taken for a leftover.
	if err := s.Swept(); err != nil {
		t.Fatal(err)
	}
	return s
}

// memoryDir is a temporary directory in memory, if there is one: ext4 takes
// longer to create a file the more were deleted lately, which tests do a lot.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "state-test-")
	if err != nil {
		dir, err = os.MkdirTemp("", "state-test-")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // not the testing package's, which fails at read-only directories
		if err := tree.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func openState(t testing.TB, dir string) *State {
	t.Helper()
	s, err := Open(dir, Options{Events: new(event.Bus), Command: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// derivation writes a derivation with the outputs that it names.
func derivation(t testing.TB, s *State, name string, outputs []string, inputs []storeexpr.Input, sources []store.Path) (store.Path, *storeexpr.Derivation) {
	t.Helper()
	d := &storeexpr.Derivation{Inputs: inputs, Sources: sources, Platform: "x86_64-linux", Builder: "/bin/sh"}
	for _, o := range outputs {
		d.Outputs = append(d.Outputs, storeexpr.Output{Name: o})
	}
	modulo := func(p store.Path) (storeexpr.Modulo, error) { return s.DB().Modulo(p) }
	if err := d.FillOutputs(testStore, name, modulo); err != nil {
		t.Fatal(err)
	}
	p, err := s.AddExpr(context.Background(), name+".drv", d.AppendText(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p, d
}

// build makes outputs as a builder would: a directory with one file that holds
// the references.
func build(t testing.TB, s *State, d *storeexpr.Derivation, refs ...store.Path) []Output {
	t.Helper()
	var out []Output
	for _, o := range d.Outputs {
		dir := s.newScratch("build")
		text := string(o.Path) + "\n"
		for _, r := range refs {
			text += string(r) + "\n"
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		sum, err := nar.Ingest(context.Background(), dir, nar.IngestOptions{UID: -1, GID: -1, Candidates: nar.NewCandidates(append(refs, d.OutputList()...))})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Output{Scratch: dir, Info: store.Info{
			Path: o.Path, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size, References: sum.References,
		}})
	}
	return out
}

func TestBuildIsRegistered(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	src := must(s.AddText(ctx, "src", []byte("hello"), nil))(t)
	drv, d := derivation(t, s, "x", []string{"dev", "out"}, nil, []store.Path{src.Path})
	known := must(s.DB().Known(d.Outputs[0].Path))(t)
	if known.Drv != drv || known.Output != "dev" {
		t.Fatalf("known: %+v", known)
	}
	if _, err := s.Normalised(ctx, drv); !errors.Is(err, store.ErrNotValid) {
		t.Fatalf("got %v, want ErrNotValid", err)
	}
	infos, closure, err := s.Register(ctx, Outcome{Drv: drv, Derivation: d, Outputs: build(t, s, d, src.Path)})
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) != 2 || len(infos[0].References) != 2 {
		t.Fatalf("infos: %+v", infos)
	}
	c, ok := must(s.Expr(closure))(t).(*storeexpr.Closure)
	if !ok || len(c.Roots) != 2 || len(c.Elements) != 3 {
		t.Fatalf("closure: %+v", c)
	}
	if next, _, _ := s.DB().Successor(drv); next != closure {
		t.Fatalf("successor %s, want %s", next, closure)
	}
	if !strings.HasSuffix(string(closure), "-s.store") {
		t.Fatalf("closure is called %s", closure)
	}
	s.Close()
	s = openState(t, s.Dir())
	for _, i := range infos {
		got := must(s.DB().Info(i.Path))(t)
		sum := must(nar.HashPath(ctx, s.Real(i.Path)))(t)
		if sum.Hash != got.NarHash {
			t.Fatalf("%s has another content after reopening", i.Path)
		}
	}
}
