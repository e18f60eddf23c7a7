package state

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"

	"storefs/nar"
	"storefs/store"
	"storefs/tree"
)

// lose removes objects behind the back of the state.
func lose(t testing.TB, s *State, paths ...store.Path) {
	t.Helper()
	for _, p := range paths {
		if err := tree.RemoveAll(s.Real(p)); err != nil {
			t.Fatal(err)
		}
	}
}

// What is valid and lost is put back by whoever adds it again.
func TestLostIsPutBack(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	data := archive(t, true, "hello")
	src := must(s.AddNAR(ctx, "src", true, store.SHA256, bytes.NewReader(data)))(t)
	text := must(s.AddText(ctx, "text", []byte("text"), nil))(t)
	sources := []store.Path{src.Path, text.Path}
	drv, d := derivation(t, s, "x", []string{"out"}, nil, sources)
	closure := must(s.AddExpr(ctx, "c.store", fmt.Appendf(nil, `Closure([%q],[(%[1]q,[])])`, src.Path), nil))(t)
	var stream bytes.Buffer
	if err := s.Export(ctx, &stream, allPaths(t, s)); err != nil {
		t.Fatal(err)
	}
	beside := t.TempDir()
	for _, p := range []store.Path{src.Path, text.Path, drv, closure} {
		var b bytes.Buffer
		if err := nar.Dump(&b, s.Real(p)); err != nil {
			t.Fatal(err)
		}
		if err := nar.Restore(&b, beside+"/"+p.Base(), nar.RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	closureText := must(os.ReadFile(s.Real(closure)))(t)

	everything := func(how string, f func() error) {
		t.Helper()
		lose(t, s, allPaths(t, s)...)
		if err := f(); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if n := verified(t, s).Paths; n != 4 {
			t.Errorf("%s: %d paths are valid, want 4", how, n)
		}
		if left := must(os.ReadDir(s.Builds()))(t); len(left) > 0 {
			t.Errorf("%s: left in scratch: %v", how, left)
		}
	}
	everything("one by one", func() error {
		if _, err := s.AddNAR(ctx, "src", true, store.SHA256, bytes.NewReader(data)); err != nil {
			return err
		}
		if _, err := s.AddTexts(ctx, []NewText{{"text", []byte("text"), nil}, {"text", []byte("text"), nil}}); err != nil {
			return err
		}
		_, err := s.AddExprs(ctx, []NewExpr{{"x.drv", d.AppendText(nil), nil}, {"c.store", closureText, nil}})
		return err
	})
	everything("by a stream", func() error {
		_, err := s.Import(ctx, bytes.NewReader(stream.Bytes()))
		return err
	})
	everything("from files", func() error {
		_, err := s.ImportExprs(ctx, []string{beside + "/" + drv.Base(), beside + "/" + closure.Base()})
		return err
	})
	// What is there is left as it is, whatever it is.
	before := must(s.DB().Info(src.Path))(t)
	must(s.AddNAR(ctx, "src", true, store.SHA256, bytes.NewReader(data)))(t)
	if now := must(s.DB().Info(src.Path))(t); now.Registered != before.Registered {
		t.Error("what was there was replaced")
	}
}
