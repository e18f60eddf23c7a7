package instantiate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"

	"storefs/store"
	"storefs/storeexpr"
)

// derivation is the value of a call of derivation(). As a string it is the
// path of its first output.
type derivation struct {
	name    string
	path    store.Path
	expr    *storeexpr.Derivation
	kinds   map[string]store.Kind // by output name
	outputs []string              // in the order of the call
	inputs  []*derivation         // used derivations, by path
	sources map[store.Path]object // used as they are
}

var (
	_ starlark.HasAttrs   = (*derivation)(nil)
	_ starlark.HasBinary  = (*derivation)(nil)
	_ starlark.Comparable = (*derivation)(nil)
	_ json.Marshaler      = (*derivation)(nil) // what json.encode asks for
)

func (d *derivation) String() string               { return d.output(d.outputs[0]) }
func (d *derivation) Type() string                 { return "derivation" }
func (d *derivation) Freeze()                      {} // it never changes
func (d *derivation) Truth() starlark.Bool         { return true }
func (d *derivation) Hash() (uint32, error)        { return starlark.String(d.path).Hash() }
func (d *derivation) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }
func (d *derivation) output(name string) string {
	o, _ := d.expr.Output(name)
	return string(o.Path)
}

// CompareSameType makes derivations equal that are written to the same path.
func (d *derivation) CompareSameType(op syntax.Token, y starlark.Value, _ int) (bool, error) {
	same := d.path == y.(*derivation).path
	switch op {
	case syntax.EQL:
		return same, nil
	case syntax.NEQ:
		return !same, nil
	}
	return false, fmt.Errorf("derivation %s derivation: derivations have no order", op)
}

// Binary is d + "/bin/x" and "PATH=" + d.
func (d *derivation) Binary(op syntax.Token, y starlark.Value, side starlark.Side) (starlark.Value, error) {
	s, ok := starlark.AsString(y)
	if op != syntax.PLUS || !ok {
		return nil, nil // "not defined", as the interface has it
	}
	if side == starlark.Left {
		return starlark.String(d.String() + s), nil
	}
	return starlark.String(s + d.String()), nil
}

// Attributes that are there whatever the outputs are called.
var attributes = []string{"drv", "name", "outputs", "path"}

// Attr gives an output's path by its name, or one of attributes.
func (d *derivation) Attr(name string) (starlark.Value, error) {
	switch name {
	case "drv":
		return starlark.String(d.path), nil
	case "name":
		return starlark.String(d.name), nil
	case "path":
		return starlark.String(d.String()), nil
	case "outputs":
		dict := starlark.NewDict(len(d.outputs))
		for _, o := range d.outputs {
			if err := dict.SetKey(starlark.String(o), starlark.String(d.output(o))); err != nil {
				return nil, err
			}
		}
		return dict, nil
	}
	if slices.Contains(d.outputs, name) {
		return starlark.String(d.output(name)), nil
	}
	return nil, starlark.NoSuchAttrError(fmt.Sprintf("the derivation %s has no output and no attribute .%s; its outputs: %s",
		d.name, name, strings.Join(d.outputs, ", ")))
}

// AttrNames lists what Attr knows.
func (d *derivation) AttrNames() []string {
	names := slices.Concat(attributes, d.outputs)
	slices.Sort(names)
	return slices.Compact(names)
}
