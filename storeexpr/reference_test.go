package storeexpr

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"storefs/store"
)

// Texts of all forms, cut off anywhere, and with any of their bytes replaced by one
// that means something.
func TestParseReference(t *testing.T) {
	for _, c := range texts {
		for i := range len(c.text) {
			sameAsReference(t, []byte(c.text[:i]))
			for _, b := range []byte("\"\\,()[]/an") {
				sameAsReference(t, []byte(c.text[:i]+string(b)+c.text[i+1:]))
				sameAsReference(t, []byte(c.text[:i]+string(b)+c.text[i:]))
			}
		}
	}
	// Escapes at any place of a word and of a buffer, and what follows them.
	for n := range 600 {
		for _, s := range []string{`\n`, `\\`, `\"`, `\\\"`, `\x`, `\`, `\\\`, `\t\t\t\t\t\t\t\t\t`, "\xdc"} {
			text := strings.Repeat("x", n) + s
			for _, end := range []string{``, `"`, `y"`, `",[],[])`, `12345678",[],[("a\\","\r"),("b","c\n")])`} {
				sameAsReference(t, []byte(`Derive([("out","/o","","")],[],[],"a\tb","`+text+end))
			}
		}
	}
}

// sameAsReference checks that Parse says of data what the reference says, be it
// an expression or an error.
func sameAsReference(t *testing.T, data []byte) {
	t.Helper()
	want, werr := referenceParse(data)
	got, err := Parse(data)
	if fmt.Sprint(werr) != fmt.Sprint(err) {
		t.Errorf("%q: error %v, want %v", data, err, werr)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%q: want -, got +:\n%s", data, diff)
	}
}

// referenceParse is Parse in its plainest form: one string after the other, with
// a list of its own for each list. Parse must agree with it on every text.
func referenceParse(data []byte) (Expr, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes are more than the %d that an expression may have: %w", len(data), MaxSize, store.ErrBadExpr)
	}
	p := &reference{text: string(data)}
	var e Expr
	switch {
	case strings.HasPrefix(p.text, "Derive("):
		p.pos = len("Derive(")
		e = p.derivation()
	case strings.HasPrefix(p.text, "Closure("):
		p.pos = len("Closure(")
		e = p.closure()
	case strings.HasPrefix(p.text, "DrvWithVersion("):
		p.fail(0, "a dynamic derivation (DrvWithVersion) is not supported")
	default:
		p.fail(0, `expected "Derive(" or "Closure(", found %s`, p.found())
	}
	p.expect(')')
	if p.err == nil && p.pos < len(p.text) {
		p.fail(p.pos, "the expression ends, but %s follows", p.found())
	}
	if p.err != nil {
		return nil, p.err
	}
	return e, nil
}

// derivation reads what follows "Derive(". The two forms differ from the first
// output on: a string in 2004, a tuple today.
func (p *reference) derivation() *Derivation {
	d := &Derivation{}
	switch rest := p.text[p.pos:]; {
	case strings.HasPrefix(rest, `["`):
		d.Form = Form2004
		p.outputs2004(d)
		p.expect(',')
		p.inputs2004(d)
	case strings.HasPrefix(rest, `[(`):
		p.outputs(d)
		p.expect(',')
		p.inputs(d)
		p.expect(',')
		at := p.pos
		d.Sources = p.paths()
		d.Sources = referenceSorted(p, at, "sources", d.Sources, func(s *store.Path) string { return string(*s) })
	case strings.HasPrefix(rest, `[]`):
		p.fail(p.pos, "a derivation without outputs")
	default:
		p.expect('[')
		p.fail(p.pos, `expected an output, '"' or '(', found %s`, p.found())
	}
	p.expect(',')
	d.Platform = p.str()
	p.expect(',')
	d.Builder = p.str()
	p.expect(',')
	d.Args = p.strings()
	p.expect(',')
	p.env(d)
	return d
}

func (p *reference) outputs(d *Derivation) {
	begin := p.pos
	p.list(func() {
		at := p.pos
		var o Output
		p.expect('(')
		o.Name = p.str()
		p.expect(',')
		o.Path = store.Path(p.str())
		p.expect(',')
		o.Algo = p.str()
		p.expect(',')
		o.Hash = p.str()
		p.expect(')')
		if p.err != nil {
			return
		}
		if err := o.unsupported(); err != nil {
			p.fail(at, "%v", err)
		} else if o.Path[0] != '/' {
			p.fail(at, "%q is not an absolute path", o.Path)
		}
		d.Outputs = append(d.Outputs, o)
	})
	d.Outputs = referenceSorted(p, begin, "outputs", d.Outputs, func(o *Output) string { return o.Name })
}

func (p *reference) outputs2004(d *Derivation) {
	begin := p.pos
	p.list(func() { d.Outputs = append(d.Outputs, Output{Path: p.path()}) })
	d.Outputs = referenceSorted(p, begin, "outputs", d.Outputs, func(o *Output) string { return string(o.Path) })
}

func (p *reference) inputs(d *Derivation) {
	begin := p.pos
	p.list(func() {
		var in Input
		p.expect('(')
		in.Path = p.path()
		p.expect(',')
		at := p.pos
		in.Outputs = p.strings()
		in.Outputs = referenceSorted(p, at, "used outputs", in.Outputs, func(s *string) string { return *s })
		p.expect(')')
		d.Inputs = append(d.Inputs, in)
	})
	d.Inputs = referenceSorted(p, begin, "inputs", d.Inputs, func(in *Input) string { return string(in.Path) })
}

func (p *reference) inputs2004(d *Derivation) {
	begin := p.pos
	p.list(func() { d.Inputs = append(d.Inputs, Input{Path: p.path()}) })
	d.Inputs = referenceSorted(p, begin, "inputs", d.Inputs, func(in *Input) string { return string(in.Path) })
}

func (p *reference) env(d *Derivation) {
	begin := p.pos
	p.list(func() {
		var v EnvVar
		p.expect('(')
		v.Name = p.str()
		p.expect(',')
		v.Value = p.str()
		p.expect(')')
		d.Env = append(d.Env, v)
	})
	d.Env = referenceSorted(p, begin, "variables", d.Env, func(v *EnvVar) string { return v.Name })
}

// closure reads what follows "Closure(".
func (p *reference) closure() *Closure {
	byPath := func(s *store.Path) string { return string(*s) }
	c := &Closure{}
	at := p.pos
	c.Roots = p.paths()
	c.Roots = referenceSorted(p, at, "roots", c.Roots, byPath)
	p.expect(',')
	begin := p.pos
	p.list(func() {
		var e Element
		p.expect('(')
		e.Path = p.path()
		p.expect(',')
		at := p.pos
		e.References = p.paths()
		e.References = referenceSorted(p, at, "references", e.References, byPath)
		p.expect(')')
		c.Elements = append(c.Elements, e)
	})
	c.Elements = referenceSorted(p, begin, "elements", c.Elements, func(e *Element) string { return string(e.Path) })
	return c
}

// reference walks over the text once. The first error sticks: everything after it
// returns at once, so that the grammar reads without a check on every line.
type reference struct {
	text  string
	pos   int
	items int // elements of lists so far
	err   error
}

// fail keeps the first error, which is at byte at.
func (p *reference) fail(at int, format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("byte %d: %s: %w", at, fmt.Sprintf(format, args...), store.ErrBadExpr)
	}
}

// found describes what is at pos, for an error.
func (p *reference) found() string {
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
func (p *reference) expect(c byte) {
	if p.err == nil && p.pos < len(p.text) && p.text[p.pos] == c {
		p.pos++
		return
	}
	p.fail(p.pos, "expected %q, found %s", string(c), p.found())
}

// peek is the byte that follows, or 0 at the end of the text.
func (p *reference) peek() byte {
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

// list steps over "[", elements separated by commas, and "]".
func (p *reference) list(element func()) {
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
func (p *reference) str() string {
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
func (p *reference) escaped(begin, plain int) string {
	var b []byte
	for {
		b = append(b, p.text[p.pos:p.pos+plain]...)
		p.pos += plain
		switch {
		case p.pos < len(p.text) && p.text[p.pos] == '"':
			p.pos++
			return string(b)
		case p.pos+1 >= len(p.text):
			p.fail(begin, "the string that begins here does not end")
			return ""
		}
		c, ok := referenceUnescape(p.text[p.pos+1])
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

// referenceUnescape is what a backslash and c stand for.
func referenceUnescape(c byte) (byte, bool) {
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
func (p *reference) path() store.Path {
	at := p.pos
	s := p.str()
	if p.err == nil && (s == "" || s[0] != '/') {
		p.fail(at, "%q is not an absolute path", s)
	}
	return store.Path(s)
}

// strings reads a list of strings, nil if it is empty.
func (p *reference) strings() []string {
	var list []string
	p.list(func() { list = append(list, p.str()) })
	return list
}

// paths reads a list of absolute paths, nil if it is empty.
func (p *reference) paths() []store.Path {
	var list []store.Path
	p.list(func() { list = append(list, p.path()) })
	return list
}

// referenceSorted returns the set that began at byte at in order (nil for an empty one),
// and fails if an element occurs twice.
func referenceSorted[T any](p *reference, at int, what string, set []T, key func(*T) string) []T {
	if p.err != nil || len(set) == 0 {
		return nil
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
