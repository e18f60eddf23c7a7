package db

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"time"

	"storefs/store"
)

// Expected is how long the builder of drv took the last time; if it never ran,
// that of the last derivation of the same name or, failing that, of the same
// name without its version: a new version takes about as long as its elder.
func (d *DB) Expected(drv store.Path) (time.Duration, bool) {
	base, err := d.base(drv)
	if err != nil {
		return 0, false
	}
	var v uint64
	var ok bool
	err = d.view(func(tx reader) error {
		if v, ok = tx.uint(bucketDurations, base); ok {
			return nil
		}
		if v, ok = tx.uint(bucketNameTimes, drv.Name()); !ok {
			v, ok = tx.uint(bucketNameTimes, packageName(drv.Name()))
		}
		return nil
	})
	return time.Duration(v), ok && err == nil
}

// packageName is what is left of the name of a derivation without its version,
// which begins, as in Nix, behind the first dash that no letter follows. As it
// never ends with .drv, it is not the name of another derivation.
func packageName(name string) string {
	name = strings.TrimSuffix(strings.TrimSuffix(name, ".drv"), ".store")
	for i := 1; i+1 < len(name); i++ {
		if c := name[i+1] | 0x20; name[i] == '-' && (c < 'a' || c > 'z') {
			return name[:i]
		}
	}
	return name
}

// Touch notes that paths are in use at t. It does not wait: the uses are
// written with the next commit, at Close, or after a minute, and a kill loses
// those of the last minute.
func (d *DB) Touch(t time.Time, paths ...store.Path) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range paths {
		if base, err := d.base(p); err == nil {
			d.used[base] = max(d.used[base], t.Unix())
		}
	}
}

// LastUse is when p was last used or, if it never was, the zero time.
func (d *DB) LastUse(p store.Path) (time.Time, error) {
	base, err := d.base(p)
	if err != nil {
		return time.Time{}, err
	}
	// The unwritten ones first: between the two looks they may be written, but
	// never the other way.
	d.mu.Lock()
	last := d.used[base]
	d.mu.Unlock()
	err = d.view(func(tx reader) error {
		if v, ok := tx.uint(bucketUse, base); ok {
			last = max(last, int64(v))
		}
		return nil
	})
	if err != nil || last == 0 {
		return time.Time{}, err
	}
	return time.Unix(last, 0), nil
}

func (d *DB) takeUses() map[string]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.used) == 0 {
		return nil
	}
	uses := d.used
	d.used = make(map[string]int64)
	return uses
}

func (d *DB) returnUses(uses map[string]int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for b, t := range uses {
		d.used[b] = max(d.used[b], t)
	}
}

// putUses writes the uses of paths that are valid still, in their order: within
// a transaction a page grows as large as it must, and what is put into it not at
// its end moves all that follows.
func putUses(w writer, uses map[string]int64) error {
	for _, b := range slices.Sorted(maps.Keys(uses)) {
		t := uses[b]
		if !w.has(bucketValid, b) {
			continue
		}
		if old, ok := w.uint(bucketUse, b); ok && int64(old) >= t {
			continue
		}
		if err := w.put(bucketUse, b, binary.BigEndian.AppendUint64(nil, uint64(t))); err != nil {
			return err
		}
	}
	return nil
}

// Mark is what the owner of the state left with SetMark, "" for nothing.
func (d *DB) Mark() (string, error) {
	var mark string
	err := d.view(func(tx reader) error {
		mark = string(tx.get(bucketMeta, keyMark))
		return nil
	})
	return mark, err
}

// SetMark keeps a word for the next owner. One that is set last before Close and
// taken back first after Open tells whether the last owner ended in good order.
// It leaves nothing in the log, which Close would have to.
func (d *DB) SetMark(ctx context.Context, mark string) error {
	return d.queue(&write{ctx: ctx, settle: true, do: func(w writer) error { return w.set(bucketMeta, keyMark, mark) }})
}
