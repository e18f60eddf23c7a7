package storeexpr

import (
	"fmt"
	"strings"

	"storefs/store"
)

// Limits of Parse. Nothing that a machine can build comes near them; they
// bound the memory that a hostile text can ask for to a small multiple of its
// size.
const (
	// MaxSize is the longest text that is read, in bytes.
	MaxSize = 64 << 20
	// MaxItems is how many elements all lists of one expression may have
	// together. A text of MaxSize bytes cannot hold as many store paths.
	MaxItems = 2 << 20
)

// Parse reads the text of an expression of any form. White space is refused,
// as Nix refuses it; sets may come in any order and are sorted; an element that
// occurs twice is an error. Errors are one line, tell the offset in bytes and
// wrap store.ErrBadExpr.
//
// Parse knows no store directory: paths are only seen to be absolute. What else
// must hold is for Check to say. The result shares one copy of data, and keeps
// nothing of data itself.
func Parse(data []byte) (Expr, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes are more than the %d that an expression may have: %w", len(data), MaxSize, store.ErrBadExpr)
	}
	p := newParser(data)
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

// smallText is up to how many bytes a text probably has room for its inputs and
// variables beside the rest.
const smallText = 1 << 10

// derivation reads what follows "Derive(". The two forms differ from the first
// output on: a string in 2004, a tuple today.
func (p *parser) derivation() *Derivation {
	// Most derivations have one output, and small ones few inputs and variables,
	// so that one piece of memory is enough for all that is small.
	var d *Derivation
	var oneOutput []Output
	if len(p.text) <= smallText {
		room := new(struct {
			d       Derivation
			outputs [1]Output
			strings [8]string
			inputs  [4]Input
			env     [4]EnvVar
		})
		d, oneOutput, p.strSlab = &room.d, room.outputs[:0], room.strings[:0]
		p.inputRoom, p.envRoom = room.inputs[:0], room.env[:0]
	} else {
		room := new(struct {
			d       Derivation
			outputs [1]Output
			strings [8]string
		})
		d, oneOutput, p.strSlab = &room.d, room.outputs[:0], room.strings[:0]
	}
	switch rest := p.text[p.pos:]; {
	case strings.HasPrefix(rest, `["`):
		d.Form = Form2004
		p.outputs2004(d)
		p.expect(',')
		p.inputs2004(d)
	case strings.HasPrefix(rest, `[(`):
		d.Outputs = oneOutput
		p.outputs(d)
		p.expect(',')
		p.inputs(d)
		p.expect(',')
		d.Sources = p.paths("sources")
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
	d.Args, _ = p.strings()
	p.expect(',')
	p.env(d)
	return d
}

func (p *parser) outputs(d *Derivation) {
	begin, ordered := p.pos, true
	for more := p.open(); more; more = p.next() {
		at := p.pos
		o, ok := p.plainOutput()
		if !ok {
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
		}
		n := len(d.Outputs)
		ordered = ordered && (n == 0 || d.Outputs[n-1].Name < o.Name)
		d.Outputs = append(d.Outputs, o)
	}
	d.Outputs = sorted(p, begin, "outputs", d.Outputs, ordered, func(o *Output) string { return o.Name })
}

// plainOutput reads an output that is not fixed. Whatever else it is, and whatever
// is wrong with it, is left to be read.
func (p *parser) plainOutput() (Output, bool) {
	rest := p.text[p.pos:]
	if !strings.HasPrefix(rest, `("`) {
		return Output{}, false
	}
	name := rest[2:]
	n := strings.IndexByte(name, '"')
	if n < 0 || !strings.HasPrefix(name[n:], `","/`) {
		return Output{}, false
	}
	path := name[n+3:]
	m := strings.IndexByte(path, '"')
	if m < 0 || !strings.HasPrefix(path[m:], `","","")`) {
		return Output{}, false
	}
	end := p.pos + 2 + n + 3 + m
	if p.escape < end && p.escapeBefore(end) {
		return Output{}, false
	}
	p.pos = end + len(`","","")`)
	return Output{Name: name[:n], Path: store.Path(path[:m])}, true
}

func (p *parser) outputs2004(d *Derivation) {
	for _, path := range p.paths("outputs") {
		d.Outputs = append(d.Outputs, Output{Path: path})
	}
}

func (p *parser) inputs(d *Derivation) {
	begin, ordered := p.pos, true
	if p.inputRoom != nil {
		d.Inputs = p.inputRoom
	} else {
		n := p.inputCount()
		d.Inputs = make([]Input, 0, n)
		if n+3 > cap(p.strSlab) { // there are arguments too
			p.strSlab = make([]string, 0, n+3)
		}
	}
	last := store.Path("")
	for more := p.open(); more; more = p.next() {
		var in Input
		if path, ok := p.plainInput(); ok {
			// A literal, and not a piece of the text: it is all that most have.
			in.Path, in.Outputs = path, p.cut(append(p.strSlab, "out"))
		} else {
			p.expect('(')
			in.Path = p.path()
			p.expect(',')
			at := p.pos
			list, inOrder := p.strings()
			in.Outputs = sorted(p, at, "used outputs", list, inOrder, func(s *string) string { return *s })
			p.expect(')')
		}
		ordered = ordered && last < in.Path
		last = in.Path
		d.Inputs = append(d.Inputs, in)
	}
	d.Inputs = sorted(p, begin, "inputs", d.Inputs, ordered, func(in *Input) string { return string(in.Path) })
}

// plainInput reads an input of which nothing but "out" is used, as nearly all are.
// Whatever else it is, and whatever is wrong with it, is left to be read.
func (p *parser) plainInput() (store.Path, bool) {
	rest := p.text[p.pos:]
	if !strings.HasPrefix(rest, `("/`) {
		return "", false
	}
	path := rest[2:]
	n := strings.IndexByte(path, '"')
	if n < 0 || !strings.HasPrefix(path[n:], `",["out"])`) {
		return "", false
	}
	end := p.pos + 2 + n
	if p.escape < end && p.escapeBefore(end) {
		return "", false
	}
	p.pos = end + len(`",["out"])`)
	return store.Path(path[:n]), true
}

// inputCount is how many inputs probably follow, but not so many that a hostile
// text gets much memory for them: one of a store has more than 48 bytes.
func (p *parser) inputCount() int {
	rest := p.text[p.pos:]
	end := strings.Index(rest, ")],")
	if end < 0 || strings.HasPrefix(rest, "[]") {
		return 0
	}
	return min(strings.Count(rest[:end], "("), end/48+1)
}

func (p *parser) inputs2004(d *Derivation) {
	for _, path := range p.paths("inputs") {
		d.Inputs = append(d.Inputs, Input{Path: path})
	}
}

func (p *parser) env(d *Derivation) {
	begin, ordered := p.pos, true
	if p.envRoom != nil {
		d.Env = p.envRoom
	} else {
		// Every variable has a parenthesis; most values have none.
		rest := p.text[p.pos:]
		d.Env = make([]EnvVar, 0, min(strings.Count(rest, "("), 64+len(rest)/64))
	}
	last := ""
	for more := p.open(); more; more = p.next() {
		v, ok := p.plainVariable()
		if !ok {
			p.expect('(')
			v.Name = p.str()
			p.expect(',')
			v.Value = p.str()
			p.expect(')')
		}
		ordered = ordered && (last < v.Name || len(d.Env) == 0)
		last = v.Name
		d.Env = append(d.Env, v)
	}
	d.Env = sorted(p, begin, "variables", d.Env, ordered, func(v *EnvVar) string { return v.Name })
}

// plainVariable reads a variable without escapes. Whatever else it is, and
// whatever is wrong with it, is left to be read. A step of the parser takes as
// long as it takes to store where it is and to load that again; here are none.
func (p *parser) plainVariable() (EnvVar, bool) {
	rest := p.text[p.pos:]
	if !strings.HasPrefix(rest, `("`) {
		return EnvVar{}, false
	}
	name := rest[2:]
	n := strings.IndexByte(name, '"')
	if n < 0 || !strings.HasPrefix(name[n:], `","`) {
		return EnvVar{}, false
	}
	value := name[n+3:]
	m := strings.IndexByte(value, '"')
	if m < 0 || !strings.HasPrefix(value[m:], `")`) {
		return EnvVar{}, false
	}
	end := p.pos + 2 + n + 3 + m
	if p.escape < end && p.escapeBefore(end) {
		return EnvVar{}, false
	}
	p.pos = end + 2
	return EnvVar{name[:n], value[:m]}, true
}

// closure reads what follows "Closure(".
func (p *parser) closure() *Closure {
	// Every path has two quotes.
	p.pathSlab = make([]store.Path, 0, min(strings.Count(p.text, `"`)/2, len(p.text)/48+1))
	c := &Closure{Roots: p.paths("roots")}
	p.expect(',')
	begin, ordered := p.pos, true
	last := store.Path("")
	for more := p.open(); more; more = p.next() {
		var e Element
		p.expect('(')
		e.Path = p.path()
		p.expect(',')
		e.References = p.paths("references")
		p.expect(')')
		ordered = ordered && last < e.Path
		last = e.Path
		c.Elements = append(c.Elements, e)
	}
	c.Elements = sorted(p, begin, "elements", c.Elements, ordered, func(e *Element) string { return string(e.Path) })
	return c
}
