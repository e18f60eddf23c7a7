package db

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// restTime is how long changes stay in the log, at least, before they are
	// written into bbolt's file: those that come meanwhile, which are often in
	// the same pages, share the work.
	restTime = 200 * time.Millisecond
	// restChanges is how many of them do not wait.
	restChanges = 16384
	// retryTime is how long it rests after an error.
	retryTime = time.Second
)

// file is bbolt's file with what the log has beyond it. Only the committer uses
// it, but for write and what it calls, which run beside it.
type file struct {
	views *views
	log   *redoLog
	rest  time.Duration
	due   *time.Timer
	armed bool // due is set
	busy  bool // somebody writes: done will tell
	done  chan applied
	mixed bool // the file says that the log may have more than it
	err   error
	stuck atomic.Bool // bbolt's writer lock could not be let go
}

// applied is what became of a part of the log.
type applied struct {
	changes *changes // nil: they were never in the log
	seq     uint64
	pages   int
	tx      int
	err     error
}

func newFile(v *views, log *redoLog, rest time.Duration) *file {
	f := &file{views: v, log: log, rest: rest, due: time.NewTimer(time.Hour), done: make(chan applied, 1)}
	f.due.Stop()
	return f
}

// next is the number of the next record.
func (f *file) next() uint64 { return f.log.seq + 1 }

// write makes the batch durable, and then visible; with settle, in the file alone.
func (f *file) write(b *batch, settle bool) error {
	if errors.Is(f.err, ErrDamaged) {
		return f.err
	}
	if settle {
		return f.direct(b, false)
	}
	f.log.body = b.encode(f.log.body[:0])
	ever, now := f.log.fits(len(f.log.body))
	if !ever || !f.mixed {
		return f.direct(b, true)
	}
	if !now {
		if err := f.flush(); err != nil {
			return err
		}
	}
	if err := f.log.append(f.log.body); err != nil {
		return err
	}
	o := *f.views.over.Load()
	o.changes = b.over
	f.views.over.Store(&o)
	f.arm(f.rest)
	return nil
}

// direct writes the batch, and all that is in the log, into bbolt's file, and
// whether more may come into the log: what is too much for that, and the first
// batch for it.
func (f *file) direct(b *batch, more bool) error {
	if f.busy {
		f.ended(<-f.done)
	}
	return f.empty(b.over, more)
}

// empty writes all changes into the file, while nobody else does.
func (f *file) empty(all *changes, more bool) error {
	r := f.apply(all, f.log.at(more))
	if f.err = r.err; f.err != nil {
		return f.err
	}
	f.mixed, f.log.used = more, 0
	f.views.over.Store(&overlay{changes: newChanges(), since: r.tx})
	return nil
}

// flush writes all that is in the log into bbolt's file.
func (f *file) flush() error {
	for f.log.used > 0 {
		if !f.busy {
			f.begin()
		}
		if f.ended(<-f.done); f.err != nil {
			return f.err
		}
	}
	return nil
}

// arm sees to it that the log is written into the file some time.
func (f *file) arm(after time.Duration) {
	if !f.armed && !f.busy {
		f.armed = true
		f.due.Reset(after)
	}
}

// tend does, without waiting, what is due.
func (f *file) tend() {
	select {
	case r := <-f.done:
		f.ended(r)
	default:
	}
	select {
	case <-f.due.C:
		f.begin()
	default:
	}
	if !f.busy && f.err == nil && (f.views.over.Load().changes.Len() >= restChanges || f.log.used > f.log.head.pages/2) {
		f.begin()
	}
}

// begin writes what is in the log now into the file, beside what else happens.
func (f *file) begin() {
	f.armed = false
	f.due.Stop()
	if f.busy || f.log.used == 0 {
		return
	}
	f.busy = true
	all, at, pages := f.views.over.Load().changes, f.log.at(true), f.log.used
	go func() {
		r := f.apply(all, at)
		r.pages = pages
		f.done <- r
	}()
}

// ended takes out of the overlay what the file has.
func (f *file) ended(r applied) {
	f.busy = false
	if f.err = r.err; f.err != nil {
		f.arm(retryTime)
		return
	}
	f.log.used -= r.pages
	left := newChanges()
	if f.log.used > 0 {
		left = f.views.over.Load().changes.Copy()
		r.changes.Scan(func(c change) bool {
			if last, ok := left.Get(c); ok && last.seq <= r.seq {
				left.Delete(c)
			}
			return true
		})
		f.arm(f.rest)
	}
	f.views.over.Store(&overlay{changes: left, since: r.tx})
}

// close leaves nothing in the log, and says so in the file.
func (f *file) close() error {
	if f.busy {
		f.ended(<-f.done)
	}
	f.due.Stop()
	if !f.mixed {
		return f.err
	}
	return f.empty(f.views.over.Load().changes, false)
}

// apply writes changes, in order, into the file, and that it has the log so far.
func (f *file) apply(all *changes, at position) applied {
	r := applied{changes: all, seq: at.seq}
	r.err = guard(func() error {
		f.views.begin()
		defer f.views.end()
		tx, err := f.views.bolt.Begin(true)
		if err != nil {
			return err
		}
		// A panic of bbolt must not leave its writer lock behind. After the
		// commit this does nothing.
		defer func() {
			if err := guard(tx.Rollback); errors.Is(err, ErrDamaged) {
				f.stuck.Store(true)
			}
		}()
		all.Scan(func(c change) bool {
			b := tx.Bucket([]byte(c.bucket))
			if c.value == nil {
				err = b.Delete([]byte(c.key))
			} else {
				err = b.Put([]byte(c.key), c.value)
			}
			return err == nil
		})
		meta := tx.Bucket([]byte(bucketMeta))
		if err == nil {
			err = meta.Put([]byte(keyLog), at.encode())
		}
		if err == nil && string(meta.Get([]byte(keyVersion))) == olderVersion {
			err = meta.Put([]byte(keyVersion), []byte(schemaVersion))
		}
		if err != nil {
			return fmt.Errorf("change: %w", err)
		}
		r.tx = tx.ID()
		// bbolt writes the pages, syncs, writes the meta page and syncs again: a
		// kill at any moment leaves the state before or the one after.
		return tx.Commit()
	})
	return r
}
