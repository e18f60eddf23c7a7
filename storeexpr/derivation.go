package storeexpr

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"storefs/store"
)

// Output is the output called name. Those of 2004 have no names.
func (d *Derivation) Output(name string) (Output, bool) {
	if d.Form == Form2004 {
		return Output{}, false
	}
	i, ok := slices.BinarySearchFunc(d.Outputs, name, func(o Output, name string) int { return strings.Compare(o.Name, name) })
	if !ok {
		return Output{}, false
	}
	return d.Outputs[i], true
}

// OutputList lists the paths of all outputs, in their order.
func (d *Derivation) OutputList() []store.Path {
	paths := make([]store.Path, len(d.Outputs))
	for i, o := range d.Outputs {
		paths[i] = o.Path
	}
	return paths
}

// Fixed is the fixed output, if d has one: its content is known beforehand.
func (d *Derivation) Fixed() (Output, bool) {
	if len(d.Outputs) == 1 && d.Outputs[0].Algo != "" {
		return d.Outputs[0], true
	}
	return Output{}, false
}

// Getenv is the value of the variable called name.
func (d *Derivation) Getenv(name string) (string, bool) {
	i, ok := d.findEnv(name)
	if !ok {
		return "", false
	}
	return d.Env[i].Value, true
}

func (d *Derivation) findEnv(name string) (int, bool) {
	return slices.BinarySearchFunc(d.Env, name, func(v EnvVar, name string) int { return strings.Compare(v.Name, name) })
}

// setEnv sets the variable called name, in its place in the order.
func (d *Derivation) setEnv(name, value string) {
	i, ok := d.findEnv(name)
	if !ok {
		d.Env = slices.Insert(d.Env, i, EnvVar{Name: name})
	}
	d.Env[i].Value = value
}

// References are the references of the expression itself, as a store object:
// its inputs and its sources, sorted and without duplicates.
func (d *Derivation) References() []store.Path {
	refs := make([]store.Path, 0, len(d.Inputs)+len(d.Sources))
	for _, in := range d.Inputs {
		refs = append(refs, in.Path)
	}
	refs = append(refs, d.Sources...)
	slices.Sort(refs)
	return slices.Compact(refs)
}

// Path is the path of the expression itself. Today it is that of a text called
// NAME.drv which refers to the inputs and sources; in 2004 it was the MD5 of
// the text, which is called NAME.store.
func (d *Derivation) Path(dir store.Dir, name string) (store.Path, error) {
	room := takeText()
	defer room.give()
	text := room.of(d.AppendText)
	if d.Form == Form2004 {
		return store.HexPath(dir, name+".store", text)
	}
	return store.TextPath(dir, name+".drv", text, d.References())
}

// maxCores is more processors than any machine has.
const maxCores = 1 << 16

// Cores is how many processors the builder uses at once: what its variable
// __cores says, 0 for all that there are. ok is false if it says nothing: then
// it should be taken to use one. Nix passes the variable on and heeds it not.
func (d *Derivation) Cores() (n int, ok bool, err error) {
	v, ok := d.Getenv("__cores")
	if !ok {
		return 1, false, nil
	}
	n, err = strconv.Atoi(v)
	if err != nil || n < 0 || n > maxCores {
		return 0, false, fmt.Errorf("its __cores is %q, not a number of processors: %w", v, store.ErrBadExpr)
	}
	return n, true, nil
}
