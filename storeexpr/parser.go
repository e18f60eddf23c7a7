package storeexpr

import (
	"fmt"
	"slices"
	"strings"

	"storefs/store"
)

// parser walks over the text once. The first error sticks: everything after it
// returns at once, so that the grammar reads without a check on every line.
type parser struct {
	text  string
	pos   int
	items int // elements of lists so far
	err   error

	// Short lists are cut out of these, since most inputs of a derivation
	// have a list of their own with just "out" in it.
	strSlab  []string
	pathSlab []store.Path
	scratch  []byte // of the string with escapes that is being read
}

// fail keeps the first error, which is at byte at.
func (p *parser) fail(at int, format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("byte %d: %s: %w", at, fmt.Sprintf(format, args...), store.ErrBadExpr)
	}
}

// found describes what is at pos, for an error.
func (p *parser) found() string {
	switch rest := p.text[p.pos:]; {
	case rest == "":
		return "the end of the text"
	case len(rest) > 10:
		return fmt.Sprintf("%q…", rest[:10])
	default:
		return fmt.Sprintf("%q", rest)
	}
}

// expect steps over c.
func (p *parser) expect(c byte) {
	if p.err == nil && p.pos < len(p.text) && p.text[p.pos] == c {
		p.pos++
		return
	}
	p.fail(p.pos, "expected %q, found %s", string(c), p.found())
}

// peek is the byte that follows, or 0 at the end of the text.
func (p *parser) peek() byte {
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

// list steps over "[", elements separated by commas, and "]".
func (p *parser) list(element func()) {
	p.expect('[')
	if p.err == nil && p.peek() == ']' {
		p.pos++
		return
	}
	for p.err == nil {
		if p.items++; p.items > MaxItems {
			p.fail(p.pos, "the lists have more than %d elements", MaxItems)
			return
		}
		element()
		if p.err != nil {
			return
		}
		switch p.peek() {
		case ',':
			p.pos++
		case ']':
			p.pos++
			return
		default:
			p.fail(p.pos, `expected "," or "]", found %s`, p.found())
		}
	}
}

// str reads a string. Without escapes it is shared with the text.
func (p *parser) str() string {
	begin := p.pos
	p.expect('"')
	if p.err != nil {
		return ""
	}
	n := strings.IndexByte(p.text[p.pos:], '"')
	if n < 0 {
		p.fail(begin, "the string that begins here does not end")
		return ""
	}
	s := p.text[p.pos : p.pos+n]
	if i := strings.IndexByte(s, '\\'); i >= 0 {
		return p.escaped(begin, i)
	}
	p.pos += n + 1
	return s
}

// escaped reads the rest of a string whose first escape is plain bytes away.
func (p *parser) escaped(begin, plain int) string {
	b := p.scratch[:0]
	for {
		b = append(b, p.text[p.pos:p.pos+plain]...)
		p.pos += plain
		switch {
		case p.pos < len(p.text) && p.text[p.pos] == '"':
			p.pos++
			p.scratch = b
			return string(b)
		case p.pos+1 >= len(p.text):
			p.fail(begin, "the string that begins here does not end")
			return ""
		}
		c, ok := unescape(p.text[p.pos+1])
		if !ok {
			p.fail(p.pos, `%q is no escape, only \" \\ \n \r \t are`, p.text[p.pos:p.pos+2])
			return ""
		}
		b = append(b, c)
		p.pos += 2
		// Byte by byte: escapes stand close together in scripts.
		plain = 0
		for rest := p.text[p.pos:]; plain < len(rest) && rest[plain] != '"' && rest[plain] != '\\'; {
			plain++
		}
	}
}

// unescape is what a backslash and c stand for.
func unescape(c byte) (byte, bool) {
	switch c {
	case '"', '\\':
		return c, true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	}
	return 0, false
}

// path reads a string that is an absolute path.
func (p *parser) path() store.Path {
	at := p.pos
	s := p.str()
	if p.err == nil && (s == "" || s[0] != '/') {
		p.fail(at, "%q is not an absolute path", s)
	}
	return store.Path(s)
}

// strings reads a list of strings, nil if it is empty.
func (p *parser) strings() []string {
	if p.strSlab == nil {
		p.strSlab = make([]string, 0, min((len(p.text)-p.pos)/80+2, 32))
	}
	begin := len(p.strSlab)
	p.list(func() { p.strSlab = append(p.strSlab, p.str()) })
	if begin == len(p.strSlab) {
		return nil
	}
	return slices.Clip(p.strSlab[begin:])
}

// paths reads a list of absolute paths, nil if it is empty.
func (p *parser) paths() []store.Path {
	begin := len(p.pathSlab)
	p.list(func() { p.pathSlab = append(p.pathSlab, p.path()) })
	if begin == len(p.pathSlab) {
		return nil
	}
	return slices.Clip(p.pathSlab[begin:])
}

// sorted returns the set that began at byte at in order (nil for an empty one),
// and fails if an element occurs twice. Texts that a program wrote are in order
// already.
func sorted[T any](p *parser, at int, what string, set []T, key func(*T) string) []T {
	if p.err != nil || len(set) == 0 {
		return nil
	}
	inOrder := true
	for i := 1; i < len(set); i++ {
		if key(&set[i-1]) >= key(&set[i]) {
			inOrder = false
			break
		}
	}
	if inOrder {
		return set
	}
	slices.SortFunc(set, func(a, b T) int { return strings.Compare(key(&a), key(&b)) })
	for i := 1; i < len(set); i++ {
		if k := key(&set[i]); key(&set[i-1]) == k {
			p.fail(at, "%q occurs twice in the list of %s that begins here", k, what)
			return nil
		}
	}
	return set
}
