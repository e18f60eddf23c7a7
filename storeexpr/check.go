package storeexpr

import (
	"fmt"
	"slices"
	"strings"

	"storefs/store"
)

// Check reports whether the derivation called name (without ".drv" or ".store")
// holds together in the store at dir: everything that it names is well formed
// and in dir, and what a builder needs is there. Errors wrap store.ErrBadExpr.
// Whether its output paths are those that they should be is for CheckOutputs to
// say, which needs the inputs.
func (d *Derivation) Check(dir store.Dir, name string) error {
	suffix := ".drv"
	if d.Form == Form2004 {
		suffix = ".store"
	}
	err := store.CheckName(name) // ".drv" alone would do for a name
	if err == nil {
		err = store.CheckName(name + suffix)
	}
	if err == nil {
		err = d.checkOutputs(dir, name)
	}
	if err == nil {
		err = d.checkInputs(dir)
	}
	if err == nil {
		err = d.checkBuilder()
	}
	if err != nil {
		return fmt.Errorf("derivation %q: %w", name, badExpr(err))
	}
	return nil
}

func (d *Derivation) checkOutputs(dir store.Dir, name string) error {
	if len(d.Outputs) == 0 {
		return fmt.Errorf("it has no outputs: %w", store.ErrBadExpr)
	}
	if err := inOrder("outputs", d.Outputs, d.outputKey); err != nil {
		return err
	}
	for _, o := range d.Outputs {
		if err := d.checkOutput(dir, name, o); err != nil {
			return err
		}
	}
	return nil
}

// outputKey is what the outputs are sorted by.
func (d *Derivation) outputKey(o Output) string {
	if d.Form == Form2004 {
		return string(o.Path)
	}
	return o.Name
}

func (d *Derivation) checkOutput(dir store.Dir, name string, o Output) error {
	if d.Form == Form2004 {
		if o.Name != "" || o.Algo != "" || o.Hash != "" {
			return fmt.Errorf("output %s: outputs of 2004 have a path only: %w", o.Path, store.ErrBadExpr)
		}
		_, err := dir.Parse(string(o.Path))
		return err
	}
	// "drv" would read as the derivation itself where outputs are selected
	// by name; Nix refuses it too.
	if o.Name == "" || o.Name == "drv" {
		return fmt.Errorf("%q cannot be the name of an output: %w", o.Name, store.ErrBadExpr)
	}
	if err := store.CheckName(name + "-" + o.Name); err != nil {
		return fmt.Errorf("output %q: %w", o.Name, err)
	}
	if err := o.unsupported(); err != nil {
		return err
	}
	if o.Algo != "" || o.Hash != "" {
		if o.Name != "out" || len(d.Outputs) != 1 {
			return fmt.Errorf("output %q: a fixed output must be the only one and be called \"out\": %w", o.Name, store.ErrBadExpr)
		}
		if _, _, err := o.Content(); err != nil {
			return fmt.Errorf("output %q: %w", o.Name, err)
		}
	}
	if _, err := dir.Parse(string(o.Path)); err != nil {
		return fmt.Errorf("output %q: %w", o.Name, err)
	}
	return nil
}

func (d *Derivation) checkInputs(dir store.Dir) error {
	if err := inOrder("inputs", d.Inputs, func(in Input) string { return string(in.Path) }); err != nil {
		return err
	}
	for _, in := range d.Inputs {
		if _, err := dir.Parse(string(in.Path)); err != nil {
			return fmt.Errorf("input: %w", err)
		}
		if d.Form == Form2004 {
			if len(in.Outputs) > 0 {
				return fmt.Errorf("input %s: inputs of 2004 select no outputs: %w", in.Path, store.ErrBadExpr)
			}
			continue
		}
		if !in.Path.IsDerivation() {
			return fmt.Errorf("input %s is not a derivation: %w", in.Path, store.ErrBadExpr)
		}
		if len(in.Outputs) == 0 {
			return fmt.Errorf("input %s: none of its outputs is used: %w", in.Path, store.ErrBadExpr)
		}
		if err := inOrder("used outputs", in.Outputs, func(s string) string { return s }); err != nil {
			return fmt.Errorf("input %s: %w", in.Path, err)
		}
	}
	if d.Form == Form2004 && len(d.Sources) > 0 {
		return fmt.Errorf("source %s: in 2004 a source is used through a closure: %w", d.Sources[0], store.ErrBadExpr)
	}
	if err := checkPaths(dir, "sources", d.Sources); err != nil {
		return err
	}
	return nil
}

// checkBuilder: execve takes neither an empty program nor a NUL in a string.
func (d *Derivation) checkBuilder() error {
	switch {
	case d.Platform == "":
		return fmt.Errorf("it names no platform: %w", store.ErrBadExpr)
	case d.Builder == "":
		return fmt.Errorf("it names no builder: %w", store.ErrBadExpr)
	case strings.ContainsRune(d.Platform, 0):
		return fmt.Errorf("the platform %q contains a NUL: %w", d.Platform, store.ErrBadExpr)
	case strings.ContainsRune(d.Builder, 0):
		return fmt.Errorf("the builder %q contains a NUL: %w", d.Builder, store.ErrBadExpr)
	}
	for i, a := range d.Args {
		if strings.ContainsRune(a, 0) {
			return fmt.Errorf("argument %d contains a NUL: %w", i+1, store.ErrBadExpr)
		}
	}
	for _, v := range d.Env {
		if strings.ContainsRune(v.Name, 0) || strings.ContainsRune(v.Value, 0) {
			return fmt.Errorf("variable %q contains a NUL: %w", v.Name, store.ErrBadExpr)
		}
	}
	return inOrder("variables", d.Env, func(v EnvVar) string { return v.Name })
}

// Check reports whether the closure holds together in the store at dir: it has
// roots, and roots and references are elements of it. Errors wrap
// store.ErrBadExpr.
func (c *Closure) Check(dir store.Dir) error {
	if err := c.check(dir); err != nil {
		return fmt.Errorf("closure: %w", badExpr(err))
	}
	return nil
}

func (c *Closure) check(dir store.Dir) error {
	if len(c.Roots) == 0 {
		return fmt.Errorf("it has no roots: %w", store.ErrBadExpr)
	}
	if err := checkPaths(dir, "roots", c.Roots); err != nil {
		return err
	}
	if err := inOrder("elements", c.Elements, func(e Element) string { return string(e.Path) }); err != nil {
		return err
	}
	for _, r := range c.Roots {
		if !c.Has(r) {
			return fmt.Errorf("the root %s is not an element: %w", r, store.ErrBadExpr)
		}
	}
	for _, e := range c.Elements {
		if err := checkPaths(dir, "references", e.References); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		if _, err := dir.Parse(string(e.Path)); err != nil {
			return err
		}
		for _, r := range e.References {
			if !c.Has(r) {
				return fmt.Errorf("%s refers to %s, which is not an element: %w", e.Path, r, store.ErrBadExpr)
			}
		}
	}
	return nil
}

// checkPaths reports whether paths are in dir, sorted and without duplicates.
func checkPaths(dir store.Dir, what string, paths []store.Path) error {
	for _, p := range paths {
		if _, err := dir.Parse(string(p)); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return inOrder(what, paths, func(p store.Path) string { return string(p) })
}

// inOrder reports whether set is sorted and without duplicates, which the
// canonical text depends on.
func inOrder[T any](what string, set []T, key func(T) string) error {
	for i := 1; i < len(set); i++ {
		switch a, b := key(set[i-1]), key(set[i]); {
		case a == b:
			return fmt.Errorf("%s: %q occurs twice: %w", what, a, store.ErrBadExpr)
		case a > b:
			return fmt.Errorf("%s: %q stands before %q: %w", what, a, b, store.ErrBadExpr)
		}
	}
	return nil
}

// Has reports whether p is an element.
func (c *Closure) Has(p store.Path) bool {
	_, ok := slices.BinarySearchFunc(c.Elements, p, func(e Element, p store.Path) int { return strings.Compare(string(e.Path), string(p)) })
	return ok
}
