package builder

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"storefs/store"
)

// checks are what a derivation demands of one output.
type checks struct {
	maxSize, maxClosureSize *int64 // bytes of NARs
	ignoreSelfRefs          bool   // an output may be among its own requisites
	rules                   []referenceRule
}

// referenceRule is one of the four lists of paths and output names.
type referenceRule struct {
	name      string
	allowed   bool // nothing else may be referred to; otherwise, none of these
	recursive bool // of all requisites, not of direct references only
	list      []string
}

func referenceRules() []referenceRule {
	return []referenceRule{
		{name: "allowedReferences", allowed: true},
		{name: "allowedRequisites", allowed: true, recursive: true},
		{name: "disallowedReferences"},
		{name: "disallowedRequisites", recursive: true},
	}
}

// checkReferences holds the outputs to what the derivation allows.
func (b *build) checkReferences(outputs []Output) error {
	if err := checkCycles(outputs); err != nil {
		return err
	}
	for _, o := range outputs {
		c, err := b.checksOf(o)
		if err != nil {
			return err
		}
		if err := b.apply(c, o, outputs); err != nil {
			return err
		}
	}
	return nil
}

// checksOf reads the checks of one output: classic attributes are for all
// outputs, outputChecks of structured ones names them.
func (b *build) checksOf(o Output) (checks, error) {
	if b.attrs.structured != nil {
		all, _ := b.attrs.structured["outputChecks"].(map[string]any)
		own, _ := all[o.Name].(map[string]any)
		return structuredChecks(own)
	}
	c := checks{ignoreSelfRefs: true}
	for _, r := range referenceRules() {
		list, ok, err := b.attrs.words(r.name)
		if err != nil {
			return c, err
		}
		if ok {
			r.list = list
			c.rules = append(c.rules, r)
		}
	}
	return c, nil
}

func structuredChecks(own map[string]any) (checks, error) {
	var c checks
	for _, size := range []struct {
		name string
		to   **int64
	}{{"maxSize", &c.maxSize}, {"maxClosureSize", &c.maxClosureSize}} {
		v, ok := own[size.name]
		if !ok {
			continue
		}
		n, ok := v.(json.Number)
		if !ok {
			return c, fail(store.CauseExpr, "outputChecks: %s: not a number of bytes", size.name)
		}
		bytes := wholeBytes(n)
		*size.to = &bytes
	}
	c.ignoreSelfRefs, _ = own["ignoreSelfRefs"].(bool)
	for _, r := range referenceRules() {
		v, ok := own[r.name]
		if !ok {
			continue
		}
		list, err := looseList(v)
		if err != nil {
			return c, fail(store.CauseExpr, "outputChecks: %s: %v", r.name, err)
		}
		r.list = list
		c.rules = append(c.rules, r)
	}
	return c, nil
}

// wholeBytes takes a float, too, as Nix does, and what is too large for the largest.
func wholeBytes(n json.Number) int64 {
	if i, err := n.Int64(); err == nil {
		return i
	}
	f, _ := n.Float64() // see finite
	if f >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(f)
}

func (b *build) apply(c checks, o Output, outputs []Output) error {
	if c.maxSize != nil && o.Info.NarSize > *c.maxSize {
		return fail(store.CauseRefused, "output %s has %d bytes, and its derivation allows %d (maxSize)", o.Info.Path, o.Info.NarSize, *c.maxSize)
	}
	if c.maxClosureSize == nil && len(c.rules) == 0 {
		return nil
	}
	closure := b.closure([]store.Path{o.Info.Path}, outputs)
	if c.maxClosureSize != nil && closureSize(closure) > *c.maxClosureSize {
		return fail(store.CauseRefused, "the closure of output %s has %d bytes, and its derivation allows %d (maxClosureSize)",
			o.Info.Path, closureSize(closure), *c.maxClosureSize)
	}
	for _, r := range c.rules {
		listed, err := b.listed(r, outputs)
		if err != nil {
			return err
		}
		used := o.Info.References
		if r.recursive {
			used = nil
			for _, info := range closure {
				if info.Path != o.Info.Path || !c.ignoreSelfRefs {
					used = append(used, info.Path)
				}
			}
		}
		var bad []string
		for _, p := range used {
			if slices.Contains(listed, p) != r.allowed {
				bad = append(bad, string(p))
			}
		}
		if len(bad) > 0 {
			return fail(store.CauseRefused, "output %s must not refer to %s (%s)", o.Info.Path, strings.Join(bad, ", "), r.name)
		}
	}
	return nil
}

// listed are the paths that a rule names: store paths, or outputs by name.
func (b *build) listed(r referenceRule, outputs []Output) ([]store.Path, error) {
	var paths []store.Path
next:
	for _, s := range r.list {
		for _, o := range outputs {
			if o.Name == s && s != "" {
				paths = append(paths, o.Info.Path)
				continue next
			}
		}
		p, err := b.opts.Store.Parse(s)
		if err != nil {
			return nil, fail(store.CauseExpr, "%s: %q is neither an output nor a store path", r.name, s)
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// checkCycles: outputs that need each other could never be registered or
// deleted one after the other.
func checkCycles(outputs []Output) error {
	const (
		open = iota + 1
		done
	)
	at := make(map[store.Path]int, len(outputs))
	for i, o := range outputs {
		at[o.Info.Path] = i
	}
	state := make(map[store.Path]int, len(outputs))
	var visit func(o Output, from []string) error
	visit = func(o Output, from []string) error {
		from = append(from, string(o.Info.Path))
		switch state[o.Info.Path] {
		case done:
			return nil
		case open:
			return fail(store.CauseCycle, "its outputs refer to each other: %s", strings.Join(from, " → "))
		}
		state[o.Info.Path] = open
		for _, r := range o.Info.References {
			i, ok := at[r]
			if !ok || r == o.Info.Path {
				continue
			}
			if err := visit(outputs[i], from); err != nil {
				return err
			}
		}
		state[o.Info.Path] = done
		return nil
	}
	for _, o := range outputs {
		if err := visit(o, nil); err != nil {
			return err
		}
	}
	return nil
}

func describeKind(k store.Kind) string {
	switch k {
	case store.KindRegular:
		return "a file that cannot be executed"
	case store.KindExecutable:
		return "an executable file"
	case store.KindSymlink:
		return "a symbolic link"
	case store.KindDirectory:
		return "a directory"
	}
	return fmt.Sprintf("of the kind %q", string(k))
}
