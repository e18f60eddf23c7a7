package db

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"storefs/store"
)

// SetFailures remembers why goals failed, each under the goal that was asked
// for: the first of its chain or, without one, its path.
func (d *DB) SetFailures(ctx context.Context, failures []*store.Failure) error {
	keys := make([]string, len(failures))
	values := make([][]byte, len(failures))
	for i, f := range failures {
		goal := f.Path
		if len(f.Chain) > 0 {
			goal = f.Chain[0]
		}
		var err error
		if keys[i], err = d.base(goal); err != nil {
			return fmt.Errorf("remember a failure: %w", err)
		}
		if values[i], err = json.Marshal(f); err != nil {
			return fmt.Errorf("remember the failure of %s: %w", goal, err)
		}
	}
	d.unwritten.forget(keys)
	err := d.update(ctx, false, func(w writer) error {
		for i, k := range keys {
			if err := w.put(bucketFailures, k, values[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		d.unwritten.keep(keys, values)
		return fmt.Errorf("remember failures: %w", err)
	}
	return nil
}

// unwritten are failures that the disk did not take, as one that is full or read-only does
// not: that may be what they tell of. They are remembered until the database is closed.
type unwritten struct {
	mu     sync.Mutex
	values map[string][]byte // by goals
}

// maxUnwritten is of how many goals: each costs some memory, and nothing else bounds them.
const maxUnwritten = 1000

func (u *unwritten) keep(keys []string, values [][]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.values == nil {
		u.values = make(map[string][]byte)
	}
	for i, k := range keys {
		if len(u.values) < maxUnwritten {
			u.values[k] = values[i]
		}
	}
}

func (u *unwritten) get(key string) []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.values[key]
}

// forget is for goals of which something newer is known.
func (u *unwritten) forget(keys []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, k := range keys {
		delete(u.values, k)
	}
}

// Failure is why goal p failed the last time, nil if it did not or was realised
// since.
func (d *DB) Failure(p store.Path) (*store.Failure, error) {
	base, err := d.base(p)
	if err != nil {
		return nil, err
	}
	var f *store.Failure
	err = d.view(func(tx reader) error {
		v := tx.get(bucketFailures, base)
		if later := d.unwritten.get(base); later != nil {
			v = later
		}
		if v == nil {
			return nil
		}
		f = new(store.Failure)
		if json.Unmarshal(v, f) != nil {
			return fmt.Errorf("the failure of %s: %w", p, ErrDamaged)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// ClearFailures forgets why the goals failed.
func (d *DB) ClearFailures(ctx context.Context, goals ...store.Path) error {
	keys, err := d.bases(goals)
	if err == nil {
		d.unwritten.forget(keys)
		err = d.update(ctx, false, func(w writer) error {
			for _, k := range keys {
				if err := w.forget(bucketFailures, k); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("forget failures: %w", err)
	}
	return nil
}
