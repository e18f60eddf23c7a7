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

// escaped reads the rest of a string with escapes, which began at byte begin.
func (p *parser) escaped(begin int) string {
	raw, ends := untilQuote(p.text[p.pos:])
	if p.decoded.Cap()-p.decoded.Len() < len(raw) {
		// What was made of the old one keeps it.
		p.decoded = strings.Builder{}
		p.decoded.Grow(len(raw))
	}
	start := p.decoded.Len()
	i, ok := p.decode(raw)
	switch {
	case !ok && i+1 < len(raw):
		p.fail(p.pos+i, `%q is no escape, only \" \\ \n \r \t are`, raw[i:i+2])
		return ""
	case !ok || !ends:
		p.fail(begin, "the string that begins here does not end")
		return ""
	}
	p.pos += len(raw) + 1
	return p.decoded.String()[start:]
}

// untilQuote is what stands before the first quote in s that no backslash
// escapes; false if there is none.
func untilQuote(s string) (string, bool) {
	for end := 0; ; end++ {
		n := strings.IndexByte(s[end:], '"')
		if n < 0 {
			return s, false
		}
		before := end + n
		for before > end && s[before-1] == '\\' {
			before--
		}
		end += n
		if (end-before)%2 == 0 {
			return s[:end], true
		}
	}
}

// decode appends what raw stands for to decoded. If it meets what is no escape,
// it returns where.
func (p *parser) decode(raw string) (int, bool) {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	var buf [256]byte
	n, i := 0, 0
	for i < len(raw) {
		if n > len(buf)-8 {
			p.decoded.Write(buf[:n])
			n = 0
		}
		if i+8 <= len(raw) {
			b := raw[i : i+8] // the compiler makes one load of this
			w := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
				uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
			binary.LittleEndian.PutUint64(buf[n:n+8], w)
			// The lowest bit that is set is that of the first backslash.
			x := w ^ ones*'\\'
			k := bits.TrailingZeros64((x-ones)&^x&tops) / 8
			n, i = n+k, i+k
			if k == 8 {
				continue
			}
		} else if raw[i] != '\\' {
			buf[n] = raw[i]
			n, i = n+1, i+1
			continue
		}
		if i+1 == len(raw) || unescape[raw[i+1]] == 0 {
			return i, false
		}
		buf[n] = unescape[raw[i+1]]
		n, i = n+1, i+2
	}
	p.decoded.Write(buf[:n])
	return i, true
}

// unescape is what a backslash and a byte stand for, or 0. A table, since in
// scripts no branch could be foretold.
var unescape = [256]byte{'"': '"', '\\': '\\', 'n': '\n', 'r': '\r', 't': '\t'}
