package state

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"storefs/nar"
	"storefs/store"
)

// What the hash is does not depend on how it is written, nor on the digest.
func TestSelfHash(t *testing.T) {
	a, b := strings.Repeat("a", store.DigestLen), strings.Repeat("b", store.DigestLen)
	text := "x" + a + a + "y" + a[1:] + "z" + a
	masked := strings.ReplaceAll(text, a, strings.Repeat("\x00", store.DigestLen))
	want := [2]store.Hash{store.HashOf(store.SHA256, []byte(masked+"|1|33|98")), store.HashOf(store.SHA256, []byte(masked))}
	for size := 1; size <= len(text); size++ {
		for _, digest := range []string{a, b} {
			h := newSelfHash(store.Path("/s/" + digest + "-x"))
			text := strings.ReplaceAll(text, a, digest)
			if digest == b {
				text = strings.Replace(text, b[1:]+"z", a[1:]+"z", 1)
			}
			for part := range slices.Chunk([]byte(text), size) {
				if n, err := h.Write(part); n != len(part) || err != nil {
					t.Fatal(n, err)
				}
			}
			if full, short := h.sums(); full != want[0] || short != want[1] {
				t.Fatalf("in parts of %d: %s and %s, want %s", size, full, short, want)
			}
		}
	}
}

// member is a stream of one path.
func member(t testing.TB, m nar.Member, archive []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	x := nar.NewExportWriter(&b)
	err := x.Add(m, func(w io.Writer) error { _, err := w.Write(archive); return err })
	if err := errors.Join(err, x.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A path that is named by its content may name itself.
func TestImportSelfReferring(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	other := must(s.AddText(ctx, "other", []byte("hello"), nil))(t).Path
	mark := strings.Repeat("0", store.DigestLen)
	script := "#!/bin/sh\nexec " + mark + "-x/bin/x " + string(other) + " " + mark
	h := newSelfHash(store.Path("/s/" + mark + "-x"))
	if _, err := h.Write(archive(t, false, script)); err != nil {
		t.Fatal(err)
	}
	full, short := h.sums()
	for _, sum := range []store.Hash{full, short} {
		p := must(store.FixedPath(testStore, true, sum, "x", []store.Path{other}, true))(t)
		m := nar.Member{Path: p, References: []store.Path{other, p}}
		slices.Sort(m.References)
		good := archive(t, false, strings.ReplaceAll(script, mark, p.Digest()))
		must(s.Import(ctx, bytes.NewReader(member(t, m, good))))(t)
		if info := must(s.DB().Info(p))(t); info.CA != "fixed:r:"+sum.String() || !slices.Equal(info.References, m.References) {
			t.Errorf("imported %+v", info)
		}
		verified(t, s)
		// Any other content has another name.
		must(s.Delete(ctx, p))(t)
		bad := archive(t, false, strings.ReplaceAll(script, mark, p.Digest())+" ")
		if _, err := s.Import(ctx, bytes.NewReader(member(t, m, bad))); !errors.Is(err, store.ErrBadArchive) {
			t.Errorf("got %v, want ErrBadArchive", err)
		}
	}
}

// Nix names what it makes anew of an output that refers to itself as we do.
func TestNixSelfReferring(t *testing.T) {
	n := newNix(t)
	src := filepath.Join(memoryDir(t), "self.nix")
	const self = `derivation { name = "self"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo $out $out/x > $out" ]; }`
	if err := os.WriteFile(src, []byte(self), 0o644); err != nil {
		t.Fatal(err)
	}
	drv := n.paths(t, "nix-instantiate", src)[0]
	out := n.paths(t, "nix-store", "--realise", string(drv))[0]
	made := n.output(t, nil, "nix", "--extra-experimental-features", "nix-command ca-derivations",
		"store", "make-content-addressed", "--json", string(out))
	_, rest, _ := strings.Cut(string(made), `"rewrites":{"`+string(out)+`":"`)
	rest, _, _ = strings.Cut(rest, `"`)
	p := must(n.dir.Parse(rest))(t)
	stream := n.output(t, nil, "nix-store", "--export", string(p))

	dir := filepath.Join(memoryDir(t), "state")
	if err := Init(dir, n.dir); err != nil {
		t.Fatal(err)
	}
	s := openState(t, dir)
	must(s.Import(context.Background(), bytes.NewReader(stream)))(t)
	has := string(n.output(t, nil, "nix", "--extra-experimental-features", "nix-command", "path-info", "--json", string(p)))
	info := must(s.DB().Info(p))(t)
	if !strings.Contains(has, `"ca":"`+info.CA+`"`) || !slices.Equal(info.References, []store.Path{p}) {
		t.Errorf("imported %+v, Nix has %s", info, has)
	}
}
