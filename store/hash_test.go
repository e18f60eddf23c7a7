package store

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var algos = []Algo{MD5, SHA1, SHA256, SHA512}

func TestHashAgainstNix(t *testing.T) {
	n := newNix(t)
	for _, content := range []string{"", "hello\n", strings.Repeat("\x00\xff", 1000)} {
		file := n.write(t, "content", content)
		for _, a := range algos {
			h := HashOf(a, []byte(content))
			for _, c := range []struct {
				got  string
				args []string
			}{
				{h.Base16(), []string{"nix-hash", "--flat", "--type", string(a), file}},
				{h.Base32(), []string{"nix-hash", "--flat", "--base32", "--type", string(a), file}},
				{h.SRI(), []string{"nix", "hash", "file", "--sri", "--type", string(a), file}},
				{h.Base16(), []string{"nix", "hash", "to-base16", h.String()}},
			} {
				if want := n.run(t, c.args[0], c.args[1:]...); c.got != want {
					t.Errorf("%q: we have %s, Nix has %s", c.args, c.got, want)
				}
			}
		}
	}
}

// Every spelling of a digest is read as the same hash.
func TestParseHashSpellings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SampledFrom(algos).Draw(t, "algo")
		n := a.Size()
		h := Hash{a, string(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "sum"))}
		for _, s := range []string{h.String(), string(a) + ":" + h.Base16(), h.SRI(), strings.Replace(h.SRI(), "-", ":", 1)} {
			got, err := ParseHash(s)
			if err != nil {
				t.Fatal(err)
			}
			if got != h || !got.Equal(h) {
				t.Errorf("%s is read as %s, want %s", s, got, h)
			}
		}
		data, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		var back Hash
		if err := json.Unmarshal(data, &back); err != nil || back != h {
			t.Errorf("%s is read as %s, %v", data, back, err)
		}
	})
}

func TestParseHashErrors(t *testing.T) {
	zeros := func(n int) string { return strings.Repeat("0", n) }
	for _, c := range []struct{ text, want string }{
		{"", `hash "": no algorithm in front of it`},
		{zeros(64), `hash "` + zeros(64) + `": no algorithm in front of it`},
		{"sha3:" + zeros(64), `hash algorithm "sha3": not one of md5, sha1, sha256, sha512`},
		{"sha256:", `hash "": 0 characters are no sha256 digest in base 16, 32 or 64`},
		{"sha256:" + zeros(40), `hash "` + zeros(40) + `": 40 characters are no sha256 digest in base 16, 32 or 64`},
		{"md5:" + zeros(31) + "g", `hash "` + zeros(31) + `g": encoding/hex: invalid byte: U+0067 'g'`},
	} {
		if h, err := ParseHash(c.text); err == nil || err.Error() != c.want {
			t.Errorf("%q: %v, %v\nwant %s", c.text, h, err, c.want)
		}
	}
	for _, s := range []string{
		"sha256:" + zeros(51) + "e",     // e is not in the alphabet
		"sha256:z" + zeros(51),          // more bits than a digest has
		"sha256:" + zeros(43) + "!",     // no base 64
		"sha256:" + zeros(42) + "B=",    // bits behind the end
		"sha256-" + zeros(41) + "\nA==", // a newline, which base 64 may have elsewhere
	} {
		if h, err := ParseHash(s); err == nil {
			t.Errorf("%q is read as %s", s, h)
		}
	}
}

func TestHashZero(t *testing.T) {
	var h Hash
	if !h.IsZero() || h.String() != "" || HashOf(MD5, nil).IsZero() {
		t.Errorf("the zero hash is %q", h)
	}
	data, err := json.Marshal(h)
	if err != nil || string(data) != `""` {
		t.Errorf("as JSON: %s, %v", data, err)
	}
	h = HashOf(MD5, nil)
	if err := json.Unmarshal([]byte(`""`), &h); err != nil || !h.IsZero() {
		t.Errorf("from JSON: %s, %v", h, err)
	}
	if err := json.Unmarshal([]byte(`"md5:0"`), &h); err == nil {
		t.Error("a bad hash is read from JSON")
	}
	if Algo("sha3").New() != nil || Algo("sha3").Size() != 0 {
		t.Error("sha3 is known")
	}
}
