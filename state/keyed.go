package state

import (
	"context"
	"sync"
)

// keyedMutex is a mutex for each name. Whoever locks several at once locks them
// in sorted order, so that no two wait for each other.
type keyedMutex struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed by unlock
}

// lock locks names, which must be sorted and without duplicates. It calls waits,
// if that is not nil, before each time that it waits.
func (k *keyedMutex) lock(ctx context.Context, names []string, waits func()) (unlock func(), err error) {
	for i, n := range names {
		if err := k.lockOne(ctx, n, waits); err != nil {
			k.unlock(names[:i])
			return nil, err
		}
	}
	return func() { k.unlock(names) }, nil
}

func (k *keyedMutex) lockOne(ctx context.Context, name string, waits func()) error {
	for {
		k.mu.Lock()
		held, ok := k.held[name]
		if !ok {
			if k.held == nil {
				k.held = make(map[string]chan struct{})
			}
			k.held[name] = make(chan struct{})
			k.mu.Unlock()
			return nil
		}
		k.mu.Unlock()
		if waits != nil {
			waits()
		}
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (k *keyedMutex) unlock(names []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range names {
		close(k.held[n])
		delete(k.held, n)
	}
}
