package db

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

// views are read transactions that wait for the next question: to begin one, and
// to find the buckets in it, takes longer than most questions do. None of them is
// older than the last commit, and none is there while one is being written: a
// read transaction keeps pages from being used again, and the map from growing.
type views struct {
	bolt *bolt.DB
	disk *os.File // bbolt's own
	// mapped is how large the file may become, at least, before bbolt has to map it anew.
	mapped int64
	over   atomic.Pointer[overlay]

	// stuck: bbolt panicked where it had locks that nobody can let go. Whatever
	// takes them would wait for ever, so nothing is begun or ended any more.
	stuck atomic.Bool

	mu      sync.Mutex
	idle    []reader
	age     uint64 // how often something was written
	writing bool   // also after close
	reading int    // how many have a transaction
	old     int    // those of them that are older than oldAge
	oldAge  uint64
	gone    chan struct{} // closed when old is 0 again; nil: it is
}

// maxViews bounds idle. There are seldom more readers at a time.
const maxViews = 16

// view runs f in a read transaction: everything that f sees is of one moment.
func (v *views) view(f func(tx reader) error) error {
	return guard(func() (err error) {
		tx, age, err := v.take()
		if err != nil {
			return err
		}
		whole := false
		defer func() {
			// After a panic nothing of the transaction is to be relied on.
			tx.overlay = overlay{}
			if !v.give(tx, age, whole) {
				if e := v.rollback(tx.tx); err == nil {
					err = e
				}
			}
		}()
		err = f(tx)
		whole = true
		return err
	})
}

func (v *views) take() (tx reader, age uint64, err error) {
	for {
		if tx, age, err = v.transaction(); err != nil {
			return tx, age, err
		}
		// What is in the overlay, and was in it when the transaction began, may be
		// in both. What was taken out of it must be in the transaction.
		if o := v.over.Load(); tx.tx.ID() >= o.since {
			tx.overlay = *o
			switch {
			case o.comes > 0 && tx.tx.ID() >= o.comes:
				tx.seq = o.comesWith // what was hidden is durable
			case o.hides != nil:
				tx.layers[1] = o.hides
			}
			return tx, age, nil
		}
		err := v.rollback(tx.tx)
		v.leave(age)
		if err != nil {
			return tx, age, err
		}
	}
}

// transaction is one that waited, or a new one.
func (v *views) transaction() (tx reader, age uint64, err error) {
	v.mu.Lock()
	age = v.age
	v.reading++
	if n := len(v.idle); n > 0 {
		tx, v.idle = v.idle[n-1], v.idle[:n-1]
	}
	v.mu.Unlock()
	if tx.tx != nil {
		return tx, age, nil
	}
	t, err := v.transact(false)
	if err != nil {
		v.leave(age)
	}
	return reader{tx: t, open: new(handles)}, age, err
}

// leave says that who came at that age reads no more.
func (v *views) leave(age uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.left(age)
}

func (v *views) left(age uint64) {
	v.reading--
	if v.old > 0 && age < v.oldAge {
		if v.old--; v.old == 0 {
			close(v.gone)
		}
	}
}

// outdate is called when bbolt has shown a transaction that it takes for failed: it
// forgets which pages those still read who have an older one, and would write there.
// Whoever writes next calls await first.
func (v *views) outdate() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.age++
	v.old, v.oldAge, v.gone = v.reading, v.age, nil
	if v.old > 0 {
		v.gone = make(chan struct{})
	}
}

// await waits until nobody has an older transaction.
func (v *views) await() {
	v.mu.Lock()
	gone := v.gone
	v.mu.Unlock()
	if gone != nil {
		<-gone
	}
}

// transact begins a transaction of bbolt.
func (v *views) transact(writable bool) (tx *bolt.Tx, err error) {
	err = v.locking(func() (err error) {
		tx, err = v.bolt.Begin(writable)
		return err
	})
	return tx, err
}

// rollback ends one without a commit. After the commit it does nothing.
func (v *views) rollback(tx *bolt.Tx) error { return v.locking(tx.Rollback) }

// locking does what takes locks of bbolt, and keeps them if it panics.
func (v *views) locking(do func() error) error {
	if v.stuck.Load() {
		return errStuck
	}
	whole := false
	defer func() {
		if !whole {
			v.stuck.Store(true)
		}
	}()
	err := do()
	whole = true
	return err
}

var errStuck = fmt.Errorf("%w: it has failed in a way that lets nobody at it any more", ErrDamaged)

// give keeps a transaction that is of the given age and whole, or says that it must
// be ended.
func (v *views) give(tx reader, age uint64, whole bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.left(age)
	if !whole || v.writing || age != v.age || len(v.idle) == maxViews {
		return false
	}
	v.idle = append(v.idle, tx)
	return true
}

// begin is called before a transaction is begun that writes, and end when it has
// ended, before anybody hears of that.
func (v *views) begin() {
	v.mu.Lock()
	idle := v.idle
	v.idle, v.writing = nil, true
	v.age++
	v.mu.Unlock()
	for _, tx := range idle {
		_ = guard(func() error { return v.rollback(tx.tx) })
	}
}

func (v *views) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.age++
	v.writing = false
}
