package db

import (
	"context"
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
// which begins, as in Nix, behind the first dash that no letter follows. What follows
// the version stays: to fetch hello-1.0.tar.gz takes another time than to build hello-1.0,
// or hello-1.0-doc. As it never ends with .drv, it is not the name of another derivation.
func packageName(name string) string {
	for is := true; is; {
		name, is = strings.CutSuffix(name, ".drv")
	}
	name = strings.TrimSuffix(name, ".store")
	for i := 1; i+1 < len(name); i++ {
		if c := name[i+1] | 0x20; name[i] == '-' && (c < 'a' || c > 'z') {
			return name[:i] + behindVersion(name[i+1:])
		}
	}
	return name
}

// behindVersion is what s has behind the version that it begins with: the part without
// digits that a dot or a dash begins, but the digit of .tar.bz2 is none of a version.
func behindVersion(s string) string {
	if i := strings.Index(s, ".tar."); i >= 0 {
		return s[i:]
	}
	s = s[strings.LastIndexAny(s, "0123456789")+1:]
	if i := strings.IndexAny(s, ".-"); i >= 0 {
		return s[i:]
	}
	return ""
}

const (
	// useInterval is how old an unwritten use may become when nothing else is
	// written that could take it along.
	useInterval = time.Minute
	// maxUsed is how many are kept in memory before they are written: some 8 MB.
	maxUsed = 1 << 16
	// useBatch is how many of them a commit takes along: it must not take long
	// for others.
	useBatch = 4096
)

// uses are those that are not written yet, in seconds since 1970 by base name.
type uses struct {
	used map[string]int64
	// taken are those that are being written; nobody changes it. LastUse looks
	// there, too.
	taken map[string]int64
	order []string // the rest of taken, in order; the committer's
	due   bool     // there are too many
}

// Touch notes that paths are in use at t. It does not wait: the uses are
// written with the next commit, at Close, or after a minute, and a kill loses
// those of the last minute.
func (d *DB) Touch(t time.Time, paths ...store.Path) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range paths {
		base, err := d.base(p)
		if err != nil {
			continue
		}
		if last, ok := d.uses.used[base]; !ok {
			d.uses.used[strings.Clone(base)] = t.Unix()
		} else if t.Unix() > last {
			d.uses.used[base] = t.Unix()
		}
	}
	if len(d.uses.used) >= maxUsed && !d.uses.due {
		d.uses.due = true
		d.wakeCommitter()
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
	last := max(d.uses.used[base], d.uses.taken[base])
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

// nextUses are the base names of those that are to be written next, in order.
func (d *DB) nextUses() []string {
	u := &d.uses
	if len(u.order) == 0 {
		d.mu.Lock()
		u.taken, u.due = nil, false
		if len(u.used) > 0 {
			u.taken, u.used = u.used, make(map[string]int64)
		}
		d.mu.Unlock()
		u.order = slices.Sorted(maps.Keys(u.taken))
	}
	return u.order[:min(len(u.order), useBatch)]
}

// wroteUses says that the next n are written.
func (d *DB) wroteUses(n int) {
	u := &d.uses
	if u.order = u.order[n:]; len(u.order) == 0 {
		d.mu.Lock()
		u.taken, u.order = nil, nil
		d.mu.Unlock()
	}
}

// areUsesDue reports whether uses are to be written now.
func (d *DB) areUsesDue() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.uses.order) > 0 || d.uses.due
}

// hasUses reports whether there are any that are not written.
func (d *DB) hasUses() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.uses.order)+len(d.uses.used) > 0
}

// putUses writes the uses of paths that are valid still, in their order: within
// a transaction a page grows as large as it must, and what is put into it not at
// its end moves all that follows.
func putUses(w writer, names []string, times map[string]int64) error {
	for _, b := range names {
		if !w.has(bucketValid, b) {
			continue
		}
		if old, ok := w.uint(bucketUse, b); ok && int64(old) >= times[b] {
			continue
		}
		if err := w.putUint(bucketUse, b, uint64(times[b])); err != nil {
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
// taken back, with "", before anything is changed tells whether the last owner
// ended in good order. It leaves nothing in the log, which Close would have to.
func (d *DB) SetMark(ctx context.Context, mark string) error {
	return d.queue(&write{ctx: ctx, settle: mark != "", do: func(w writer) error { return w.set(bucketMeta, keyMark, mark) }})
}
