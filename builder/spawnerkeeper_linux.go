package builder

import (
	"fmt"
	"sync"
)

// spawnerKeeper has the spawner of a Local, from the first build that needs it
// on. One that died is replaced; where none can be started, none is.
type spawnerKeeper struct {
	config spawnerConfig
	ids    identity
	say    func(line string) // may be nil

	mu      sync.Mutex
	off     bool
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
		s, err := startSpawner(k.config, k.ids)
		if err != nil {
			k.off = true
			if k.say != nil {
				k.say(fmt.Sprintf("sandboxes take longer to make than they could: %v", err))
			}
			return nil
		}
		k.spawner = s
	}
	return k.spawner
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
