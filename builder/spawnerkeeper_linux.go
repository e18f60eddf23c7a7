package builder

import "sync"

// spawnerKeeper has the spawner of a Local, from the first build that needs it
// on. One that died is replaced; where none can be started, none is.
type spawnerKeeper struct {
	config spawnerConfig
	ids    identity

	mu      sync.Mutex
	off     bool
	err     error // why it is off
	spawner *spawner
}

// get returns the spawner, or nil if there is none.
func (k *spawnerKeeper) get() *spawner {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.spawner != nil && !k.spawner.alive() {
		k.spawner.close()
		k.spawner = nil
	}
	if k.spawner == nil && !k.off {
		if k.spawner, k.err = startSpawner(k.config, k.ids); k.err != nil {
			k.spawner, k.off = nil, true
		}
	}
	return k.spawner
}

func (k *spawnerKeeper) failure() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// forget tells the spawner that a scratch directory goes.
func (k *spawnerKeeper) forget(scratch uint64) {
	k.mu.Lock()
	s := k.spawner
	k.mu.Unlock()
	if s != nil {
		s.forget(scratch)
	}
}

func (k *spawnerKeeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.off = true
	if k.spawner != nil {
		k.spawner.close()
		k.spawner = nil
	}
}
