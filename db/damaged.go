package db

import (
	"context"
	"encoding/json"
	"fmt"

	"storefs/store"
)

// SetDamage keeps what was found to be wrong with a valid path, in the place of
// what was found before. store.ErrNotValid.
func (d *DB) SetDamage(ctx context.Context, damage store.Damage) error {
	base, err := d.base(damage.Path)
	if err != nil {
		return fmt.Errorf("remember damage: %w", err)
	}
	value, err := json.Marshal(damage)
	if err == nil {
		err = d.update(ctx, false, func(w writer) error {
			if !w.has(bucketValid, base) {
				return store.ErrNotValid
			}
			return w.put(bucketDamaged, base, value)
		})
	}
	if err != nil {
		return fmt.Errorf("remember the damage of %s: %w", damage.Path, err)
	}
	return nil
}

// ClearDamage forgets what was found to be wrong with p: it was a false alarm.
func (d *DB) ClearDamage(ctx context.Context, p store.Path) error {
	base, err := d.base(p)
	if err == nil {
		err = d.update(ctx, false, func(w writer) error { return w.forget(bucketDamaged, base) })
	}
	if err != nil {
		return fmt.Errorf("forget damage: %w", err)
	}
	return nil
}

// Damage is what was last found to be wrong with p, also when it was repaired
// since; nil for nothing.
func (d *DB) Damage(p store.Path) (*store.Damage, error) {
	base, err := d.base(p)
	if err != nil {
		return nil, err
	}
	var damage *store.Damage
	err = d.view(func(tx reader) error {
		v := tx.get(bucketDamaged, base)
		if v == nil {
			return nil
		}
		damage = new(store.Damage)
		if json.Unmarshal(v, damage) != nil {
			return fmt.Errorf("the damage of %s: %w", p, ErrDamaged)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return damage, nil
}
