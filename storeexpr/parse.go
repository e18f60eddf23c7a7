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
	p := &parser{text: string(data)}
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
func (p *parser) derivation() *Derivation {
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
		d.Sources = sorted(p, at, "sources", d.Sources, func(s *store.Path) string { return string(*s) })
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

func (p *parser) outputs(d *Derivation) {
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
	d.Outputs = sorted(p, begin, "outputs", d.Outputs, func(o *Output) string { return o.Name })
}

func (p *parser) outputs2004(d *Derivation) {
	begin := p.pos
	p.list(func() { d.Outputs = append(d.Outputs, Output{Path: p.path()}) })
	d.Outputs = sorted(p, begin, "outputs", d.Outputs, func(o *Output) string { return string(o.Path) })
}

func (p *parser) inputs(d *Derivation) {
	begin := p.pos
	d.Inputs = make([]Input, 0, min((len(p.text)-p.pos)/100, 16))
	p.list(func() {
		var in Input
		p.expect('(')
		in.Path = p.path()
		p.expect(',')
		at := p.pos
		in.Outputs = p.strings()
		in.Outputs = sorted(p, at, "used outputs", in.Outputs, func(s *string) string { return *s })
		p.expect(')')
		d.Inputs = append(d.Inputs, in)
	})
	d.Inputs = sorted(p, begin, "inputs", d.Inputs, func(in *Input) string { return string(in.Path) })
}

func (p *parser) inputs2004(d *Derivation) {
	begin := p.pos
	p.list(func() { d.Inputs = append(d.Inputs, Input{Path: p.path()}) })
	d.Inputs = sorted(p, begin, "inputs", d.Inputs, func(in *Input) string { return string(in.Path) })
}

func (p *parser) env(d *Derivation) {
	begin := p.pos
	// Every variable has a parenthesis; most values have none.
	d.Env = make([]EnvVar, 0, min(strings.Count(p.text[p.pos:], "("), 64))
	p.list(func() {
		var v EnvVar
		p.expect('(')
		v.Name = p.str()
		p.expect(',')
		v.Value = p.str()
		p.expect(')')
		d.Env = append(d.Env, v)
	})
	d.Env = sorted(p, begin, "variables", d.Env, func(v *EnvVar) string { return v.Name })
}

// closure reads what follows "Closure(".
func (p *parser) closure() *Closure {
	byPath := func(s *store.Path) string { return string(*s) }
	c := &Closure{}
	at := p.pos
	c.Roots = p.paths()
	c.Roots = sorted(p, at, "roots", c.Roots, byPath)
	p.expect(',')
	begin := p.pos
	p.list(func() {
		var e Element
		p.expect('(')
		e.Path = p.path()
		p.expect(',')
		at := p.pos
		e.References = p.paths()
		e.References = sorted(p, at, "references", e.References, byPath)
		p.expect(')')
		c.Elements = append(c.Elements, e)
	})
	c.Elements = sorted(p, begin, "elements", c.Elements, func(e *Element) string { return string(e.Path) })
	return c
}
