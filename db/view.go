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
	over atomic.Pointer[overlay]

	// stuck: bbolt panicked where it had locks that nobody can let go. Whatever
	// takes them would wait for ever, so nothing is begun or ended any more.
	stuck atomic.Bool

	mu      sync.Mutex
	idle    []reader
	age     uint64 // how often something was written
	writing bool   // also after close
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
			if !whole || !v.give(tx, age) {
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
			if o.comes > 0 && tx.tx.ID() >= o.comes {
				tx.seq = o.comesWith
			}
			return tx, age, nil
		}
		if err := v.rollback(tx.tx); err != nil {
			return tx, age, err
		}
	}
}

// transaction is one that waited, or a new one.
func (v *views) transaction() (tx reader, age uint64, err error) {
	v.mu.Lock()
	age = v.age
	if n := len(v.idle); n > 0 {
		tx, v.idle = v.idle[n-1], v.idle[:n-1]
	}
	v.mu.Unlock()
	if tx.tx != nil {
		return tx, age, nil
	}
	t, err := v.transact(false)
	return reader{tx: t, open: new(handles)}, age, err
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

// give keeps a transaction that is of the given age, or says that it must be ended.
func (v *views) give(tx reader, age uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.writing || age != v.age || len(v.idle) == maxViews {
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
