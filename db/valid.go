package db

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"storefs/store"
)

// Entry is one line of a listing.
type Entry struct {
	Name string // base name
	Kind store.Kind
}

// Info is what is known of a valid path; otherwise the error wraps
// store.ErrNotValid.
func (d *DB) Info(p store.Path) (store.Info, error) {
	var i store.Info
	base, err := d.base(p)
	if err == nil {
		err = d.view(func(tx reader) error {
			r, err := tx.record(base)
			if err == nil {
				i = d.info(base, r)
			}
			return err
		})
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("look up %s: %w", p, err)
	}
	return i, nil
}

// record of a valid path, or store.ErrNotValid.
func (r reader) record(base string) (record, error) {
	v := r.get(bucketValid, base)
	if v == nil {
		return record{}, store.ErrNotValid
	}
	return decodeRecord(base, v)
}

// Valid reports whether p is registered.
func (d *DB) Valid(p store.Path) (bool, error) {
	base, err := d.base(p)
	if err != nil {
		return false, err
	}
	var ok bool
	err = d.view(func(tx reader) error {
		ok = tx.has(bucketValid, base)
		return nil
	})
	return ok, err
}

// NotValid gives those of names (base names) that are not valid, in the same
// order.
func (d *DB) NotValid(names []string) ([]string, error) {
	var out []string
	err := d.view(func(tx reader) error {
		for _, n := range names {
			if !tx.has(bucketValid, n) {
				out = append(out, n)
			}
		}
		return nil
	})
	return out, err
}

// Names lists at most n valid paths in byte order of their base names, starting
// behind after ("" for the beginning).
func (d *DB) Names(after string, n int) ([]Entry, error) {
	var out []Entry
	err := d.view(func(tx reader) error {
		c := tx.cursor(bucketValid)
		k, v := c.seek([]byte(after))
		if k != nil && bytes.Equal(k, []byte(after)) {
			k, v = c.next()
		}
		for ; k != nil && len(out) < n; k, v = c.next() {
			e := Entry{Name: string(k)}
			if len(v) > 0 {
				e.Kind = kindOf(v[0])
			}
			out = append(out, e)
		}
		return nil
	})
	return out, err
}

// Count is the number of valid paths.
func (d *DB) Count() (int, error) {
	var n uint64
	err := d.view(func(tx reader) error {
		n, _ = tx.uint(bucketMeta, keyCount)
		return nil
	})
	return int(n), err
}

// Referrers are the valid paths that refer to p, sorted; p itself among them if
// it refers to itself.
func (d *DB) Referrers(p store.Path) ([]store.Path, error) { return d.seconds(bucketReferrers, p) }

// seconds gives the other halves of p's pairs, as paths.
func (d *DB) seconds(bucket bucketID, p store.Path) ([]store.Path, error) {
	base, err := d.base(p)
	if err != nil {
		return nil, err
	}
	var out []store.Path
	err = d.view(func(tx reader) error {
		for _, s := range tx.seconds(bucket, base) {
			out = append(out, d.join(s))
		}
		return nil
	})
	return out, err
}

// Requisites are paths and everything that they refer to, directly or not,
// sorted by path. The error wraps store.ErrNotValid if one of paths is not
// valid, and names it.
func (d *DB) Requisites(paths []store.Path) ([]store.Info, error) {
	return d.RequisitesWith(paths, func(store.Path) (store.Info, bool) { return store.Info{}, false })
}

// RequisitesWith is Requisites for paths of which some are not valid yet: what is
// known of those, others says.
func (d *DB) RequisitesWith(paths []store.Path, others func(store.Path) (store.Info, bool)) ([]store.Info, error) {
	bases, err := d.bases(paths)
	if err != nil {
		return nil, err
	}
	var out []store.Info
	err = d.view(func(tx reader) error {
		seen := make(map[string]bool, 2*len(bases))
		todo := make([]string, 0, 2*len(bases))
		add := func(b string) {
			if !seen[b] {
				seen[b] = true
				todo = append(todo, b)
			}
		}
		for _, b := range bases {
			add(b)
		}
		for len(todo) > 0 {
			b := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			r, err := tx.record(b)
			if errors.Is(err, store.ErrNotValid) {
				if i, ok := others(d.join(b)); ok {
					r, err = d.record(i)
				}
			}
			if err != nil {
				return fmt.Errorf("look up %s: %w", d.join(b), err)
			}
			out = append(out, d.info(b, r))
			for _, ref := range r.references {
				add(ref)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b store.Info) int { return cmp.Compare(a.Path, b.Path) })
	return out, nil
}
