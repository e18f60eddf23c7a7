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

// next reports whether t follows.
func (p *parser) next(t string) bool { return strings.HasPrefix(p.text[p.pos:], t) }

// expect steps over the one byte of t.
func (p *parser) expect(t string) {
	if p.err != nil {
		return
	}
	if p.pos >= len(p.text) || p.text[p.pos] != t[0] {
		p.fail(p.pos, "expected %q, found %s", t, p.found())
		return
	}
	p.pos++
}

// list steps over "[", elements separated by commas, and "]".
func (p *parser) list(element func()) {
	p.expect(`[`)
	if p.err == nil && p.next(`]`) {
		p.pos++
		return
	}
	for p.err == nil {
		if p.items++; p.items > MaxItems {
			p.fail(p.pos, "the lists have more than %d elements", MaxItems)
			return
		}
		element()
		switch {
		case p.err != nil:
		case p.next(`,`):
			p.pos++
		case p.next(`]`):
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
	p.expect(`"`)
	if p.err != nil {
		return ""
	}
	n := strings.IndexByte(p.text[p.pos:], '"')
	if n < 0 {
		p.fail(begin, "the string that begins here does not end")
		return ""
	}
	s := p.text[p.pos : p.pos+n]
	if strings.IndexByte(s, '\\') >= 0 {
		return p.escaped(begin)
	}
	p.pos += n + 1
	return s
}

// escaped reads the rest of a string that has escapes. Each byte is searched
// once for a quote and once for a backslash, whatever the string is made of.
func (p *parser) escaped(begin int) string {
	var b strings.Builder
	quote := p.pos
	for {
		if quote <= p.pos {
			n := strings.IndexByte(p.text[p.pos:], '"')
			if n < 0 {
				p.fail(begin, "the string that begins here does not end")
				return ""
			}
			quote = p.pos + n
		}
		n := strings.IndexByte(p.text[p.pos:quote], '\\')
		if n < 0 {
			b.WriteString(p.text[p.pos:quote])
			p.pos = quote + 1
			return b.String()
		}
		if b.Cap() == 0 {
			b.Grow(quote - p.pos)
		}
		b.WriteString(p.text[p.pos : p.pos+n])
		p.pos += n + 2 // at most one beyond the quote
		switch c := p.text[p.pos-1]; c {
		case '"', '\\':
			b.WriteByte(c)
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		default:
			p.fail(p.pos-2, `%q is no escape, only \" \\ \n \r \t are`, p.text[p.pos-2:p.pos])
			return ""
		}
	}
}

// path reads a string that is an absolute path.
func (p *parser) path() store.Path {
	at := p.pos
	s := p.str()
	if p.err == nil && !strings.HasPrefix(s, "/") {
		p.fail(at, "%q is not an absolute path", s)
	}
	return store.Path(s)
}

// strings reads a list of strings, nil if it is empty.
func (p *parser) strings() []string {
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

// sorted returns the set that began at byte at in order, and fails if an
// element occurs twice. Texts that a program wrote are in order already.
func sorted[T any](p *parser, at int, what string, set []T, key func(*T) string) []T {
	if p.err != nil {
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
