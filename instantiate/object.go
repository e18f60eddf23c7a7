package instantiate

import (
	"cmp"
	"fmt"
	"slices"

	"storefs/store"
	"storefs/storeexpr"
)

// object is what a store path of this evaluation stands for: exactly one of
// drv, source, text and placeholder is set.
type object struct {
	drv         *derivation
	output      string // of drv; "" stands for the derivation's own file
	source      *Source
	text        *Text
	placeholder string // of the output called so of whatever derivation names it; see storeexpr.Placeholder
}

// register makes a path known to find. Of two derivations with the same
// output the first stays: either gives the same content. See recipe.derivations.
func (e *evaluation) register(p store.Path, o object) {
	if _, ok := e.objects[p.Digest()]; !ok {
		e.objects[p.Digest()] = o
	}
}

// find gives the objects whose paths are in s. Starlark's strings are plain
// text, so what a string depends on is read off it: a digest of 32 characters
// is never there by chance, and survives being joined, cut and encoded.
func (e *evaluation) find(s string, found func(object)) {
	run := 0
	for i := range len(s) {
		if !isBase32(s[i]) {
			run = 0
			continue
		}
		if run++; run < store.DigestLen {
			continue
		}
		if o, ok := e.objects[s[i+1-store.DigestLen:i+1]]; ok {
			found(o)
		}
	}
}

// isBase32: digests have digits and lower-case letters without e, o, t and u.
func isBase32(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' && c != 'e' && c != 'o' && c != 't' && c != 'u'
}

// dependencies collects what a derivation needs.
type dependencies struct {
	outputs map[*derivation]map[string]bool // used outputs
	sources map[store.Path]object
}

func newDependencies() *dependencies {
	return &dependencies{outputs: map[*derivation]map[string]bool{}, sources: map[store.Path]object{}}
}

func (d *dependencies) add(o object) {
	switch {
	case o.source != nil:
		d.sources[o.source.Path] = o
	case o.text != nil:
		d.sources[o.text.Path] = o
	case o.output != "":
		d.use(o.drv, o.output)
	default:
		d.addGraph(o.drv)
	}
}

func (d *dependencies) use(drv *derivation, output string) {
	if d.outputs[drv] == nil {
		d.outputs[drv] = map[string]bool{}
	}
	d.outputs[drv][output] = true
}

// addGraph is what the path of a derivation itself in a string means, as in
// Nix: the derivation, everything that it was made from, and all outputs of
// all of those.
func (d *dependencies) addGraph(root *derivation) {
	for _, drv := range reachable([]*derivation{root}) {
		d.sources[drv.path] = object{drv: drv}
		for _, o := range drv.expr.Outputs {
			d.use(drv, o.Name)
		}
		for p, o := range drv.sources {
			d.sources[p] = o
		}
	}
}

// inputs and sources are in the form and order of an expression.
func (d *dependencies) inputs() []storeexpr.Input {
	var ins []storeexpr.Input
	for drv, outputs := range d.outputs {
		in := storeexpr.Input{Path: drv.path}
		for o := range outputs {
			in.Outputs = append(in.Outputs, o)
		}
		slices.Sort(in.Outputs)
		ins = append(ins, in)
	}
	slices.SortFunc(ins, func(a, b storeexpr.Input) int { return cmp.Compare(a.Path, b.Path) })
	return ins
}

func (d *dependencies) sourcePaths() []store.Path { return sortedKeys(d.sources) }

// drvs are the derivations in d, those that are used as files too, by path.
func (d *dependencies) drvs() []*derivation {
	set := map[store.Path]*derivation{}
	for drv := range d.outputs {
		set[drv.path] = drv
	}
	var list []*derivation
	for _, p := range sortedKeys(set) {
		list = append(list, set[p])
	}
	return list
}

// reachable gives roots and all that they were made from, inputs first.
func reachable(roots []*derivation) []*derivation {
	var order []*derivation
	seen := map[*derivation]bool{}
	type step struct {
		drv  *derivation
		done bool // its inputs are in order
	}
	var stack []step
	for _, r := range slices.Backward(roots) {
		stack = append(stack, step{drv: r})
	}
	for len(stack) > 0 {
		s := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if s.done {
			order = append(order, s.drv)
			continue
		}
		if seen[s.drv] {
			continue
		}
		seen[s.drv] = true
		stack = append(stack, step{s.drv, true})
		for _, in := range slices.Backward(s.drv.inputs) {
			stack = append(stack, step{drv: in})
		}
	}
	return order
}

func sortedKeys[V any](m map[store.Path]V) []store.Path {
	keys := make([]store.Path, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// describe names an object in messages.
func (o object) describe() string {
	switch {
	case o.drv != nil && o.output == "":
		return "the derivation " + o.drv.name
	case o.drv != nil:
		return fmt.Sprintf("output %q of the derivation %s", o.output, o.drv.name)
	case o.source != nil:
		return "the source " + o.source.Name
	case o.placeholder != "":
		return fmt.Sprintf("placeholder(%q)", o.placeholder)
	}
	return "the text " + o.text.Name
}
