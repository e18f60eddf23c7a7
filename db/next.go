package db

import "slices"

// While a record is being written and synced, those who come prepare the next one,
// in the place of the committer, who waits for the disk: they run their writes on
// top of what that record wrote, which no reader sees yet. The committer ends the
// next record when the one before is durable, and answers nobody of it, be it with
// a refusal, earlier: that may rest on what the one before has written.

// openNext lets those who come prepare the record behind b.
func (d *DB) openNext(b *batch) {
	next := d.file.newBatch(b.seq + 1)
	d.mu.Lock()
	d.next = next
	d.mu.Unlock()
}

// prepareNext takes what is queued into the next record, if there is one, and
// nobody else is about to. It is called by those who queue.
func (d *DB) prepareNext() {
	if !d.preparing.TryLock() {
		return
	}
	defer d.preparing.Unlock()
	for {
		d.mu.Lock()
		b := d.next
		if b == nil || len(b.writes) >= maxBatch || !d.isReady() {
			d.mu.Unlock()
			return
		}
		queued := d.take(maxBatch - len(b.writes))
		d.prepared += len(queued)
		d.mu.Unlock()
		b.do(&d.views, queued)
	}
}

// closeNext gives what was prepared to the committer, nil if that is nothing.
func (d *DB) closeNext() *batch {
	d.mu.Lock()
	b := d.next
	d.next, d.prepared = nil, 0
	d.mu.Unlock()
	if b == nil {
		return nil
	}
	d.preparing.Lock() // until whoever is at it has come to an end
	defer d.preparing.Unlock()
	if len(b.writes) == 0 {
		return nil
	}
	return b
}

// takeBack undoes what was prepared on top of a record that has not become one.
// The writes run again, before all others.
func (d *DB) takeBack(b *batch) {
	if b == nil {
		return
	}
	b.cut(mark{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending = slices.Concat(b.writes, d.pending)
	d.hasty = true
}
