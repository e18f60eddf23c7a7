package main

import (
	"context"
	"sync"

	"storefs/normaliser"
)

// floorSize is how much garbage an owner that builds may make, at least, before
// it is collected. A build leaves 100 kB of it, what lives is a few megabytes,
// and so the collector would run for every twentieth build, for an eighth of the
// owner's time. What it takes is address space, and memory only as far as there
// is garbage.
const floorSize = 12 << 20

// floored is a goalStore that lays a floor under the heap with the first build:
// who has nothing to build needs none.
type floored struct {
	goalStore
	once  sync.Once
	floor []byte // for the collector to count: there is nothing in it
}

var _ normaliser.Store = (*floored)(nil)

func (f *floored) Register(ctx context.Context, b normaliser.Built) error {
	f.once.Do(func() { f.floor = make([]byte, floorSize) })
	return f.goalStore.Register(ctx, b)
}
