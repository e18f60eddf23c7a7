package nar

const (
	// blockSize: hashing one takes 150 µs, long enough to make handing it to
	// another goroutine cheap, and a few of them stay in the second-level cache.
	blockSize = 256 << 10
	// firstBlock is enough for most outputs of trivial builds, for which
	// clearing a whole block would cost more than everything else.
	firstBlock = 16 << 10
)

// blocks cuts an archive that is written to it into blocks. The first error
// that give returns stays; nothing is given after it.
type blocks struct {
	buf   []byte
	fresh func() []byte            // an empty block with capacity
	give  func(block []byte) error // owns the block from then on
	err   error
}

// put writes strings in the archive's form. None is longer than maxTarget.
func (b *blocks) put(ss ...string) {
	for _, s := range ss {
		b.room(8 + len(s) + 8)
		b.buf = appendString(b.buf, s)
	}
}

// size writes the length of contents that follow.
func (b *blocks) size(n int64) {
	b.room(8)
	b.buf = appendNumber(b.buf, uint64(n))
}

// pad writes the zeros that follow n bytes.
func (b *blocks) pad(n int64) {
	b.room(8)
	b.buf = appendPadding(b.buf, n)
}

// space is where contents may be read into, at least one byte; took says how
// much of it was.
func (b *blocks) space() []byte {
	b.room(1)
	return b.buf[len(b.buf):cap(b.buf)]
}

func (b *blocks) took(n int) { b.buf = b.buf[:len(b.buf)+n] }

// flush gives away what there is.
func (b *blocks) flush() {
	if len(b.buf) > 0 && b.err == nil {
		b.err = b.give(b.buf)
		b.buf = nil
	}
	b.buf = b.buf[:0]
}

func (b *blocks) room(n int) {
	if cap(b.buf)-len(b.buf) >= n {
		return
	}
	b.flush()
	if cap(b.buf) < n {
		b.buf = b.fresh()
	}
}
