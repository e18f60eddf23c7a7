package builder

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// spawnerKeeper has the spawner of a Local, from the first build that needs it
// on. One that died is replaced; where none can be started, none is, or only later.
type spawnerKeeper struct {
	config spawnerConfig
	ids    identity
	start  func(spawnerConfig, identity) (*spawner, error) // startSpawner
	say    func(line string)                               // may be nil

	mu      sync.Mutex
	off     bool
	tried   time.Time // when one could not be started; zero: the last one could
	spawner *spawner
}

// spawnerPause is the time until it is tried again to start a spawner. Meanwhile builds
// do without.
const spawnerPause = time.Second

// get returns the spawner, or nil if there is none.
func (k *spawnerKeeper) get() *spawner {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.spawner != nil && !k.spawner.alive() {
		k.spawner.close()
		k.spawner = nil
	}
	if k.spawner != nil || k.off || !k.tried.IsZero() && time.Since(k.tried) < spawnerPause {
		return k.spawner
	}
	s, err := k.start(k.config, k.ids)
	if err == nil {
		k.tried, k.spawner = time.Time{}, s
		return s
	}
	if k.tried.IsZero() && k.say != nil {
		k.say(fmt.Sprintf("sandboxes take longer to make than they could: %v", err))
	}
	k.off, k.tried = !passes(err) && !isFull(err), time.Now()
	return nil
}

// passes reports whether err says that the machine, or this process, is short of
// something, which it may have again later, or that somebody killed the spawner.
func passes(err error) bool {
	if errors.Is(err, errKilled) {
		return true
	}
	// The last is of descriptors in messages that nobody has taken: of those, a user may have
	// as many as open files, and a builder can have them all.
	for _, errno := range []unix.Errno{unix.EAGAIN, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.ETOOMANYREFS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
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
