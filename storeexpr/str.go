package storeexpr

import (
	"encoding/binary"
	"math/bits"
	"strings"
)

// str reads a string. Without escapes it is shared with the text.
func (p *parser) str() string {
	begin := p.pos
	p.expect('"')
	rest := p.text[p.pos:]
	n := strings.IndexByte(rest, '"')
	if n < 0 {
		p.fail(begin, "the string that begins here does not end")
		return ""
	}
	if p.escape < p.pos+n && p.escapeBefore(p.pos+n) {
		return p.escaped(begin)
	}
	p.pos += n + 1
	return rest[:n]
}

// escapeBefore reports whether a backslash stands between pos and end. What is
// between two of them is looked at once, however many strings that is.
func (p *parser) escapeBefore(end int) bool {
	if p.escape < p.pos {
		p.escape = len(p.text)
		if n := strings.IndexByte(p.text[p.pos:], '\\'); n >= 0 {
			p.escape = p.pos + n
		}
	}
	return p.escape < end
}

// escaped reads the rest of a string with escapes, which began at byte begin. What
// these stand for is shorter than they are: it is written to where they were, which
// nobody has been given yet.
func (p *parser) escaped(begin int) string {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	text := p.copied
	start := p.pos
	to, at := start, start
	for at < len(text) {
		if at+8 <= len(text) {
			b := text[at : at+8 : at+8] // the compiler makes one load of this
			w := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
				uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
			// The lowest bit that is set is that of the first backslash or quote.
			x, y := w^ones*'\\', w^ones*'"'
			k := bits.TrailingZeros64(((x-ones)&^x|(y-ones)&^y)&tops) / 8
			if k == 8 || to+8 <= at { // or else what is to be read would be overwritten
				binary.LittleEndian.PutUint64(text[to:to+8], w)
			} else {
				for i := range k {
					text[to+i] = byte(w >> (8 * i))
				}
			}
			to, at = to+k, at+k
			if k == 8 {
				continue
			}
		}
		c := text[at]
		if c == '"' {
			p.pos = at + 1
			return p.text[start:to]
		}
		if c == '\\' {
			if at+1 == len(text) {
				break
			}
			c = unescape[text[at+1]]
			if c == 0 {
				p.fail(at, `%q is no escape, only \" \\ \n \r \t are`, p.text[at:at+2])
				return ""
			}
			at++
		}
		text[to] = c
		to, at = to+1, at+1
	}
	p.fail(begin, "the string that begins here does not end")
	return ""
}

// unescape is what a backslash and a byte stand for, or 0. A table, since in
// scripts no branch could be foretold.
var unescape = [256]byte{'"': '"', '\\': '\\', 'n': '\n', 'r': '\r', 't': '\t'}
