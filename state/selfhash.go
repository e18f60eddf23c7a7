package state

import (
	"bytes"
	"hash"
	"io"
	"strconv"

	"storefs/store"
)

// selfHash hashes what names its own path, as Nix does (references.cc,
// HashModuloSink): with zeros for each occurrence of the digest, and behind all of
// it "|OFFSET" for each. Nix 2.17 to 2.34 forget the offsets
// (https://github.com/NixOS/nix/issues/15837), so that some names are made without.
type selfHash struct {
	h      hash.Hash
	digest []byte
	buf    []byte // the end of what was written, which a digest may begin in
	at     int64  // the offset of buf
	found  []int64
}

var _ io.Writer = (*selfHash)(nil)

func newSelfHash(p store.Path) *selfHash {
	return &selfHash{h: store.SHA256.New(), digest: []byte(p.Digest())}
}

func (s *selfHash) Write(p []byte) (int, error) {
	s.buf = append(s.buf, p...)
	for from := 0; ; {
		i := bytes.Index(s.buf[from:], s.digest)
		if i < 0 {
			break
		}
		from += i
		s.found = append(s.found, s.at+int64(from))
		clear(s.buf[from : from+len(s.digest)])
	}
	s.pass(max(0, len(s.buf)-len(s.digest)+1))
	return len(p), nil
}

// pass hashes the first n bytes of buf.
func (s *selfHash) pass(n int) {
	s.h.Write(s.buf[:n])
	s.at += int64(n)
	s.buf = s.buf[:copy(s.buf, s.buf[n:])]
}

// sums are the hash, and that without offsets.
func (s *selfHash) sums() (full, short store.Hash) {
	s.pass(len(s.buf))
	short = store.Hash{Algo: store.SHA256, Sum: string(s.h.Sum(nil))}
	for _, at := range s.found {
		s.h.Write(strconv.AppendInt([]byte("|"), at, 10))
	}
	return store.Hash{Algo: store.SHA256, Sum: string(s.h.Sum(nil))}, short
}
