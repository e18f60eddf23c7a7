package storeexpr

import (
	"errors"
	"fmt"
	"strings"

	"storefs/store"
)

// Content is what a fixed output promises: the hash of one file, or of a NAR
// where recursive says so.
func (o Output) Content() (h store.Hash, recursive bool, err error) {
	algo, recursive := strings.CutPrefix(o.Algo, "r:")
	h, err = store.ParseDigest(store.Algo(algo), o.Hash)
	if err == nil && h.Base16() != o.Hash {
		// Another spelling would make another .drv of the same content.
		err = fmt.Errorf("hash %q: not in base 16, in lower case", o.Hash)
	}
	return h, recursive, err
}

// Placeholder is what stands for the path of the output called name in the arguments and
// the environment of the derivation that makes it, which have no influence on that path: what
// builtins.placeholder gives in the Nix language.
func Placeholder(name string) string {
	return "/" + store.HashOf(store.SHA256, []byte("nix-output:"+name)).Base32()
}

// unsupported says why o is of a kind that cannot be made here: its path is
// known only after the build, or from elsewhere.
func (o Output) unsupported() error {
	switch {
	case o.Hash == "impure":
		return fmt.Errorf("output %q is impure, which is not supported", o.Name)
	case o.Algo != "" && o.Hash == "":
		return fmt.Errorf("output %q is floating content-addressed, which is not supported", o.Name)
	case o.Path == "":
		return fmt.Errorf("output %q has no path: it depends on how something else is built, which is not supported", o.Name)
	}
	return nil
}

// fixedPath computes the path of a fixed output.
func (o Output) fixedPath(dir store.Dir, name string) (store.Path, error) {
	h, recursive, err := o.Content()
	if err != nil {
		return "", err
	}
	return store.FixedPath(dir, recursive, h, name, nil, false)
}

// OutputPaths computes where the outputs of the derivation called name (without
// ".drv") belong in dir, by output name. The paths that are in d now have no
// influence.
func (d *Derivation) OutputPaths(dir store.Dir, name string, inputs func(store.Path) (Modulo, error)) (map[string]store.Path, error) {
	paths := make(map[string]store.Path, len(d.Outputs))
	if o, ok := d.Fixed(); ok {
		if o.Name != "out" {
			return nil, fmt.Errorf("fixed output %q: only \"out\" can be fixed: %w", o.Name, store.ErrBadExpr)
		}
		p, err := o.fixedPath(dir, name)
		if err != nil {
			return nil, fmt.Errorf("fixed output of %q: %w", name, badExpr(err))
		}
		paths[o.Name] = p
		return paths, nil
	}
	h, err := d.hash(true, inputs)
	if err != nil {
		return nil, err
	}
	for _, o := range d.Outputs {
		if o.Algo != "" || o.Hash != "" {
			return nil, fmt.Errorf("output %q has a hash but is not the only output: %w", o.Name, store.ErrBadExpr)
		}
		p, err := store.OutputPath(dir, o.Name, h, name)
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", o.Name, err)
		}
		paths[o.Name] = p
	}
	return paths, nil
}

// FillOutputs computes the output paths and puts them into the outputs and into
// the variables that are named like them, which it adds where they are missing. After an
// error they may be without a value.
func (d *Derivation) FillOutputs(dir store.Dir, name string, inputs func(store.Path) (Modulo, error)) error {
	// The variables are part of what is hashed, with no value.
	for _, o := range d.Outputs {
		d.setEnv(o.Name, "")
	}
	paths, err := d.OutputPaths(dir, name, inputs)
	if err != nil {
		return err
	}
	for i := range d.Outputs {
		o := &d.Outputs[i]
		o.Path = paths[o.Name]
		d.setEnv(o.Name, string(o.Path))
	}
	return nil
}

// CheckOutputs says which output, or which variable named like an output, does
// not have the path that it should have. The outputs of 2004 are what their
// derivation says.
func (d *Derivation) CheckOutputs(dir store.Dir, name string, inputs func(store.Path) (Modulo, error)) error {
	if d.Form == Form2004 {
		return nil
	}
	for _, o := range d.Outputs {
		// The builder learns from it where to write. It is hashed by its
		// name, so that without it no output path would be right.
		if _, ok := d.Getenv(o.Name); !ok {
			return fmt.Errorf("%q has no variable for its output %q: %w", name, o.Name, store.ErrBadExpr)
		}
	}
	paths, err := d.OutputPaths(dir, name, inputs)
	if err != nil {
		return err
	}
	for _, o := range d.Outputs {
		want := paths[o.Name]
		if o.Path != want {
			return fmt.Errorf("output %q of %q is %s, should be %s: %w", o.Name, name, o.Path, want, store.ErrBadExpr)
		}
		if have, _ := d.Getenv(o.Name); have != string(want) {
			return fmt.Errorf("variable %q of %q is %q, should be %s: %w", o.Name, name, have, want, store.ErrBadExpr)
		}
	}
	return nil
}

// badExpr makes err one of store.ErrBadExpr, if it is not yet.
func badExpr(err error) error {
	if errors.Is(err, store.ErrBadExpr) {
		return err
	}
	return fmt.Errorf("%w: %w", err, store.ErrBadExpr)
}
