package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const (
	base32 = "0123456789abcdfghijklmnpqrsvwxyz"
	base16 = "0123456789abcdef0123456789abcdef"
)

// wantBadPath reports an err that is not the one line want, or not of
// ErrBadPath.
func wantBadPath(t *testing.T, err error, want string) {
	t.Helper()
	if !errors.Is(err, ErrBadPath) || err.Error() != want {
		t.Errorf("error\n%v\nwant\n%s", err, want)
	}
}

func TestParseDir(t *testing.T) {
	longest := strings.Repeat("/abc", maxDirLen/4) + strings.Repeat("d", maxDirLen%4)
	for _, s := range []string{"/nix/store", "/s", "/a b/ü", "/...", "/" + strings.Repeat("a", 255), longest} {
		if d, err := ParseDir(s); err != nil || string(d) != s {
			t.Errorf("%q: %q, %v", s, d, err)
		}
	}
	for s, want := range map[string]string{
		"":             `not an absolute path`,
		"nix/store":    `not an absolute path`,
		"/":            `the root directory cannot be a store`,
		"//":           `not a clean path (write "/")`,
		"/nix/store/":  `not a clean path (write "/nix/store")`,
		"/nix/../a":    `not a clean path (write "/a")`,
		"/nix/./store": `not a clean path (write "/nix/store")`,
		"/a\nb":        `contains a NUL, a newline or a colon`,
		"/a\x00":       `contains a NUL, a newline or a colon`,
		"/a:b":         `contains a NUL, a newline or a colon`,
		"/a\xff":       `not UTF-8`,

		strings.Repeat("/abc", maxDirLen/4) + "/defg": fmt.Sprintf(`%d bytes long, more than the %d that leave room for a path in it`, maxDirLen/4*4+5, maxDirLen),
		"/a/" + strings.Repeat("b", 256):              `"bbbbbbbbbbbbbbbb…" is 256 bytes long, more than the 255 of a file name`,
	} {
		_, err := ParseDir(s)
		if !errors.Is(err, ErrBadPath) || !strings.HasSuffix(err.Error(), want+": malformed store path") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v\nwant %s", s, err, want)
		}
	}
}

func TestParsePath(t *testing.T) {
	const d = Dir("/nix/store")
	for _, base := range []string{base32 + "-a", base16 + "-a", base16 + "-hello-1.0.drv"} {
		p, err := d.Parse("/nix/store/" + base)
		if err != nil {
			t.Errorf("%s: %v", base, err)
			continue
		}
		if p.Base() != base || p.Dir() != d || p.Digest() != base[:32] || p.Name() != base[33:] {
			t.Errorf("%s: base %q, dir %q, digest %q, name %q", p, p.Base(), p.Dir(), p.Digest(), p.Name())
		}
	}
	for s, want := range map[string]string{
		"":                                      `"" is not in the store /nix/store`,
		"/nix/store":                            `"/nix/store" is not in the store /nix/store`,
		"/nix/store/":                           `"" is not DIGEST-NAME with a digest of 32 characters`,
		"/nix/stores/" + base32 + "-a":          `"/nix/stores/` + base32 + `-a" is not in the store /nix/store`,
		"/nix/store//" + base32 + "-a":          `"/nix/store//` + base32 + `-a" is below a store path, not one itself`,
		"/nix/store/" + base32 + "-a/bin":       `"/nix/store/` + base32 + `-a/bin" is below a store path, not one itself`,
		"/nix/store/..":                         `".." is not DIGEST-NAME with a digest of 32 characters`,
		"/nix/store/" + base32 + "-":            `"` + base32 + `-" is not DIGEST-NAME with a digest of 32 characters`,
		"/nix/store/" + base32 + "_a":           `"` + base32 + `_a" is not DIGEST-NAME with a digest of 32 characters`,
		"/nix/store/e" + base32[1:] + "-a":      `"e` + base32[1:] + `-a": "e` + base32[1:] + `" is neither nixbase32 nor hexadecimal`,
		"/nix/store/" + "Z" + base32[1:] + "-":  `"Z` + base32[1:] + `-" is not DIGEST-NAME with a digest of 32 characters`,
		"/nix/store/" + "A" + base16[1:] + "-a": `"A` + base16[1:] + `-a": "A` + base16[1:] + `" is neither nixbase32 nor hexadecimal`,
		// e is hexadecimal only, z nixbase32 only.
		"/nix/store/ez" + base32[2:] + "-a": `"ez` + base32[2:] + `-a": "ez` + base32[2:] + `" is neither nixbase32 nor hexadecimal`,
		"/nix/store/" + base32 + "-a b":     `"` + base32 + `-a b": the name "a b" contains ' ', which is not one of A-Z a-z 0-9 + - . _ ? =`,
		"/nix/store/" + base32 + "-aéb":     `"` + base32 + `-aéb": the name "aéb" contains 'é', which is not one of A-Z a-z 0-9 + - . _ ? =`,
		"/nix/store/" + base32 + "-a\xffb":  `"` + base32 + `-a\xffb": the name "a\xffb" contains '\xff', which is not one of A-Z a-z 0-9 + - . _ ? =`,
		"/nix/store/" + base32 + "-a\nb":    `"` + base32 + `-a\nb": the name "a\nb" contains '\n', which is not one of A-Z a-z 0-9 + - . _ ? =`,
	} {
		_, err := d.Parse(s)
		wantBadPath(t, err, want+": malformed store path")
	}
}

func TestSplit(t *testing.T) {
	const d = Dir("/nix/store")
	p := Path("/nix/store/" + base32 + "-a")
	for s, rest := range map[string]string{string(p): "", string(p) + "/": "/", string(p) + "/bin/../x": "/bin/../x"} {
		got, gotRest, err := d.Split(s)
		if err != nil || got != p || gotRest != rest {
			t.Errorf("%s: %s, %q, %v", s, got, gotRest, err)
		}
	}
	_, _, err := d.Split("/gnu/store/" + base32 + "-a/bin")
	wantBadPath(t, err, `"/gnu/store/`+base32+`-a/bin" is not in the store /nix/store: malformed store path`)
	_, _, err = d.Split("/nix/store/x/bin")
	wantBadPath(t, err, `"x" is not DIGEST-NAME with a digest of 32 characters: malformed store path`)
}

func TestPathOfExpr(t *testing.T) {
	for name, want := range map[string][2]bool{
		"a.drv": {true, true}, "s.store": {false, true}, "a": {false, false}, "drv": {false, false}, "a.drv.gz": {false, false},
	} {
		p := Path("/s/" + base32 + "-" + name)
		if got := [2]bool{p.IsDerivation(), p.IsExpr()}; got != want {
			t.Errorf("%s: derivation, expression = %v, want %v", name, got, want)
		}
	}
}

// Paths that nothing checked do not bring the short accessors down.
func TestPathShort(t *testing.T) {
	if p := Path("/s/x"); p.Digest() != "x" || p.Name() != "" || p.Base() != "x" {
		t.Errorf("digest %q, name %q, base %q", p.Digest(), p.Name(), p.Base())
	}
	if p := Path("/s/" + base32); p.Digest() != base32 || p.Name() != "" {
		t.Errorf("digest %q, name %q", p.Digest(), p.Name())
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add("/nix/store/" + base32 + "-a")
	f.Add("/nix/store/" + base16 + "-a.drv/bin")
	f.Add("/nix/store/../" + base32 + "-a")
	f.Add("/nix/store")
	f.Fuzz(func(t *testing.T, s string) {
		const d = Dir("/nix/store")
		p, err := d.Parse(s)
		if err != nil {
			if !errors.Is(err, ErrBadPath) || strings.Contains(err.Error(), "\n") {
				t.Errorf("not one line of ErrBadPath: %q", err)
			}
			return
		}
		if again, err := d.Join(p.Digest() + "-" + p.Name()); err != nil || again != p || string(p) != s {
			t.Errorf("%q is read as %q and put together as %q, %v", s, p, again, err)
		}
		if same, rest, err := d.Split(s); err != nil || same != p || rest != "" {
			t.Errorf("%q is split into %q and %q, %v", s, same, rest, err)
		}
	})
}
