package db

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
)

const (
	// maxBatch bounds the writes of one transaction, and so the memory that it
	// takes and the time for which its first caller waits.
	maxBatch = 4096
	// useInterval is how old an unwritten use may become when nothing else is
	// written that could take it along.
	useInterval = time.Minute
	// company is how long writes that are all patient wait for others, at most,
	// and enough is how many of them do not wait any longer. A commit takes half
	// a millisecond, for one as for fifty.
	company = 50 * time.Millisecond
	enough  = 192
)

// write is one queued change.
type write struct {
	ctx      context.Context
	do       func(w writer) error
	barrier  bool        // makes paths valid: the barrier comes before its commit
	patient  func() bool // whether it may wait for company; nil: it may not
	synced   func()      // may be nil
	rejected bool
	done     chan error
}

// update queues do and waits until it is committed or has failed. do should
// check before it writes: then its error costs the others nothing. It may run
// more than once. A ctx that ends while it is queued takes it out; once its
// turn has come, the result is awaited, so that no caller is left in doubt.
func (d *DB) update(ctx context.Context, barrier bool, do func(w writer) error) error {
	return d.queue(&write{ctx: ctx, do: do, barrier: barrier})
}

func (d *DB) queue(w *write) error {
	w.done = make(chan error, 1)
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return ErrClosed
	}
	d.pending = append(d.pending, w)
	if w.patient == nil || !w.patient() {
		d.hasty = true
	}
	d.mu.Unlock()
	d.wakeCommitter()
	return <-w.done
}

// Hurry lets nothing that is queued wait for company any longer.
func (d *DB) Hurry() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.pending) > 0 && !d.hasty {
		d.hasty = true
		d.wakeCommitter()
	}
}

func (d *DB) wakeCommitter() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// commitLoop is the only writer. It takes whatever is queued into one
// transaction: a lone caller does not wait for company, and those who come
// while it commits share the next one.
func (d *DB) commitLoop() {
	defer close(d.stopped)
	tick := time.NewTicker(useInterval)
	defer tick.Stop()
	wait := time.NewTimer(0)
	defer wait.Stop()
	<-wait.C
	for {
		d.awaitCompany(wait)
		d.mu.Lock()
		batch := d.pending
		if len(batch) > maxBatch {
			batch = batch[:maxBatch:maxBatch]
		}
		d.pending = d.pending[len(batch):]
		d.hasty = len(d.pending) > 0
		closing := d.closing
		d.mu.Unlock()
		if len(batch) > 0 {
			d.commit(batch)
			if len(batch) > 1 {
				// Those who were answered may come with the next one at once: they
				// had better share a transaction than the first have one alone.
				runtime.Gosched()
			}
			continue
		}
		if closing {
			d.commit(nil) // the uses
			return
		}
		select {
		case <-d.wake:
		case <-tick.C:
			d.commit(nil)
		}
	}
}

// awaitCompany waits while all that is queued is patient.
func (d *DB) awaitCompany(wait *time.Timer) {
	for begun := false; ; {
		d.mu.Lock()
		ready := len(d.pending) == 0 || d.hasty || d.closing || len(d.pending) >= enough
		d.mu.Unlock()
		if ready {
			return
		}
		if !begun {
			begun = true
			wait.Reset(company)
		}
		select {
		case <-d.wake:
		case <-wait.C:
			return
		}
	}
}

// commit runs batch in one transaction and answers its callers.
func (d *DB) commit(batch []*write) {
	uses := d.takeUses()
	for {
		again, err := d.try(batch, uses)
		if again {
			continue
		}
		if err != nil {
			err = fmt.Errorf("write %s: %w", d.path, diskError(err))
			d.returnUses(uses)
		}
		for _, w := range batch {
			if !w.rejected {
				w.done <- err
			}
		}
		return
	}
}

// try is one attempt. It answers the writes that are refused itself. again says
// that one of them had written before it was refused, so that the transaction
// was given up and the rest must be done over.
func (d *DB) try(batch []*write, uses map[string]int64) (again bool, err error) {
	err = guard(func() error {
		d.views.begin()
		defer d.views.end()
		tx, err := d.bolt.Begin(true)
		if err != nil {
			return err
		}
		// A panic of bbolt must not leave its writer lock behind. After the
		// commit this does nothing.
		defer func() {
			if err := guard(tx.Rollback); errors.Is(err, ErrDamaged) {
				d.stuck = true
			}
		}()
		writes, barrier := 0, false
		w := writer{reader{tx: tx}, &writes}
		for _, q := range batch {
			if q.rejected {
				continue
			}
			before := writes
			err := q.ctx.Err()
			if err == nil {
				err = q.do(w)
			}
			if err != nil {
				q.rejected = true
				q.done <- err
				if again = writes > before; again {
					return nil
				}
				continue
			}
			barrier = barrier || q.barrier && writes > before
		}
		if err := putUses(w, uses); err != nil {
			return err
		}
		if writes == 0 {
			return nil
		}
		if barrier && d.barrier != nil {
			if err := d.barrier(); err != nil {
				return err
			}
		}
		for _, q := range batch {
			if q.synced != nil && !q.rejected {
				q.synced()
			}
		}
		// bbolt writes the pages, syncs, writes the meta page and syncs again: a
		// kill at any moment leaves the state before or the one after.
		return tx.Commit()
	})
	return again, err
}
