package store

import (
	"slices"
	"strings"
	"testing"
)

func TestFixedPathAgainstNix(t *testing.T) {
	n := newNix(t)
	for _, a := range algos {
		h := HashOf(a, []byte("content"))
		for _, recursive := range []bool{false, true} {
			args := []string{"--print-fixed-path", string(a), h.Base16(), "hello-1.0"}
			if recursive {
				args = slices.Insert(args, 1, "--recursive")
			}
			want := n.run(t, "nix-store", args...)
			got, err := FixedPath(n.dir, recursive, h, "hello-1.0", nil, false)
			if err != nil || string(got) != want {
				t.Errorf("%q: Nix has %s, we have %s, %v", args, want, got, err)
			}
		}
	}
}

func TestSourcePathAgainstNix(t *testing.T) {
	n := newNix(t)
	file := n.write(t, "a source", "hello\n")
	nar, err := ParseDigest(SHA256, n.run(t, "nix-hash", "--type", "sha256", "--base32", file))
	if err != nil {
		t.Fatal(err)
	}
	want := n.run(t, "nix", "store", "add-path", "--name", "a-source", file)
	if got, err := SourcePath(n.dir, nar, "a-source"); err != nil || string(got) != want {
		t.Errorf("Nix has %s, we have %s, %v", want, got, err)
	}
}

func TestTextPathAgainstNix(t *testing.T) {
	n := newNix(t)
	a := n.eval(t, `builtins.toFile "a" "x"`)
	if got, err := TextPath(n.dir, "a", []byte("x"), nil); err != nil || string(got) != a {
		t.Errorf("Nix has %s, we have %s, %v", a, got, err)
	}
	b := n.eval(t, `builtins.toFile "b" "y"`)
	both := n.eval(t, `let a = builtins.toFile "a" "x"; b = builtins.toFile "b" "y"; in builtins.toFile "both" "${a} ${b} ${a}"`)
	// Neither order nor repetition of the references matters.
	for _, refs := range [][]Path{{Path(a), Path(b)}, {Path(b), Path(a), Path(b)}} {
		given := slices.Clone(refs)
		got, err := TextPath(n.dir, "both", []byte(a+" "+b+" "+a), refs)
		if err != nil || string(got) != both {
			t.Errorf("Nix has %s, we have %s, %v", both, got, err)
		}
		if !slices.Equal(refs, given) {
			t.Errorf("the caller's references %v became %v", given, refs)
		}
	}
}

// Content-addressed paths with references, which Nix makes of others on demand.
func TestFixedPathWithReferencesAgainstNix(t *testing.T) {
	n := newNix(t)
	text := n.eval(t, `builtins.toFile "user" "${builtins.toFile "a" "x"} ${builtins.toFile "b" "y"}"`)
	n.run(t, "nix", "store", "make-content-addressed", text)
	var found bool
	for _, s := range strings.Fields(n.run(t, "nix", "path-info", "--all")) {
		refs := strings.Fields(n.run(t, "nix-store", "--query", "--references", s))
		if Path(s).Name() != "user" || s == text || len(refs) != 2 {
			continue
		}
		found = true
		nar, err := ParseHash(n.run(t, "nix-store", "--query", "--hash", s))
		if err != nil {
			t.Fatal(err)
		}
		got, err := FixedPath(n.dir, true, nar, "user", []Path{Path(refs[1]), Path(refs[0])}, false)
		if err != nil || string(got) != s {
			t.Errorf("Nix has %s, we have %s, %v", s, got, err)
		}
		self, err := FixedPath(n.dir, true, nar, "user", []Path{Path(refs[1]), Path(refs[0])}, true)
		if err != nil || self == got {
			t.Errorf("with a reference to itself: %s, %v", self, err)
		}
	}
	if !found {
		t.Error("Nix made no content-addressed path with two references")
	}
}

func TestFixedPathReferencesRefused(t *testing.T) {
	h := HashOf(SHA1, nil)
	for _, c := range []struct {
		recursive bool
		h         Hash
		refs      []Path
		self      bool
	}{
		{false, HashOf(SHA256, nil), []Path{"/s/a"}, false},
		{true, h, []Path{"/s/a"}, false},
		{true, h, nil, true},
	} {
		got, err := FixedPath("/s", c.recursive, c.h, "x", c.refs, c.self)
		wantBadPath(t, err, `name of "x": only recursive sha256 content can have references: malformed store path`)
		if got != "" {
			t.Errorf("%s beside an error", got)
		}
	}
}

func TestHexPath(t *testing.T) {
	// printf hello | md5sum
	if got, err := HexPath("/nix/store", "d-hello.store", []byte("hello")); err != nil || got != "/nix/store/5d41402abc4b2a76b9719d911017c592-d-hello.store" {
		t.Errorf("%s, %v", got, err)
	}
	_, err := HexPath("/nix/store", "a b", nil)
	wantBadPath(t, err, `the name "a b" contains ' ', which is not one of A-Z a-z 0-9 + - . _ ? =: malformed store path`)
}

func TestOutputPath(t *testing.T) {
	h := HashOf(SHA256, []byte("x"))
	out, err := OutputPath("/nix/store", "out", h, "hello")
	if err != nil || out.Name() != "hello" {
		t.Errorf("out: %s, %v", out, err)
	}
	dev, err := OutputPath("/nix/store", "dev", h, "hello")
	if err != nil || dev.Name() != "hello-dev" || dev.Digest() == out.Digest() {
		t.Errorf("dev: %s, %v", dev, err)
	}
	other, err := OutputPath("/gnu/store", "out", h, "hello")
	if err != nil || other.Digest() == out.Digest() {
		t.Errorf("the store directory is not part of the name: %s, %v", other, err)
	}
	if _, err := OutputPath("/nix/store", "d/v", h, "hello"); err == nil {
		t.Error("an output called d/v is named")
	}
}

// Names are taken and refused as Nix takes and refuses them. (It allows a dot
// at the beginning, some versions of it only.)
func TestCheckNameAgainstNix(t *testing.T) {
	n := newNix(t)
	for _, name := range []string{
		"a", "A-Z", "+?=._-x", "-x", "", "a b", "a/b", "a~b", "a:b", "a@b", "a\nb", "ü", "a\xff", "=",
		strings.Repeat("a", MaxNameLen), strings.Repeat("a", MaxNameLen+1),
	} {
		_, nixErr := n.try(t, "nix-instantiate", "--eval", "--read-write-mode", "--expr", `builtins.toFile "`+name+`" "x"`)
		if err := CheckName(name); (err == nil) != (nixErr == nil) {
			t.Errorf("%q: Nix says %v, we say %v", name, nixErr, err)
		}
	}
	if p, err := MakePath("/nix/store", "source", HashOf(SHA256, nil), "a/b"); err == nil {
		t.Errorf("%s is made of a bad name", p)
	}
}
