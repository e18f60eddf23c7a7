package storeexpr

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"storefs/store"
)

// Modulo is what stands for a derivation when those that use it are hashed: by
// output name, SHA-256. Nix calls it hashDerivationModulo: derivations with a
// fixed output stand for their content only, so that it does not matter how it
// was fetched.
type Modulo map[string]store.Hash

// HashModulo computes what stands for d. It asks inputs for every input once;
// how those are found, in which order, and what is remembered, is the caller's
// affair. The outputs must have their paths.
func (d *Derivation) HashModulo(inputs func(drv store.Path) (Modulo, error)) (Modulo, error) {
	if o, ok := d.Fixed(); ok {
		s := "fixed:out:" + o.Algo + ":" + o.Hash + ":" + string(o.Path)
		return Modulo{o.Name: store.HashOf(store.SHA256, []byte(s))}, nil
	}
	h, err := d.hash(false, inputs)
	if err != nil {
		return nil, err
	}
	m := make(Modulo, len(d.Outputs))
	for _, o := range d.Outputs {
		m[o.Name] = h
	}
	return m, nil
}

// hash is the SHA-256 of the text in which every input is replaced by what
// stands for it, and the own output paths left out where mask says so.
func (d *Derivation) hash(mask bool, inputs func(drv store.Path) (Modulo, error)) (store.Hash, error) {
	if d.Form == Form2004 {
		return store.Hash{}, fmt.Errorf("hash a derivation of 2004: its outputs are what it says: %w", store.ErrBadExpr)
	}
	replaced, err := replaceInputs(d.Inputs, inputs)
	if err != nil {
		return store.Hash{}, err
	}
	room := takeText()
	defer room.give()
	text := room.of(func(b []byte) []byte {
		return d.appendText(b, mask, func(b []byte) []byte { return appendReplaced(b, replaced) })
	})
	return store.HashOf(store.SHA256, text), nil
}

// replacedInput is an output of an input, with what stands for it.
type replacedInput struct {
	sum    string // raw; sorts as its hexadecimal form does
	output string
}

// replaceInputs gives the used outputs in the order of their hashes.
func replaceInputs(ins []Input, modulo func(drv store.Path) (Modulo, error)) ([]replacedInput, error) {
	replaced := make([]replacedInput, 0, len(ins))
	for _, in := range ins {
		m, err := modulo(in.Path)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", in.Path, err)
		}
		for _, output := range in.Outputs {
			h, ok := m[output]
			if !ok {
				return nil, fmt.Errorf("input %s: it has no output %q: %w", in.Path, output, store.ErrBadExpr)
			}
			replaced = append(replaced, replacedInput{h.Sum, output})
		}
	}
	slices.SortFunc(replaced, func(a, b replacedInput) int {
		return cmp.Or(strings.Compare(a.sum, b.sum), strings.Compare(a.output, b.output))
	})
	return slices.Compact(replaced), nil
}

// appendReplaced writes them in the place of inputs. Inputs with the same hash, such as
// two derivations that fetch the same content, become one.
func appendReplaced(b []byte, replaced []replacedInput) []byte {
	for i := 0; i < len(replaced); {
		sum := replaced[i].sum
		b = comma(b, i)
		b = append(b, `("`...)
		b = hex.AppendEncode(b, []byte(sum))
		b = append(b, `",[`...)
		for j := 0; i < len(replaced) && replaced[i].sum == sum; i, j = i+1, j+1 {
			b = comma(b, j)
			b = appendString(b, replaced[i].output)
		}
		b = append(b, "])"...)
	}
	return b
}
