// Package store holds the nouns that every other package shares: store
// directories and paths, hashes, what is known of a valid path (Info), how a
// realisation can fail (Failure), and the sentinel errors. It does no I/O and
// imports nothing of the project.
package store

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// DigestLen is the length in characters of the digest that begins the name of
// a store object: 20 bytes in nixbase32 (today) or 16 bytes in hexadecimal
// (2004).
const DigestLen = 32

// MaxNameLen is the longest name, in bytes, that may follow the digest and its
// dash. It is Nix's limit: digest, dash, name and a suffix such as ".lock" or
// ".chroot" still fit the 255 bytes of a file name.
const MaxNameLen = 211

// What Linux takes: NAME_MAX, and PATH_MAX without the NUL that ends a path, which
// the longest name must fit after the store directory.
const (
	maxFileName = 255
	maxDirLen   = 4095 - len("/") - DigestLen - len("-") - MaxNameLen
)

// Dir is a store directory: the logical, absolute, clean directory that is
// hashed into names and written into outputs, for instance "/nix/store". It is
// a value and never a constant of the program.
type Dir string

// ParseDir checks that s can be a store directory.
func ParseDir(s string) (Dir, error) {
	switch {
	case !strings.HasPrefix(s, "/"):
		return "", fmt.Errorf("store directory %q: not an absolute path: %w", s, ErrBadPath)
	case path.Clean(s) != s:
		return "", fmt.Errorf("store directory %q: not a clean path (write %q): %w", s, path.Clean(s), ErrBadPath)
	case s == "/":
		return "", fmt.Errorf("store directory %q: the root directory cannot be a store: %w", s, ErrBadPath)
	case strings.ContainsAny(s, "\x00\n:"):
		return "", fmt.Errorf("store directory %q: contains a NUL, a newline or a colon: %w", s, ErrBadPath)
	case !utf8.ValidString(s): // it is told of in JSON, which cannot say it
		return "", fmt.Errorf("store directory %q: not UTF-8: %w", s, ErrBadPath)
	case len(s) > maxDirLen:
		return "", fmt.Errorf("store directory: %d bytes long, more than the %d that leave room for a path in it: %w", len(s), maxDirLen, ErrBadPath)
	}
	for name := range strings.SplitSeq(s, "/") {
		if len(name) > maxFileName {
			return "", fmt.Errorf("store directory: %q is %d bytes long, more than the %d of a file name: %w", name[:16]+"…", len(name), maxFileName, ErrBadPath)
		}
	}
	return Dir(s), nil
}

// Path is a full store path, DIR/DIGEST-NAME. Values come from Dir.Parse,
// Dir.Join or the functions that compute names; a Path that did not is not
// checked anywhere else.
type Path string

// Join makes the path of the object called base ("DIGEST-NAME"), or says why
// base cannot be the name of a store object.
func (d Dir) Join(base string) (Path, error) {
	if err := CheckBase(base); err != nil {
		return "", err
	}
	return Path(string(d) + "/" + base), nil
}

// Parse checks that s is a path directly in d with a well-formed name.
func (d Dir) Parse(s string) (Path, error) {
	base, ok := strings.CutPrefix(s, string(d)+"/")
	if !ok {
		return "", fmt.Errorf("%q is not in the store %s: %w", s, d, ErrBadPath)
	}
	if strings.Contains(base, "/") {
		return "", fmt.Errorf("%q is below a store path, not one itself: %w", s, ErrBadPath)
	}
	return d.Join(base)
}

// Split divides s, a path at or below a store path, into that store path and
// what follows it ("" or "/bin/hello").
func (d Dir) Split(s string) (Path, string, error) {
	base, ok := strings.CutPrefix(s, string(d)+"/")
	if !ok {
		return "", "", fmt.Errorf("%q is not in the store %s: %w", s, d, ErrBadPath)
	}
	base, rest, found := strings.Cut(base, "/")
	if found {
		rest = "/" + rest
	}
	p, err := d.Join(base)
	return p, rest, err
}

// Base is the last component: DIGEST-NAME.
func (p Path) Base() string { return string(p[strings.LastIndexByte(string(p), '/')+1:]) }

// Dir is the store directory that p is in.
func (p Path) Dir() Dir { return Dir(p[:strings.LastIndexByte(string(p), '/')]) }

// Digest is the first 32 characters of the base: what the reference scan looks
// for.
func (p Path) Digest() string {
	b := p.Base()
	if len(b) < DigestLen {
		return b
	}
	return b[:DigestLen]
}

// Name is what follows the digest and its dash.
func (p Path) Name() string {
	b := p.Base()
	if len(b) <= DigestLen {
		return ""
	}
	return b[DigestLen+1:]
}

// IsDerivation reports whether the name is that of a derivation of today's
// form. (The expressions of 2004 are told apart by what is in them.)
func (p Path) IsDerivation() bool { return strings.HasSuffix(string(p), ".drv") }

// IsExpr reports whether the name is that of a store expression of any form.
func (p Path) IsExpr() bool { return p.IsDerivation() || strings.HasSuffix(string(p), ".store") }

// CheckBase reports whether base is well formed: 32 characters of nixbase32 or
// of lower-case hexadecimal, a dash, and a name.
func CheckBase(base string) error {
	if len(base) < DigestLen+2 || base[DigestLen] != '-' {
		return fmt.Errorf("%q is not DIGEST-NAME with a digest of %d characters: %w", base, DigestLen, ErrBadPath)
	}
	if d := base[:DigestLen]; !isDigest(d, isBase32) && !isDigest(d, isHex) {
		return fmt.Errorf("%q: %q is neither nixbase32 nor hexadecimal: %w", base, d, ErrBadPath)
	}
	if err := CheckName(base[DigestLen+1:]); err != nil {
		return fmt.Errorf("%q: %w", base, err)
	}
	return nil
}

// CheckName reports whether name may follow a digest: Nix's alphabet and
// length, and none of the names with dots that Nix refuses (path.cc,
// checkName). Others may begin with a dot, as the source of a .gitignore does.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name is empty: %w", ErrBadPath)
	case len(name) > MaxNameLen:
		return fmt.Errorf("the name is %d bytes long, more than %d: %w", len(name), MaxNameLen, ErrBadPath)
	case name == "." || name == ".." || strings.HasPrefix(name, ".-") || strings.HasPrefix(name, "..-"):
		return fmt.Errorf("the name %q is one of ., .., .-… and ..-…: %w", name, ErrBadPath)
	}
	for i := range len(name) {
		if isNameByte(name[i]) {
			continue
		}
		_, n := utf8.DecodeRuneInString(name[i:])
		char := strconv.Quote(name[i : i+n])
		return fmt.Errorf("the name %q contains '%s', which is not one of A-Z a-z 0-9 + - . _ ? =: %w", name, char[1:len(char)-1], ErrBadPath)
	}
	return nil
}

func isNameByte(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("+-._?=", c) >= 0
}

func isDigest(s string, ok func(byte) bool) bool {
	for i := 0; i < len(s); i++ {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

// isBase32: the alphabet leaves out e, o, t and u.
func isBase32(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' && c != 'e' && c != 'o' && c != 't' && c != 'u'
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }
