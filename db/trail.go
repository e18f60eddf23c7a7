package db

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// maxTrails bounds the trails that are kept: of those that were not followed for
// longest, one goes for each that comes.
const maxTrails = 1000

// Trail is what was learned of a program that began with one path. What is in
// it, package prefetch knows.
type Trail struct {
	Program, First string
	Last           int64 // when it was last followed, seconds since 1970
	Data           []byte
}

// Trails are those of the program; of all programs if that is "".
func (d *DB) Trails(program string) ([]Trail, error) {
	var all []Trail
	err := d.view(func(tx reader) error {
		var prefix []byte
		if program != "" {
			prefix = []byte(program + "\x00")
		}
		c := tx.cursor(bucketTrails)
		for k, v := c.seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.next() {
			name, first, ok := bytes.Cut(k, []byte{0})
			if !ok || len(v) < 8 {
				return fmt.Errorf("the trail %q: %w", k, ErrDamaged)
			}
			all = append(all, Trail{string(name), string(first), int64(binary.BigEndian.Uint64(v)), bytes.Clone(v[8:])})
		}
		return nil
	})
	return all, err
}

// SetTrail keeps t in the place of the one with the same Program and First; one
// without Data is forgotten.
func (d *DB) SetTrail(ctx context.Context, t Trail) error {
	key := pair(t.Program, t.First)
	if t.Program == "" || bytes.IndexByte([]byte(t.Program), 0) >= 0 || len(key) > bolt.MaxKeySize {
		return fmt.Errorf("keep a trail: %q is no program", t.Program)
	}
	err := d.update(ctx, false, func(w writer) error {
		if len(t.Data) == 0 {
			return w.forget(bucketTrails, key)
		}
		if !w.has(bucketTrails, key) {
			if err := w.dropOldestTrail(); err != nil {
				return err
			}
		}
		return w.put(bucketTrails, key, append(binary.BigEndian.AppendUint64(nil, uint64(t.Last)), t.Data...))
	})
	if err != nil {
		return fmt.Errorf("keep the trail of %s: %w", t.Program, err)
	}
	return nil
}

// dropOldestTrail makes room for one trail.
func (w writer) dropOldestTrail() error {
	n := 0
	var oldest, last []byte
	c := w.cursor(bucketTrails)
	for k, v := c.seek(nil); k != nil; k, v = c.next() {
		n++
		if last == nil || len(v) >= 8 && bytes.Compare(v[:8], last) < 0 {
			oldest, last = k, v[:min(len(v), 8)]
		}
	}
	if n < maxTrails {
		return nil
	}
	return w.del(bucketTrails, string(oldest))
}
