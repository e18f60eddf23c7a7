// Package references finds which store objects a stream of bytes mentions: it
// looks for the digests that begin their names. It knows nothing of archives,
// files or the database; whoever has bytes writes them to a Scanner.
package references

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"

	"storefs/store"
)

const (
	window = store.DigestLen
	// gram is the length of the pieces that the filter knows. One load.
	gram = 8
	// stride is how far a scan may go on after a piece that is in no digest:
	// every window that begins within it would contain that piece.
	stride = window - gram + 1
)

// Scanner is an io.Writer that finds digests anywhere in what is written to it,
// however the bytes are spread over calls; matches may be adjacent or overlap.
// It is not safe for concurrent use.
//
// It looks at one piece of eight bytes every 25 bytes, and asks a bitmap of all
// pieces of all digests whether that piece occurs in any of them. Unlike a
// search for long runs of digest characters, this goes equally fast through
// machine code, hexadecimal and base-32 text. Only where a piece is known, a table
// says where in a digest it may be, mostly in one place, and the window that would
// be that digest is compared: if all of its quarters are known pieces.
type Scanner struct {
	*Set
	places   places // the set's; nil until a piece is known
	found    map[[window]byte]bool
	tail     [2*window - 2]byte // the last bytes written, to be joined with the next ones
	tailUsed int                // at most window-1 between calls
}

// Set is digests to be found, for any number of scanners at a time.
type Set struct {
	digests    map[[window]byte]bool
	grams      bitmap
	makePlaces func() places
}

// NewSet makes a set of digests, each of 32 characters; one of any other length is in
// no store path and never found.
func NewSet(digests []string) *Set {
	s := &Set{
		digests: make(map[[window]byte]bool, len(digests)),
		// 16 bits a piece: one false alarm in 16 at worst, and the bitmap of
		// 100 digests stays in the first-level cache, of 10,000 in the second.
		grams: newBitmap(len(digests) * stride * 16),
	}
	for _, d := range digests {
		if len(d) != window {
			continue
		}
		s.digests[[window]byte([]byte(d))] = true
		for i := range stride {
			s.grams.set(piece([]byte(d[i:])))
		}
	}
	s.makePlaces = sync.OnceValue(func() places { return newPlaces(s.digests) })
	return s
}

// Scanner makes a scanner for the digests of s.
func (s *Set) Scanner() *Scanner { return &Scanner{Set: s} }

// New makes a scanner for digests, as NewSet takes them.
func New(digests []string) *Scanner { return NewSet(digests).Scanner() }

// Write scans p. It never fails.
func (s *Scanner) Write(p []byte) (int, error) {
	if len(s.found) == len(s.digests) {
		return len(p), nil
	}
	n := copy(s.tail[s.tailUsed:], p[:min(len(p), window-1)])
	joined := s.tail[:s.tailUsed+n]
	s.scan(joined)
	if len(p) >= window-1 {
		s.scan(p)
		s.tailUsed = copy(s.tail[:], p[len(p)-(window-1):])
	} else {
		s.tailUsed = copy(s.tail[:], joined[max(0, len(joined)-(window-1)):])
	}
	return len(p), nil
}

// Found returns the digests found so far, sorted.
func (s *Scanner) Found() []string {
	var found []string
	for d := range s.found {
		found = append(found, string(d[:]))
	}
	slices.Sort(found)
	return found
}

// scan looks at the windows that are wholly in p.
func (s *Scanner) scan(p []byte) {
	for i := 0; i+window <= len(p); i += stride {
		at := i + window - gram
		h := piece(p[at:])
		if !s.grams.has(h) {
			continue
		}
		if s.places == nil {
			s.places = s.makePlaces()
		}
		for set := *s.places.at(h); set != 0; set &= set - 1 {
			begin := at - bits.TrailingZeros32(set)
			if begin+window <= len(p) {
				s.compare(p[begin : begin+window])
			}
		}
	}
}

// compare looks at one window.
func (s *Scanner) compare(p []byte) {
	for i := 0; i < window; i += gram {
		if !s.grams.has(piece(p[i:])) {
			return
		}
	}
	d := [window]byte(p)
	if s.digests[d] && !s.found[d] {
		if s.found == nil {
			s.found = make(map[[window]byte]bool)
		}
		s.found[d] = true
	}
}

// piece hashes the first bytes of p: the product's high bits depend on all of
// them.
func piece(p []byte) uint64 {
	return binary.LittleEndian.Uint64(p) * 0x9E3779B97F4A7C15
}

// places say where in a digest the pieces with a hash are: a bit for each place. Most
// archives are short, and have no piece that is known: so they are made when one is.
type places []uint32

func newPlaces(digests map[[window]byte]bool) places {
	t := make(places, 1<<bits.Len(uint(len(digests)*stride*2)))
	for d := range digests {
		for i := range stride {
			*t.at(piece(d[i:])) |= 1 << i
		}
	}
	return t
}

// at is the entry of a hash. It depends on other bits of that than a bitmap does.
func (t places) at(h uint64) *uint32 {
	h = bits.RotateLeft64(h, 32) * 0xD6E8FEB86659FD93
	return &t[h>>32&uint64(len(t)-1)]
}

// bitmap is a set of hashes, told apart by their high bits.
type bitmap struct {
	words []uint64
	shift uint
}

// newBitmap has at least n bits, a power of two.
func newBitmap(n int) bitmap {
	log := max(6, bits.Len(uint(max(n, 1)-1)))
	return bitmap{words: make([]uint64, 1<<(log-6)), shift: uint(64 - log)}
}

func (b *bitmap) set(h uint64) {
	i := h >> b.shift
	b.words[i/64] |= 1 << (i % 64)
}

func (b *bitmap) has(h uint64) bool {
	i := h >> b.shift
	return b.words[i/64]&(1<<(i%64)) != 0
}
