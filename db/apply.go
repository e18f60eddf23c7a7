package db

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	// restTime is how long changes stay in the log, at least, before they are
	// written into bbolt's file, unless that is half full: those that come
	// meanwhile, which are often in the same pages, share the work, and no build
	// waits for a processor beside it. Nobody waits for that: what is in the log is
	// durable and seen, and read back in 50 ms after a crash.
	restTime = 2 * time.Second
	// restChanges is how many of them do not wait.
	restChanges = 32768
	// many writes at once need all processors: as long as records of so many follow
	// each other within manyTime, nothing is written into the file beside them, if
	// the log has room.
	many     = 8
	manyTime = 10 * time.Millisecond
	// retryTime is how long it rests after an error.
	retryTime = time.Second
)

// file is bbolt's file with what the log has beyond it. Only the committer uses
// it, but for apply and what it calls, which run beside it.
type file struct {
	views   *views
	log     *redoLog
	rest    time.Duration
	due     *time.Timer
	dueAt   time.Time // when due comes; zero: it is not set
	busy    bool      // somebody writes: done will tell
	done    chan applied
	aside   taken     // what the second layer of the overlay is
	manyAt  time.Time // when the last record was written, if it was of many
	batches [2]batch  // the last ones: their memory is used again
	mixed   bool      // the file says that the log may have more than it
	err     error
	last    uint64      // the last transaction of the file that has not failed
	doubt   atomic.Bool // what was refused may be on disk: nothing goes into the log before the file has its number
	unsure  bool        // the file shows a transaction that is perhaps not on disk; of apply
}

// taken is a part of the log that is to be written into the file.
type taken struct {
	at    position // behind it
	pages int
}

// applied is what became of that.
type applied struct {
	tx    int
	shown bool   // the file shows it, also where err wraps ErrInDoubt
	hides *layer // then: what was so before the last batch
	err   error
}

func newFile(v *views, log *redoLog, rest time.Duration) *file {
	f := &file{views: v, log: log, rest: rest, due: time.NewTimer(time.Hour), done: make(chan applied, 1)}
	f.due.Stop()
	return f
}

// newBatch begins the record with that number, and ends the use of the one two
// before.
func (f *file) newBatch(seq uint64) *batch {
	b := &f.batches[seq%2]
	clear(b.list) // they keep what the file has in memory
	clear(b.writes)
	list, body := b.list[:0], b.body[:0]
	if ever, _ := f.log.fits(cap(body)); !ever {
		list, body = nil, nil // one that was too large for the log
	}
	*b = batch{seq: seq, layer: f.views.over.Load().layers[0], list: list, body: body, writes: b.writes[:0]}
	return b
}

// takes reports whether the batch becomes a record of the log: otherwise it is to
// be written into the file.
func (f *file) takes(b *batch) (bool, error) {
	if errors.Is(f.err, ErrDamaged) {
		return false, f.err
	}
	if b.settle || !f.mixed || f.doubt.Load() {
		return false, nil
	}
	ever, now := f.log.fits(len(b.body))
	if ever && !now && f.busy {
		f.ended(<-f.done)
		_, now = f.log.fits(len(b.body))
	}
	return now, nil
}

// show makes the batch, which is durable in the log, visible.
func (f *file) show(b *batch) {
	o := *f.views.over.Load()
	o.seq = b.seq
	f.views.over.Store(&o)
	f.manyAt = time.Time{}
	if len(b.writes) >= many {
		f.manyAt = time.Now()
	}
	f.arm(f.rest)
}

// direct writes the batch, and all that is in the log, into bbolt's file, and
// whether more may come into the log: what is too much for that, what it has no
// room for, and the first batch for it.
func (f *file) direct(b *batch, more bool) error {
	if f.busy {
		f.ended(<-f.done)
	}
	return f.empty(b.list, b.seq, more)
}

// empty writes all changes up to seq into the file, while nobody else does. That
// is the number of the next record, which there will not be, or of the last one.
// Of the former, list is what it would have had.
func (f *file) empty(list []*entry, seq uint64, more bool) error {
	at := f.log.at(more)
	at.seq = seq
	r := f.apply(f.views.over.Load().layers, at, list)
	f.err = r.err
	f.doubt.Store(r.err != nil && (f.doubt.Load() || errors.Is(r.err, ErrInDoubt)))
	if f.doubt.Load() {
		f.arm(retryTime)
	}
	if !r.shown {
		f.coming(0, 0)
		return f.err
	}
	// In doubt, too, all who read have what the file shows, but for the batch. What
	// the log has is safe meanwhile, should the disk have the file as it was: nothing
	// is written there.
	if f.err == nil {
		f.last = uint64(r.tx)
	}
	f.mixed, f.log.used, f.log.seq, f.aside = more, 0, seq, taken{}
	f.views.over.Store(&overlay{layers: [2]*layer{new(layer)}, seq: f.log.seq, since: r.tx, hides: r.hides})
	return f.err
}

// coming says that a transaction is about to have a record that the overlay does
// not show: whoever begins to read when it has come, and before that is taken out
// of the overlay, sees either all of the record or nothing.
func (f *file) coming(tx int, seq uint64) {
	o := *f.views.over.Load()
	if tx > 0 && seq <= o.seq {
		return // as always beside the committer, who changes the overlay meanwhile
	}
	o.comes, o.comesWith = tx, seq
	f.views.over.Store(&o)
}

// arm sees to it that the log is written into the file some time.
func (f *file) arm(after time.Duration) {
	if f.dueAt.IsZero() && !f.busy {
		f.dueAt = time.Now().Add(after)
		f.due.Reset(after)
	}
}

// tend does, without waiting, what is due. It can begin nothing while a record is
// prepared, since that is in the layer which would be written.
func (f *file) tend(begin bool) {
	select {
	case r := <-f.done:
		f.ended(r)
	default:
	}
	if begin && f.isDue() {
		f.begin()
	}
}

// isDue reports whether what is in the log is to be written into the file now.
func (f *file) isDue() bool {
	if f.busy || f.doubt.Load() {
		return false
	}
	full := f.log.head.pages / 2
	crowded := !f.manyAt.IsZero() && time.Since(f.manyAt) < manyTime
	if crowded {
		full += full / 2
	}
	if f.err == nil && (f.views.over.Load().layers[0].count >= restChanges || f.log.used > full) {
		return true
	}
	return !crowded && !f.dueAt.IsZero() && time.Until(f.dueAt) <= 0
}

// begin writes what is in the log now into the file, beside what else happens.
func (f *file) begin() {
	f.dueAt = time.Time{}
	f.due.Stop()
	if f.busy || f.log.used == 0 {
		return
	}
	o := *f.views.over.Load()
	if o.layers[1] == nil { // otherwise it failed the last time
		o.layers = [2]*layer{new(layer), o.layers[0]}
		f.views.over.Store(&o)
		f.aside = taken{f.log.at(true), f.log.used}
	}
	f.busy = true
	older, at := [2]*layer{o.layers[1]}, f.aside.at
	go func() { f.done <- f.apply(older, at, nil) }()
}

// ended takes out of the overlay what the file has. If that failed, be it in
// doubt, the log stays in use: its pages are not given back, so that it has all
// that the file has not, whether the disk has this transaction or the one before.
func (f *file) ended(r applied) {
	f.busy = false
	if f.err = r.err; f.err != nil {
		f.arm(retryTime)
		return
	}
	f.last = uint64(r.tx)
	f.log.used -= f.aside.pages
	f.aside = taken{}
	o := *f.views.over.Load()
	o.layers[1], o.since = nil, r.tx
	f.views.over.Store(&o)
	if f.log.used > 0 {
		f.arm(f.rest)
	}
}

// close leaves nothing in the log, and says so in the file, and in the log that this
// is durable. Without the latter the next owner syncs the file once more.
func (f *file) close() error {
	if f.busy {
		f.ended(<-f.done)
	}
	f.due.Stop()
	err := f.err
	if f.mixed {
		err = f.empty(nil, f.log.seq, false)
	}
	if err == nil && !f.doubt.Load() && f.log.signed() != f.last {
		_ = f.log.sign(f.last)
	}
	return err
}

// apply writes what the layers have into the file, in order, up to a record, and
// that it has the log so far. What is in list was not durable before.
func (f *file) apply(layers [2]*layer, at position, list []*entry) (r applied) {
	if f.unsure {
		// bbolt would write over pages that the tree on disk may still have.
		if r.err = assure(f.views.disk); r.err != nil {
			return r
		}
		f.unsure = false
	}
	f.views.await()
	var before *bolt.Tx
	defer func() {
		if before != nil {
			_ = guard(func() error { return f.views.rollback(before) })
		}
	}()
	r.err = guard(func() error {
		f.views.begin()
		defer f.views.end()
		tx, err := f.views.transact(true)
		if err != nil {
			return err
		}
		// A panic of bbolt must not leave its writer lock behind. After the
		// commit this does nothing.
		defer func() { _ = guard(func() error { return f.views.rollback(tx) }) }()
		for i := len(layers) - 1; i >= 0 && err == nil; i-- {
			if layers[i] != nil {
				err = layers[i].putInto(tx, at.seq)
			}
		}
		meta := bucketMeta.in(tx)
		if err == nil {
			err = meta.Put([]byte(keyLog), at.encode())
		}
		if err == nil && string(meta.Get([]byte(keyVersion))) == olderVersion {
			err = meta.Put([]byte(keyVersion), []byte(schemaVersion))
		}
		if err != nil {
			return fmt.Errorf("change: %w", err)
		}
		// What is begun now keeps no page from being used again. It would keep the
		// map from growing, for which this waited for ever.
		if len(list) > 0 && tx.Size() < f.views.mapped/2 {
			if before, err = f.views.transact(false); err != nil {
				return err
			}
		}
		reserve(f.views.disk, tx.Size())
		r.tx = tx.ID()
		f.coming(r.tx, at.seq)
		// bbolt writes the pages, syncs, writes the meta page and syncs again: a
		// kill at any moment leaves the state before or the one after.
		return tx.Commit()
	})
	r.shown = r.err == nil
	if r.err != nil && r.tx > 0 {
		f.resolve(&r)
	}
	if r.err != nil && r.shown && before != nil {
		r.err = errors.Join(r.err, guard(func() error {
			r.hides = hidden(before, layers, list)
			return nil
		}))
	}
	return r
}

// hidden is what the keys of a batch, which is the last in the layers, mapped to
// before that.
func hidden(tx *bolt.Tx, layers [2]*layer, list []*entry) *layer {
	l := new(layer)
	for _, e := range list {
		v := e.last.Load()
		batch := v.seq
		for v != nil && v.seq == batch {
			v = v.older
		}
		var value []byte
		switch {
		case v != nil:
			value = v.value
		default:
			var ok bool
			if layers[1] != nil {
				value, ok = layers[1].get(e.bucket, e.key, batch)
			}
			if !ok {
				value = bytes.Clone(e.bucket.in(tx).Get([]byte(e.key)))
			}
		}
		l.set(e.bucket, e.key, value, 0)
	}
	return l
}

// resolve says what became of a transaction that has failed. If the last sync did,
// bbolt shows it, and the disk may have it.
func (f *file) resolve(r *applied) {
	m, err := newest(f.views.disk)
	if err == nil && m != nil && m.txid < uint64(r.tx) {
		return
	}
	r.shown = err == nil && m != nil
	f.views.outdate()
	if r.shown {
		if err = assure(f.views.disk); err == nil && !errors.Is(r.err, ErrDamaged) {
			r.err = nil
			return
		}
	}
	f.unsure = true
	r.err = fmt.Errorf("%w: %w", ErrInDoubt, r.err)
}
