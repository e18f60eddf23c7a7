package state

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"storefs/integrity"
	"storefs/nar"
	"storefs/store"
)

// bulky makes a tree that is too large to be compared as a whole.
func bulky(t testing.TB, text string) string {
	t.Helper()
	dir := filepath.Join(memoryDir(t), "bulky")
	err := os.MkdirAll(dir+"/sub", 0o755)
	for i := range 10 {
		err = errors.Join(err, os.WriteFile(fmt.Sprintf("%s/sub/%d", dir, i), fmt.Append(nil, text, i), 0o644))
	}
	err = errors.Join(err, os.WriteFile(dir+"/large", make([]byte, integrity.SmallObject), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// recorded is what is kept of the files of p: it must be what is there.
func recorded(t testing.TB, s *State, p store.Path) *integrity.Files {
	t.Helper()
	info := must(s.DB().Info(p))(t)
	f := must(s.Files(info))(t)
	var r integrity.Recorder
	sum := must(nar.HashFiles(context.Background(), s.Real(p), r.File))(t)
	want := r.Files(sum)
	if (f == nil) != (want == nil) || f != nil && !bytes.Equal(f.Bytes(), want.Bytes()) {
		t.Errorf("%s: what is recorded of its files is not what is there (%v, %v)", p, f != nil, want != nil)
	}
	return f
}

// However an object comes into the store, the hashes of its files come with it,
// and go with it.
func TestFilesAreRecorded(t *testing.T) {
	ctx := context.Background()
	from, s := newState(t), newState(t)
	var archive, stream bytes.Buffer
	if err := nar.Dump(&archive, bulky(t, "source")); err != nil {
		t.Fatal(err)
	}
	added := must(from.AddNAR(ctx, "source", true, store.SHA256, &archive))(t).Path
	if err := from.Export(ctx, &stream, []store.Path{added}); err != nil {
		t.Fatal(err)
	}
	imported := must(s.Import(ctx, &stream))(t)[0]
	text := must(s.AddText(ctx, "text", make([]byte, 2*integrity.SmallObject), nil))(t).Path

	drv, d := derivation(t, s, "x", []string{"out"}, nil, nil)
	dir := bulky(t, "output")
	var r integrity.Recorder
	sum := must(nar.Ingest(ctx, dir, nar.IngestOptions{UID: -1, GID: -1, File: r.File}))(t)
	scratch := s.newScratch("build")
	if _, err := copyTree(ctx, dir, scratch, sum.Hash); err != nil {
		t.Fatal(err)
	}
	out := d.Outputs[0].Path
	info := store.Info{Path: out, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size}
	o := Outcome{Drv: drv, Derivation: d, Outputs: []Output{{Info: info, Scratch: scratch, Files: r.Files(sum)}}}
	if _, _, err := s.Register(ctx, o); err != nil {
		t.Fatal(err)
	}

	if f := recorded(t, from, added); f == nil || f.Len() != 13 {
		t.Errorf("added: %v", f)
	}
	if f := recorded(t, s, imported); f == nil {
		t.Error("imported: nothing is recorded")
	}
	if f := recorded(t, s, out); f == nil {
		t.Error("built: nothing is recorded")
	}
	if f := recorded(t, s, text); f != nil {
		t.Error("files of a lone file are recorded")
	}
	// A record of another build counts as none.
	other := must(s.DB().Info(out))(t)
	other.NarHash = store.HashOf(store.SHA256, []byte("other"))
	if f := must(s.Files(other))(t); f != nil {
		t.Error("the record of another build was taken")
	}

	must(s.Delete(ctx, out))(t)
	if _, err := os.Stat(s.filesOf(out)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record is still there: %v", err)
	}
	if err := s.SetFiles(other, r.Files(sum)); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("recorded for what is not valid: %v", err)
	}
	// What a killed owner left is swept.
	if err := os.WriteFile(s.filesOf(out), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.db.Close() // as if killed
	s = openState(t, s.Dir())
	if err := s.Swept(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.filesOf(out)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record was not swept: %v", err)
	}
	if f := recorded(t, s, imported); f == nil {
		t.Error("the record of a valid object was swept")
	}
}

// State directories of before there were hashes have none, and get a place for
// them.
func TestOpenMakesHashes(t *testing.T) {
	s := newState(t)
	s.Close()
	if err := os.Remove(s.path("hashes")); err != nil {
		t.Fatal(err)
	}
	s = openState(t, s.Dir())
	var archive bytes.Buffer
	if err := nar.Dump(&archive, bulky(t, "source")); err != nil {
		t.Fatal(err)
	}
	if f := recorded(t, s, must(s.AddNAR(context.Background(), "source", true, store.SHA256, &archive))(t).Path); f == nil {
		t.Error("nothing is recorded")
	}
}

// What was found out of an object is remembered, until it is whole again.
func TestDamageIsRemembered(t *testing.T) {
	ctx := context.Background()
	s, d, _ := small(t)
	dev := d.Outputs[0].Path
	before := must(s.DB().Info(dev))(t)
	src := before.References[slices.IndexFunc(before.References, func(p store.Path) bool { return p.Name() == "src" })]
	text := must(os.ReadFile(s.Real(dev) + "/file"))(t)
	overwrite(t, s.Real(dev)+"/file", "damaged")
	check := func(repair func(context.Context, store.Info) (Output, func(), error)) (*Problem, *store.Damage) {
		t.Helper()
		p := must(s.VerifyPath(ctx, dev, VerifyOptions{Contents: true, Repair: repair}))(t)
		return p, must(s.DB().Damage(dev))(t)
	}
	if p, d := check(nil); p == nil || d == nil || d.Message != p.Message || d.Found.IsZero() || !d.Repaired.IsZero() {
		t.Fatalf("%+v, %+v", p, d)
	}
	// Who knows the file knows better.
	if err := s.DB().SetDamage(ctx, store.Damage{Path: dev, File: "file", Message: "here"}); err != nil {
		t.Fatal(err)
	}
	refuse := func(context.Context, store.Info) (Output, func(), error) { return Output{}, nil, errors.New("no way") }
	if p, d := check(refuse); p == nil || d.File != "file" || d.Message != "here" || d.Unrepaired != "no way" {
		t.Fatalf("%+v, %+v", p, d)
	}
	repair := func(context.Context, store.Info) (Output, func(), error) { return build(t, s, d, src)[0], nil, nil }
	if p, d := check(repair); p == nil || !p.Repaired || d.Repaired.IsZero() || d.Unrepaired != "" {
		t.Fatalf("%+v, %+v", p, d)
	}
	after := must(s.DB().Info(dev))(t)
	if after.NarHash != before.NarHash || after.Registered == before.Registered {
		t.Errorf("registered: %+v, before %+v", after, before)
	}
	// Mended by hand: there is nothing to tell any more.
	overwrite(t, s.Real(dev)+"/file", "damaged")
	check(nil)
	overwrite(t, s.Real(dev)+"/file", string(text))
	if p, d := check(nil); p != nil || d != nil {
		t.Errorf("%+v, %+v", p, d)
	}
	if _, err := s.VerifyPath(ctx, store.Path(string(testStore)+"/"+fmt.Sprintf("%x", sha256.Sum256(nil))[:32]+"-x"), VerifyOptions{}); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("of what is not valid: %v", err)
	}
}
