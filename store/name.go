package store

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"zombiezen.com/go/nix/nixbase32"
)

// MakePath computes a name of today's kind by Nix's rule (store-api.cc,
// makeStorePath): nixbase32 of the SHA-256, folded to 20 bytes, of
// "TYPE:ALGO:HEX:DIR:NAME".
func MakePath(d Dir, typ string, h Hash, name string) (Path, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	s := make([]byte, 0, 512)
	s = append(append(s, typ...), ':')
	s = append(append(s, h.Algo...), ':')
	s = append(hex.AppendEncode(s, []byte(h.Sum)), ':')
	s = append(append(s, d...), ':')
	s = append(s, name...)
	return Path(string(d) + "/" + fold(HashOf(SHA256, s)) + "-" + name), nil
}

// fold compresses a digest to 20 bytes by xor, as Nix's compressHash does.
func fold(h Hash) string {
	var out [20]byte
	for i := 0; i < len(h.Sum); i++ {
		out[i%20] ^= h.Sum[i]
	}
	return nixbase32.EncodeToString(out[:])
}

// OutputPath names the output called output ("out", "dev", …) of the
// derivation called drvName (without ".drv"), whose hash modulo fixed outputs
// is h.
func OutputPath(d Dir, output string, h Hash, drvName string) (Path, error) {
	name := drvName
	if output != "out" {
		name += "-" + output
	}
	return MakePath(d, "output:"+output, h, name)
}

// FixedPath names content whose hash is known beforehand: of one file (flat)
// or of the NAR (recursive), with the references that it is allowed to have;
// self says that it refers to itself. Only recursive SHA-256 content can have
// references.
func FixedPath(d Dir, recursive bool, h Hash, name string, refs []Path, self bool) (Path, error) {
	if recursive && h.Algo == SHA256 {
		return MakePath(d, withRefs("source", refs, self), h, name)
	}
	if len(refs) > 0 || self {
		return "", fmt.Errorf("name of %q: only recursive sha256 content can have references: %w", name, ErrBadPath)
	}
	method := ""
	if recursive {
		method = "r:"
	}
	inner := HashOf(SHA256, []byte("fixed:out:"+method+string(h.Algo)+":"+h.Base16()+":"))
	return MakePath(d, "output:out", inner, name)
}

// SourcePath names a source by the SHA-256 of its NAR.
func SourcePath(d Dir, nar Hash, name string) (Path, error) {
	return FixedPath(d, true, nar, name, nil, false)
}

// TextPath names a text file (a derivation, a closure, a literal) by its
// content and the paths that it refers to.
func TextPath(d Dir, name string, text []byte, refs []Path) (Path, error) {
	return TextHashPath(d, name, HashOf(SHA256, text), refs)
}

// TextHashPath is TextPath for a text of which only the SHA-256 is at hand.
func TextHashPath(d Dir, name string, text Hash, refs []Path) (Path, error) {
	return MakePath(d, withRefs("text", refs, false), text, name)
}

// HexPath names an expression of 2004: the MD5 of its text in hexadecimal.
func HexPath(d Dir, name string, text []byte) (Path, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	return Path(string(d) + "/" + HashOf(MD5, text).Base16() + "-" + name), nil
}

func withRefs(typ string, refs []Path, self bool) string {
	if !slices.IsSorted(refs) {
		refs = slices.Clone(refs)
		slices.Sort(refs)
	}
	var b strings.Builder
	b.WriteString(typ)
	for i, r := range refs {
		if i > 0 && r == refs[i-1] {
			continue
		}
		b.WriteByte(':')
		b.WriteString(string(r))
	}
	if self {
		b.WriteString(":self")
	}
	return b.String()
}
