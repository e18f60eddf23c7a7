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
	rejected bool        // with err
	err      error
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
	ahead := d.next != nil // then the committer looks into the queue by itself
	d.mu.Unlock()
	if !ahead {
		d.wakeCommitter()
	}
	if w.queued != nil {
		w.queued()
	}
	if ahead {
		d.prepareNext()
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

// InDoubt reports whether something that was answered with ErrInDoubt may be on disk
// still, whatever is to be seen of it.
func (d *DB) InDoubt() bool { return d.file.doubt.Load() }

// Certain makes durable what is in doubt (InDoubt), or says why it cannot.
func (d *DB) Certain(ctx context.Context) error {
	return d.update(ctx, false, func(writer) error { return nil })
}

// commitLoop is the only one who writes to the disk. It takes whatever is queued
// into one record of the log: a lone caller does not wait for company, and those
// who come while it commits share the next one, and prepare it: see openNext.
func (d *DB) commitLoop() {
	defer close(d.stopped)
	tick := time.NewTicker(useInterval)
	defer tick.Stop()
	wait := time.NewTimer(0)
	defer wait.Stop()
	<-wait.C
	failed := false // uses wait for the next tick
	var next *batch // is prepared
	commit := func(queued []*write) {
		var err error
		next, err = d.commit(next, queued)
		failed = err != nil
	}
	for {
		if next == nil {
			d.awaitCompany(wait)
		}
		d.mu.Lock()
		room := maxBatch
		if next != nil {
			room -= len(next.writes)
		}
		queued := d.take(room)
		closing := d.closing
		d.mu.Unlock()
		d.file.tend(next == nil)
		switch {
		case len(queued) > 0 || next != nil:
			commit(queued)
			continue
		case closing:
			for commit(nil); !failed && d.hasUses(); {
				commit(nil)
			}
			d.lastError = d.file.close()
			return
		case !failed && d.areUsesDue():
			commit(nil)
			continue
		}
		select {
		case <-d.wake:
		case <-tick.C:
			commit(nil)
		case <-d.file.due.C:
			switch {
			case d.file.doubt.Load():
				d.file.dueAt = time.Time{}
				commit(nil)
			case d.file.isDue():
				d.file.begin()
			default:
				d.file.due.Reset(manyTime)
			}
		case r := <-d.file.done:
			d.file.ended(r)
		}
	}
}

// take gives, and takes out of the queue, at most n. The caller has mu.
func (d *DB) take(n int) []*write {
	queued := d.pending
	if len(queued) > n {
		queued = queued[:n:n]
	}
	d.pending = d.pending[len(queued):]
	d.hasty = len(d.pending) > 0
	return queued
}

// isReady reports whether there is something in the queue that waits for no
// company, or not any longer. The caller has mu.
func (d *DB) isReady() bool {
	return len(d.pending) > 0 && (d.hasty || d.closing || len(d.pending) >= enough)
}

// awaitCompany waits while all that is queued is patient.
func (d *DB) awaitCompany(wait *time.Timer) {
	for begun := false; ; {
		d.mu.Lock()
		ready := len(d.pending) == 0 || d.isReady()
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

// commit writes what is prepared in b, if it is not nil, what is queued, and some
// uses, and answers the callers. What was prepared meanwhile is next.
func (d *DB) commit(b *batch, queued []*write) (next *batch, err error) {
	if b == nil {
		b = d.file.newBatch(d.file.log.seq + 1)
	}
	b.do(&d.views, queued)
	used := d.nextUses()
	err = d.try(b, used)
	if err != nil {
		if d.over.Load().layers[0] == b.layer { // otherwise the file shows it
			b.cut(mark{})
		}
		err = fmt.Errorf("write %s: %w", d.path, diskError(err))
	} else {
		d.wroteUses(len(used))
	}
	for _, w := range b.writes {
		if !w.rejected {
			w.done <- err
		}
	}
	if len(b.writes) > 1 {
		// Those who were answered may come with the next one at once: they had
		// better share a record, whose sync costs as much as many registrations,
		// than the first have one alone.
		runtime.Gosched()
	}
	return d.closeNext(), err
}

// try does so. It answers the writes that are refused itself. If it fails, nothing
// is prepared any more.
func (d *DB) try(b *batch, used []string) error {
	err := b.end(&d.views, used, d.uses.taken)
	for _, w := range b.writes {
		if w.rejected {
			w.done <- w.err
		}
	}
	if err != nil {
		return err
	}
	if len(b.list) == 0 && !d.file.doubt.Load() { // otherwise what is so already is perhaps not on disk
		return nil
	}
	record, err := d.file.takes(b)
	if err != nil {
		return err
	}
	if record && !d.file.isDue() {
		d.openNext(b)
	}
	if err = d.sync(b); err != nil {
		d.takeBack(d.closeNext())
		return err
	}
	if !record {
		return d.file.direct(b, !b.settle)
	}
	if err = d.file.log.append(b.body); err == nil {
		d.file.show(b)
		return nil
	}
	// Perhaps the disk has the record, perhaps not: nobody is told of either
	// before the file has it, with its number.
	d.takeBack(d.closeNext())
	d.file.doubt.Store(true)
	if d.file.direct(b, true) == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInDoubt, err)
}

// sync makes durable what the paths of b stand for.
func (d *DB) sync(b *batch) error {
	if b.barrier && d.barrier != nil {
		if err := d.barrier(); err != nil {
			return err
		}
	}
	for _, w := range b.writes {
		if w.synced != nil && !w.rejected {
			w.synced()
		}
	}
	return nil
}
