package db

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

const (
	// maxBatch bounds the writes of one transaction, and so the memory that it
	// takes and the time for which its first caller waits.
	maxBatch = 4096
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
	settle   bool        // leaves nothing in the log
	patient  func() bool // whether it may wait for company; nil: it may not
	queued   func()      // may be nil
	synced   func()      // likewise
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
	if w.queued != nil {
		w.queued()
	}
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

// commitLoop is the only writer. It takes whatever is queued into one record of
// the log: a lone caller does not wait for company, and those who come while it
// commits share the next one.
func (d *DB) commitLoop() {
	defer close(d.stopped)
	tick := time.NewTicker(useInterval)
	defer tick.Stop()
	wait := time.NewTimer(0)
	defer wait.Stop()
	<-wait.C
	failed := false // uses wait for the next tick
	for {
		d.awaitCompany(wait)
		d.mu.Lock()
		queued := d.pending
		if len(queued) > maxBatch {
			queued = queued[:maxBatch:maxBatch]
		}
		d.pending = d.pending[len(queued):]
		d.hasty = len(d.pending) > 0
		closing := d.closing
		d.mu.Unlock()
		d.file.tend()
		switch {
		case len(queued) > 0:
			failed = d.commit(queued) != nil
			if len(queued) > 1 {
				// Those who were answered may come with the next one at once: they
				// had better share a record than the first have one alone.
				runtime.Gosched()
			}
			continue
		case closing:
			for d.commit(nil) == nil && d.hasUses() {
			}
			d.lastError = d.file.close()
			return
		case !failed && d.areUsesDue():
			failed = d.commit(nil) != nil
			continue
		}
		select {
		case <-d.wake:
		case <-tick.C:
			failed = d.commit(nil) != nil
		case <-d.file.due.C:
			d.file.begin()
		case r := <-d.file.done:
			d.file.ended(r)
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

// commit writes what is queued, and some uses, and answers the callers.
func (d *DB) commit(queued []*write) error {
	used := d.nextUses()
	err := d.try(queued, used)
	if err != nil {
		err = fmt.Errorf("write %s: %w", d.path, diskError(err))
	} else {
		d.wroteUses(len(used))
	}
	for _, w := range queued {
		if !w.rejected {
			w.done <- err
		}
	}
	return err
}

// try does so. It answers the writes that are refused itself.
func (d *DB) try(queued []*write, used []string) (err error) {
	b := d.file.newBatch()
	defer func() {
		if err != nil {
			b.cut(mark{})
		}
	}()
	barrier, settle := false, false
	err = d.view(func(r reader) error {
		r.seq = b.seq
		w := writer{r, b}
		for _, q := range queued {
			before := b.mark()
			err := q.ctx.Err()
			if err == nil {
				err = q.do(w)
			}
			if err != nil {
				b.cut(before)
				q.rejected = true
				q.done <- err
				continue
			}
			if b.mark() != before {
				barrier = barrier || q.barrier
				settle = settle || q.settle
			}
		}
		if err := putUses(w, used, d.uses.taken); err != nil {
			return err
		}
		if b.valid == 0 {
			return nil
		}
		count, _ := w.uint(bucketMeta, keyCount)
		return w.putUint(bucketMeta, keyCount, count+uint64(b.valid))
	})
	if err != nil || len(b.list) == 0 {
		return err
	}
	if barrier && d.barrier != nil {
		if err := d.barrier(); err != nil {
			return err
		}
	}
	for _, q := range queued {
		if q.synced != nil && !q.rejected {
			q.synced()
		}
	}
	return d.file.write(b, settle)
}
