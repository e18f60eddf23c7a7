package fs

import (
	"sync"
	"time"
)

// useTime is how long the kernel may go on without a word that a store object is
// in use: one LOOKUP in that time costs nothing, and whoever collects garbage
// thinks in days.
const useTime = time.Hour

// useDelay is how long uses are gathered before they are told: who it was is
// found out once for all that one caller used meanwhile, which costs twice as
// much as a LOOKUP.
const useDelay = 50 * time.Millisecond

// uses tells which store objects are in use, from a goroutine of its own.
type uses struct {
	rules rules
	told  func(name string)

	mu    sync.Mutex
	queue map[caller][]string
	wake  chan struct{} // capacity 1
}

func newUses(rs rules, told func(string)) *uses {
	return &uses{rules: rs, told: told, queue: map[caller][]string{}, wake: make(chan struct{}, 1)}
}

// add never blocks.
func (u *uses) add(c caller, name string) {
	c.seen = nil // it is of one request; the same caller has others
	u.mu.Lock()
	u.queue[c] = append(u.queue[c], name)
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// run tells what was added, until stop is closed, and then what is left.
func (u *uses) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			u.tell()
			return
		case <-u.wake:
		}
		select {
		case <-stop:
		case <-time.After(useDelay):
		}
		u.tell()
	}
}

// tell leaves out what only those used who may not build: programs that look at
// everything do not need it. Who has ended by now counts as somebody who does.
func (u *uses) tell() {
	u.mu.Lock()
	queue := u.queue
	u.queue = map[caller][]string{}
	u.mu.Unlock()
	for c, names := range queue {
		c.seen = new(seen)
		if u.rules.permission(c) != MayBuild {
			continue
		}
		for _, name := range names {
			u.told(name)
		}
	}
}
