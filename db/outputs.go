package db

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"storefs/store"
)

// KnownOutput is an output that Drv, a derivation in the store, makes.
type KnownOutput struct {
	Path store.Path
	Drv  store.Path
	Name string // "out", …; "" for derivations of 2004
	// Kind is what it is declared to be; KindUnknown leaves an earlier
	// declaration as it is.
	Kind store.Kind
}

// Known is what is known of a path that may not be valid.
type Known struct {
	Drv    store.Path // the derivation that made it known last
	Output string     // its name there
	// Kind is what it is or will be, as far as can be told: what it was declared
	// to be or, failing that, what it is or was when it was last valid.
	Kind store.Kind
	// Declared is what it must be, KindUnknown if nobody said so.
	Declared store.Kind
}

// Modulo is the hashes of a derivation, modulo fixed outputs, by output name.
type Modulo struct {
	Drv    store.Path
	Hashes map[string]store.Hash
}

// Known tells how output can be made. The error wraps store.ErrUnknown if no
// known derivation has it.
func (d *DB) Known(output store.Path) (Known, error) {
	var k Known
	base, err := d.base(output)
	if err == nil {
		err = d.view(func(tx reader) error {
			v := tx.get(bucketOutputs, base)
			if v == nil {
				return store.ErrUnknown
			}
			drv, name, _ := strings.Cut(string(v), "\x00")
			k = Known{Drv: d.join(drv), Output: name, Declared: tx.kind(bucketDeclared, base)}
			k.Kind = k.Declared
			for _, b := range []bucketID{bucketValid, bucketKinds} {
				if k.Kind == store.KindUnknown {
					k.Kind = tx.kind(b, base)
				}
			}
			return nil
		})
	}
	if err != nil {
		return Known{}, fmt.Errorf("look up %s: %w", output, err)
	}
	return k, nil
}

// kind is the first byte of what base maps to, in the buckets of kinds as well
// as in that of valid paths.
func (r reader) kind(bucket bucketID, base string) store.Kind {
	v := r.get(bucket, base)
	if len(v) == 0 {
		return store.KindUnknown
	}
	return kindOf(v[0])
}

// Derivers are the known derivations that have output, sorted.
func (d *DB) Derivers(output store.Path) ([]store.Path, error) {
	return d.seconds(bucketDerivers, output)
}

// Outputs are the outputs of drv that are known, sorted by path. Kind is what
// each is declared to be.
func (d *DB) Outputs(drv store.Path) ([]KnownOutput, error) {
	base, err := d.base(drv)
	if err != nil {
		return nil, err
	}
	var out []KnownOutput
	err = d.view(func(tx reader) error {
		tx.pairs(bucketDrvOutputs, base, func(o string, name []byte) bool {
			out = append(out, KnownOutput{Path: d.join(o), Drv: drv, Name: string(name), Kind: tx.kind(bucketDeclared, o)})
			return true
		})
		return nil
	})
	return out, err
}

// Declaration is a derivation, with what each of its outputs, by name, is declared to
// be.
type Declaration struct {
	Drv   store.Path
	Kinds map[string]store.Kind
}

// NotDeclared gives those of declared that a registration would change something of:
// what is not valid, or has other outputs, or outputs that were declared otherwise, or by
// another derivation since.
func (d *DB) NotDeclared(declared []Declaration) ([]store.Path, error) {
	var out []store.Path
	err := d.view(func(tx reader) error {
		for _, x := range declared {
			base, err := d.base(x.Drv)
			if err != nil {
				return err
			}
			if !tx.has(bucketValid, base) || !tx.declares(base, x.Kinds) {
				out = append(out, x.Drv)
			}
		}
		return nil
	})
	return out, err
}

// declares reports whether the outputs of drv are known to be just those of kinds.
func (r reader) declares(drv string, kinds map[string]store.Kind) bool {
	n, same := 0, true
	r.pairs(bucketDrvOutputs, drv, func(o string, name []byte) bool {
		kind, ok := kinds[string(name)]
		n++
		same = ok && r.kind(bucketDeclared, o) == kind && string(r.get(bucketOutputs, o)) == pair(drv, string(name))
		return same
	})
	return same && n == len(kinds)
}

// Realised gives all outputs of drv, sorted by name, if all are valid and drv has
// a successor. ok is false too if that cannot be told without the text of drv.
func (d *DB) Realised(drv store.Path) (outputs []store.Path, ok bool, err error) {
	base, err := d.base(drv)
	if err != nil {
		return nil, false, err
	}
	var names []string
	err = d.view(func(tx reader) error {
		if !tx.has(bucketSuccessors, base) || !tx.has(bucketValid, base) {
			return nil
		}
		ok = true
		tx.pairs(bucketDrvOutputs, base, func(o string, name []byte) bool {
			// Those of 2004 have no names.
			if ok = len(name) > 0 && tx.has(bucketValid, o); ok {
				i, _ := slices.BinarySearch(names, string(name))
				names = slices.Insert(names, i, string(name))
				outputs = slices.Insert(outputs, i, d.join(o))
			}
			return ok
		})
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("look up %s: %w", drv, err)
	}
	if !ok || len(outputs) == 0 {
		return nil, false, nil
	}
	return outputs, true, nil
}

// Modulo gives the hashes with which drv was registered. The error wraps
// store.ErrNotValid if it was not.
func (d *DB) Modulo(drv store.Path) (map[string]store.Hash, error) {
	base, err := d.base(drv)
	if err != nil {
		return nil, err
	}
	var out map[string]store.Hash
	err = d.view(func(tx reader) error {
		v := tx.get(bucketModulo, base)
		if v == nil {
			return store.ErrNotValid
		}
		var err error
		out, err = decodeModulo(base, v)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", drv, err)
	}
	return out, nil
}

type plannedOutput struct {
	base, drv, name string
	kind            byte
}

type plannedModulo struct {
	drv   string
	value []byte
}

func (d *DB) planOutputs(outputs []KnownOutput) ([]plannedOutput, error) {
	var out []plannedOutput
	for _, o := range outputs {
		base, err := d.base(o.Path)
		if err != nil {
			return nil, err
		}
		drv, err := d.base(o.Drv)
		if err != nil {
			return nil, err
		}
		kind, err := kindCode(o.Kind)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.Path, err)
		}
		out = append(out, plannedOutput{base, drv, o.Name, kind})
	}
	return out, nil
}

func (d *DB) planModulos(modulos []Modulo) ([]plannedModulo, error) {
	var out []plannedModulo
	for _, m := range modulos {
		drv, err := d.base(m.Drv)
		if err != nil {
			return nil, err
		}
		out = append(out, plannedModulo{drv, encodeModulo(m.Hashes)})
	}
	return out, nil
}

func putOutput(w writer, o plannedOutput) error {
	if err := w.set(bucketOutputs, o.base, pair(o.drv, o.name)); err != nil {
		return err
	}
	if err := w.set(bucketDerivers, pair(o.base, o.drv), o.name); err != nil {
		return err
	}
	if err := w.set(bucketDrvOutputs, pair(o.drv, o.base), o.name); err != nil {
		return err
	}
	if o.kind == 0 {
		return nil
	}
	return w.set(bucketDeclared, o.base, string([]byte{o.kind}))
}

// set writes what is not so already.
func (w writer) set(bucket bucketID, key, value string) error {
	if old := w.get(bucket, key); old != nil && string(old) == value {
		return nil
	}
	return w.put(bucket, key, []byte(value))
}

func encodeModulo(m map[string]store.Hash) []byte {
	b := binary.AppendUvarint(nil, uint64(len(m)))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		b = appendString(b, name)
		b = appendString(b, string(m[name].Algo))
		b = appendString(b, m[name].Sum)
	}
	return b
}

func decodeModulo(base string, b []byte) (map[string]store.Hash, error) {
	c := decoder{b: b}
	m := make(map[string]store.Hash)
	for n := c.uint(); n > 0 && !c.bad; n-- {
		name := c.string()
		m[name] = store.Hash{Algo: store.Algo(c.string()), Sum: c.string()}
	}
	if c.bad || len(c.b) > 0 {
		return nil, fmt.Errorf("the hashes of %s: %w", base, ErrDamaged)
	}
	return m, nil
}
