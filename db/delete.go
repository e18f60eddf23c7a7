package db

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"storefs/store"
)

// Delete makes paths invalid, all in one transaction, and returns everything
// that it made invalid, sorted: paths, and the closure expressions that were
// only normal forms of what is deleted. Their derivations stay, and so do the
// outputs that are known through them: they can be realised again.
//
// The error wraps store.ErrNotValid, or store.ErrReferenced with the path that
// refers to one of paths and is not among what is deleted.
func (d *DB) Delete(ctx context.Context, paths ...store.Path) ([]store.Path, error) {
	bases, err := d.bases(paths)
	if err != nil {
		return nil, fmt.Errorf("delete: %w", err)
	}
	var deleted []store.Path
	err = d.update(ctx, false, func(w writer) error {
		doomed, err := d.doom(w.reader, bases)
		if err != nil {
			return err
		}
		deleted = deleted[:0]
		for _, b := range doomed {
			if err := w.dropPath(b); err != nil {
				return err
			}
			deleted = append(deleted, d.join(b))
		}
		w.batch.valid -= len(doomed)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("delete: %w", err)
	}
	d.unwritten.forget(bases)
	return deleted, nil
}

// doom is what goes when bases go, sorted: they, and the normal forms that stand
// or fall with them. Nothing that stays may refer to something that goes.
func (d *DB) doom(tx reader, bases []string) ([]string, error) {
	set := make(map[string]bool, len(bases))
	todo := slices.Clone(bases)
	for _, b := range bases {
		if !tx.has(bucketValid, b) {
			return nil, fmt.Errorf("%s: %w", d.join(b), store.ErrNotValid)
		}
		set[b] = true
	}
	add := func(b string) {
		if !set[b] {
			set[b] = true
			todo = append(todo, b)
		}
	}
	for len(todo) > 0 {
		b := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, r := range tx.seconds(bucketReferrers, b) {
			if tx.isNormalForm(r) {
				add(r)
			}
		}
		// The normal form of a derivation that goes goes too, unless it is
		// another's as well or something refers to it.
		if c := string(tx.get(bucketSuccessors, b)); c != "" && tx.has(bucketValid, c) {
			others := slices.DeleteFunc(tx.seconds(bucketPredecessors, c), func(p string) bool { return set[p] })
			if len(others) == 0 && len(tx.seconds(bucketReferrers, c)) == 0 {
				add(c)
			}
		}
	}
	var out []string
	for b := range set {
		for _, r := range tx.seconds(bucketReferrers, b) {
			if !set[r] {
				return nil, fmt.Errorf("%s: %w by %s", d.join(b), store.ErrReferenced, d.join(r))
			}
		}
		out = append(out, b)
	}
	slices.Sort(out)
	return out, nil
}

func (r reader) isNormalForm(base string) bool {
	found := false
	r.pairs(bucketPredecessors, base, func(string, []byte) bool {
		found = true
		return false
	})
	return found
}

// dropPath deletes base and what is said of it as a valid path or as an
// expression. What is said of it as an output that can be made stays.
func (w writer) dropPath(base string) error {
	rec, err := w.record(base)
	if err != nil {
		return err
	}
	for _, ref := range rec.references {
		if err := w.del(bucketReferrers, pair(ref, base)); err != nil {
			return err
		}
	}
	// As a normal form …
	for _, expr := range w.seconds(bucketPredecessors, base) {
		if err := w.del(bucketPredecessors, pair(base, expr)); err != nil {
			return err
		}
		if err := w.del(bucketSuccessors, expr); err != nil {
			return err
		}
	}
	// … as an expression that has one …
	if c := string(w.get(bucketSuccessors, base)); c != "" {
		if err := w.del(bucketPredecessors, pair(c, base)); err != nil {
			return err
		}
		if err := w.del(bucketSuccessors, base); err != nil {
			return err
		}
	}
	// … that is a substitute …
	for _, p := range w.seconds(bucketSubstituteOf, base) {
		list := slices.DeleteFunc(splitLines(w.get(bucketSubstitutes, p)), func(s string) bool { return s == base })
		if err := w.putSubstitutes(p, base, list); err != nil {
			return err
		}
	}
	// … and that has outputs.
	if err := w.dropOutputs(base); err != nil {
		return err
	}
	// If a derivation comes back, how long its name took says as much as its own time.
	for _, b := range []bucketID{bucketModulo, bucketUse, bucketFailures, bucketDamaged, bucketDurations} {
		if err := w.forget(b, base); err != nil {
			return err
		}
	}
	// The kind of what can be made again is worth keeping.
	if w.has(bucketOutputs, base) && rec.kind != 0 {
		if err := w.put(bucketKinds, base, []byte{rec.kind}); err != nil {
			return err
		}
	}
	return w.del(bucketValid, base)
}

// dropOutputs forgets that drv makes its outputs: another derivation that makes
// one takes its place, or it is not known any more.
func (w writer) dropOutputs(drv string) error {
	for _, o := range w.seconds(bucketDrvOutputs, drv) {
		if err := w.del(bucketDrvOutputs, pair(drv, o)); err != nil {
			return err
		}
		if err := w.del(bucketDerivers, pair(o, drv)); err != nil {
			return err
		}
		if cur, _, _ := strings.Cut(string(w.get(bucketOutputs, o)), "\x00"); cur != drv {
			continue
		}
		var other string
		w.pairs(bucketDerivers, o, func(d string, name []byte) bool {
			other = pair(d, string(name))
			return false
		})
		if other != "" {
			if err := w.put(bucketOutputs, o, []byte(other)); err != nil {
				return err
			}
			continue
		}
		for _, b := range []bucketID{bucketOutputs, bucketDeclared, bucketKinds} {
			if err := w.forget(b, o); err != nil {
				return err
			}
		}
	}
	return nil
}
