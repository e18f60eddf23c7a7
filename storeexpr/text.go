package storeexpr

import "storefs/store"

// AppendText appends the canonical text to b: the bytes that Nix's
// Derivation::unparse writes, and that the path of the .drv is computed from.
func (d *Derivation) AppendText(b []byte) []byte {
	return d.appendText(b, false, func(b []byte) []byte {
		for i, in := range d.Inputs {
			b = comma(b, i)
			if d.Form == Form2004 {
				b = appendString(b, string(in.Path))
				continue
			}
			b = append(b, '(')
			b = appendString(b, string(in.Path))
			b = append(b, ',')
			b = appendList(b, in.Outputs)
			b = append(b, ')')
		}
		return b
	})
}

// appendText writes the derivation with inputs in the place of its own, and
// with its output paths left out where mask says so: from the outputs, and from
// the variables that are named like outputs.
func (d *Derivation) appendText(b []byte, mask bool, inputs func([]byte) []byte) []byte {
	b = append(b, "Derive(["...)
	for i, o := range d.Outputs {
		b = comma(b, i)
		if d.Form == Form2004 {
			b = appendString(b, string(o.Path))
			continue
		}
		b = append(b, '(')
		b = appendString(b, o.Name)
		b = append(b, ',')
		if mask {
			b = append(b, `""`...)
		} else {
			b = appendString(b, string(o.Path))
		}
		b = append(b, ',')
		b = appendString(b, o.Algo)
		b = append(b, ',')
		b = appendString(b, o.Hash)
		b = append(b, ')')
	}
	b = append(b, "],["...)
	b = inputs(b)
	b = append(b, "],"...)
	if d.Form == FormToday {
		b = appendList(b, d.Sources)
		b = append(b, ',')
	}
	b = appendString(b, d.Platform)
	b = append(b, ',')
	b = appendString(b, d.Builder)
	b = append(b, ',')
	b = appendList(b, d.Args)
	b = append(b, ",["...)
	for i, v := range d.Env {
		b = comma(b, i)
		b = append(b, '(')
		b = appendString(b, v.Name)
		b = append(b, ',')
		if _, isOutput := d.Output(v.Name); mask && isOutput {
			b = append(b, `""`...)
		} else {
			b = appendString(b, v.Value)
		}
		b = append(b, ')')
	}
	return append(b, "])"...)
}

// AppendText appends the canonical text to b.
func (c *Closure) AppendText(b []byte) []byte {
	b = append(b, "Closure("...)
	b = appendList(b, c.Roots)
	b = append(b, ",["...)
	for i, e := range c.Elements {
		b = comma(b, i)
		b = append(b, '(')
		b = appendString(b, string(e.Path))
		b = append(b, ',')
		b = appendList(b, e.References)
		b = append(b, ')')
	}
	return append(b, "])"...)
}

func comma(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	return b
}

func appendList[S string | store.Path](b []byte, list []S) []byte {
	b = append(b, '[')
	for i, s := range list {
		b = comma(b, i)
		b = appendString(b, string(s))
	}
	return append(b, ']')
}

// appendString writes s in quotes, with the five escapes that Nix writes.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	plain := 0 // s[plain:i] needs no escape
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '"', '\\':
		case '\n':
			c = 'n'
		case '\r':
			c = 'r'
		case '\t':
			c = 't'
		default:
			continue
		}
		b = append(b, s[plain:i]...)
		b = append(b, '\\', c)
		plain = i + 1
	}
	b = append(b, s[plain:]...)
	return append(b, '"')
}
