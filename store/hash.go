package store

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"

	"zombiezen.com/go/nix/nixbase32"
)

// Algo is a hash algorithm by Nix's name: md5, sha1, sha256 or sha512.
type Algo string

// The algorithms that derivations may name.
const (
	MD5    Algo = "md5"
	SHA1   Algo = "sha1"
	SHA256 Algo = "sha256"
	SHA512 Algo = "sha512"
)

// New begins a digest, or returns nil for an algorithm that is not known.
func (a Algo) New() hash.Hash {
	switch a {
	case MD5:
		return md5.New()
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	case SHA512:
		return sha512.New()
	}
	return nil
}

// Size is the length of a digest in bytes, 0 for an unknown algorithm.
func (a Algo) Size() int {
	if h := a.New(); h != nil {
		return h.Size()
	}
	return 0
}

// Hash is a digest with its algorithm. The zero Hash means "none".
type Hash struct {
	Algo Algo
	Sum  string // raw bytes, as a string so that Hash can be compared
}

// HashOf hashes data.
func HashOf(a Algo, data []byte) Hash {
	if a == SHA256 { // nearly all of them, and this way without an object for each
		sum := sha256.Sum256(data)
		return Hash{a, string(sum[:])}
	}
	h := a.New()
	h.Write(data)
	return Hash{a, string(h.Sum(nil))}
}

// IsZero reports whether h is no hash at all.
func (h Hash) IsZero() bool { return h.Algo == "" }

// Base16 is the digest in lower-case hexadecimal, without the algorithm.
func (h Hash) Base16() string { return hex.EncodeToString([]byte(h.Sum)) }

// Base32 is the digest in nixbase32, without the algorithm.
func (h Hash) Base32() string { return nixbase32.EncodeToString([]byte(h.Sum)) }

// SRI is "sha256-BASE64", as fetchers and Nix's newer commands write it.
func (h Hash) SRI() string {
	return string(h.Algo) + "-" + base64.StdEncoding.EncodeToString([]byte(h.Sum))
}

// String is "sha256:NIXBASE32", the form that Nix's database and narinfo use.
func (h Hash) String() string {
	if h.IsZero() {
		return ""
	}
	return string(h.Algo) + ":" + h.Base32()
}

// MarshalText is String.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what ParseHash reads; nothing is the zero Hash.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*h = Hash{}
		return nil
	}
	p, err := ParseHash(string(b))
	*h = p
	return err
}

// ParseHash reads "ALGO:DIGEST" with the digest in base 16, nixbase32 or base
// 64, or the SRI form "ALGO-BASE64".
func ParseHash(s string) (Hash, error) {
	i := strings.IndexAny(s, ":-")
	if i < 0 {
		return Hash{}, fmt.Errorf("hash %q: no algorithm in front of it", s)
	}
	return ParseDigest(Algo(s[:i]), s[i+1:])
}

// ParseDigest reads a digest of a known algorithm, in base 16, nixbase32 or
// base 64, told apart by its length.
func ParseDigest(a Algo, s string) (Hash, error) {
	n := a.Size()
	if n == 0 {
		return Hash{}, fmt.Errorf("hash algorithm %q: not one of md5, sha1, sha256, sha512", a)
	}
	var sum []byte
	var err error
	switch len(s) {
	case hex.EncodedLen(n):
		sum, err = hex.DecodeString(s)
	case nixbase32.EncodedLen(n):
		sum, err = nixbase32.DecodeString(s)
	case base64.StdEncoding.EncodedLen(n):
		sum, err = base64.StdEncoding.Strict().DecodeString(s)
	default:
		return Hash{}, fmt.Errorf("hash %q: %d characters are no %s digest in base 16, 32 or 64", s, len(s), a)
	}
	if err == nil && len(sum) != n {
		err = fmt.Errorf("%d bytes, want %d", len(sum), n)
	}
	if err != nil {
		return Hash{}, fmt.Errorf("hash %q: %w", s, err)
	}
	return Hash{a, string(sum)}, nil
}

// Equal reports whether both are the same digest of the same algorithm.
func (h Hash) Equal(o Hash) bool {
	return h.Algo == o.Algo && bytes.Equal([]byte(h.Sum), []byte(o.Sum))
}
