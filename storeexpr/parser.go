package storeexpr

import (
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"storefs/store"
)

// parser walks over the text once. The first error sticks, and leaves nothing of
// the text to read: everything after it fails at once, so that the grammar reads
// without a check on every line.
type parser struct {
	text   string
	copied []byte // the text's bytes, which are the parser's own: see escaped
	pos    int
	escape int // where the next backslash is, or is not yet known to be if it is before pos
	items  int // elements of lists so far
	err    error

	// Short lists are cut out of these, since most inputs of a derivation
	// have a list of their own with just "out" in it.
	strSlab   []string
	inputRoom []Input  // nil: they are counted first
	envRoom   []EnvVar // likewise
	pathSlab  []store.Path
}

func newParser(data []byte) *parser {
	copied := make([]byte, len(data))
	copy(copied, data)
	return &parser{text: unsafe.String(unsafe.SliceData(copied), len(copied)), copied: copied}
}

// fail keeps the first error, which is at byte at.
func (p *parser) fail(at int, format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("byte %d: %s: %w", at, fmt.Sprintf(format, args...), store.ErrBadExpr)
		p.text, p.copied, p.pos = "", nil, 0
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
	if p.pos < len(p.text) && p.text[p.pos] == c {
		p.pos++
		return
	}
	p.unexpected(c)
}

// unexpected is a part of expect that would keep it from being inlined.
func (p *parser) unexpected(c byte) {
	p.fail(p.pos, "expected %q, found %s", string(c), p.found())
}

// peek is the byte that follows, or 0 at the end of the text.
func (p *parser) peek() byte {
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

// open steps over "[", and over the "]" of an empty list; true if an element
// follows. next is for after each element.
func (p *parser) open() bool {
	p.expect('[')
	if p.peek() == ']' {
		p.pos++
		return false
	}
	return p.err == nil && p.item()
}

// next steps over "," or "]"; true if another element follows.
func (p *parser) next() bool {
	switch p.peek() {
	case ',':
		p.pos++
		return p.item()
	case ']':
		p.pos++
	default:
		p.fail(p.pos, `expected "," or "]", found %s`, p.found())
	}
	return false
}

// item counts an element.
func (p *parser) item() bool {
	p.items++
	if p.items > MaxItems {
		p.fail(p.pos, "the lists have more than %d elements", MaxItems)
		return false
	}
	return true
}

// path reads a string that is an absolute path.
func (p *parser) path() store.Path {
	at := p.pos
	s := p.str()
	if s == "" || s[0] != '/' {
		p.fail(at, "%q is not an absolute path", s)
	}
	return store.Path(s)
}

// strings reads a list of strings, nil if it is empty, and tells whether it is
// in order, without any twice.
func (p *parser) strings() ([]string, bool) {
	list, ordered := p.strSlab, true
	begin := len(list)
	for more := p.open(); more; more = p.next() {
		s := p.str()
		ordered = ordered && (len(list) == begin || list[len(list)-1] < s)
		list = append(list, s)
	}
	return p.cut(list), ordered
}

// cut takes what list has more than strSlab. Where it did not fit into that,
// there is a new one.
func (p *parser) cut(list []string) []string {
	begin := len(p.strSlab)
	p.strSlab = list
	if begin == len(list) {
		return nil
	}
	return slices.Clip(list[begin:])
}

// paths reads a set of absolute paths, nil if it is empty.
func (p *parser) paths(what string) []store.Path {
	at, ordered := p.pos, true
	list := p.pathSlab
	begin := len(list)
	last := store.Path("")
	for more := p.open(); more; more = p.next() {
		path := p.path()
		ordered = ordered && last < path
		last = path
		list = append(list, path)
	}
	p.pathSlab = list
	return sorted(p, at, what, slices.Clip(list[begin:]), ordered, func(s *store.Path) string { return string(*s) })
}

// sorted returns the set that began at byte at in order (nil for an empty one),
// and fails if an element occurs twice. Texts that a program wrote are in order
// already, each element once: ordered.
func sorted[T any](p *parser, at int, what string, set []T, ordered bool, key func(*T) string) []T {
	if p.err != nil || len(set) == 0 {
		return nil
	}
	if ordered {
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
