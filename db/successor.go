package db

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"storefs/store"
)

// Successor is the normal form of expr, if one is registered.
func (d *DB) Successor(expr store.Path) (store.Path, bool, error) {
	base, err := d.base(expr)
	if err != nil {
		return "", false, err
	}
	var out store.Path
	err = d.view(func(tx reader) error {
		if v := tx.get(bucketSuccessors, base); v != nil {
			out = d.join(string(v))
		}
		return nil
	})
	return out, out != "", err
}

// Predecessors are the expressions whose normal form is closure, sorted.
func (d *DB) Predecessors(closure store.Path) ([]store.Path, error) {
	return d.seconds(bucketPredecessors, closure)
}

// putSuccessor replaces an earlier normal form of expr: one of them was the
// result of a build whose outputs are gone. If it is fresh, there is none.
func putSuccessor(w writer, expr, closure string, fresh bool) error {
	var old []byte
	if !fresh {
		old = w.get(bucketSuccessors, expr)
	}
	if old != nil {
		if string(old) == closure {
			return nil
		}
		if err := w.del(bucketPredecessors, pair(string(old), expr)); err != nil {
			return err
		}
	}
	if err := w.put(bucketSuccessors, expr, []byte(closure)); err != nil {
		return err
	}
	return w.putPair(bucketPredecessors, closure, expr)
}

// Substitutes are the expressions that can yield p, newest first.
func (d *DB) Substitutes(p store.Path) ([]store.Path, error) {
	base, err := d.base(p)
	if err != nil {
		return nil, err
	}
	var out []store.Path
	err = d.view(func(tx reader) error {
		for _, b := range splitLines(tx.get(bucketSubstitutes, base)) {
			out = append(out, d.join(b))
		}
		return nil
	})
	return out, err
}

// SubstituteFor are the paths that expr can yield, sorted.
func (d *DB) SubstituteFor(expr store.Path) ([]store.Path, error) {
	return d.seconds(bucketSubstituteOf, expr)
}

// AddSubstitute makes expr the first substitute of p; one that is known already
// moves to the front. expr must be valid.
func (d *DB) AddSubstitute(ctx context.Context, p, expr store.Path) error {
	return d.changeSubstitutes(ctx, "add", p, expr, func(w writer, sub string, list []string) ([]string, error) {
		if !w.has(bucketValid, sub) {
			return nil, store.ErrNotValid
		}
		list = slices.DeleteFunc(list, func(s string) bool { return s == sub })
		return append([]string{sub}, list...), nil
	})
}

// RemoveSubstitute forgets that expr can yield p. The error wraps
// store.ErrUnknown if that was not known.
func (d *DB) RemoveSubstitute(ctx context.Context, p, expr store.Path) error {
	return d.changeSubstitutes(ctx, "remove", p, expr, func(_ writer, sub string, list []string) ([]string, error) {
		i := slices.Index(list, sub)
		if i < 0 {
			return nil, store.ErrUnknown
		}
		return slices.Delete(list, i, i+1), nil
	})
}

func (d *DB) changeSubstitutes(ctx context.Context, verb string, p, expr store.Path,
	change func(w writer, sub string, list []string) ([]string, error),
) error {
	both, err := d.bases([]store.Path{p, expr})
	if err == nil {
		base, sub := both[0], both[1]
		err = d.update(ctx, false, func(w writer) error {
			list, err := change(w, sub, splitLines(w.get(bucketSubstitutes, base)))
			if err != nil {
				return err
			}
			return w.putSubstitutes(base, sub, list)
		})
	}
	if err != nil {
		return fmt.Errorf("%s substitute %s of %s: %w", verb, expr, p, err)
	}
	return nil
}

// putSubstitutes writes the list of base, and the reverse entry of sub, which
// was put in or taken out.
func (w writer) putSubstitutes(base, sub string, list []string) error {
	var err error
	if len(list) == 0 {
		err = w.del(bucketSubstitutes, base)
	} else {
		err = w.put(bucketSubstitutes, base, []byte(strings.Join(list, "\n")))
	}
	if err != nil {
		return err
	}
	if slices.Contains(list, sub) {
		return w.putPair(bucketSubstituteOf, sub, base)
	}
	return w.del(bucketSubstituteOf, pair(sub, base))
}
