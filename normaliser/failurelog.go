package normaliser

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"storefs/store"
)

// failureLog writes failures to the store's memory, and clears them, in the
// order in which goals ended, without keeping the graph waiting: whatever came
// while a batch was written is the next batch.
type failureLog struct {
	store Memory

	mu     sync.Mutex
	queue  []logEntry
	sets   int           // failures in queue, and those that are being written
	ready  chan struct{} // has one element if queue may have some
	closed bool
	done   chan struct{}
}

// logEntry is one of: a failure to remember, a goal whose failure is to be
// forgotten, a function to be called when everything before it is written.
type logEntry struct {
	failure *store.Failure
	clear   store.Path
	then    func(error)
}

func newFailureLog(s Memory) *failureLog {
	l := &failureLog{store: s, ready: make(chan struct{}, 1), done: make(chan struct{})}
	go l.run()
	return l
}

func (l *failureLog) set(f *store.Failure)   { l.put(logEntry{failure: f}) }
func (l *failureLog) clear(p store.Path)     { l.put(logEntry{clear: p}) }
func (l *failureLog) after(then func(error)) { l.put(logEntry{then: then}) }

// cleared notes that the failure of p is forgotten already, with what was
// registered: only one that is not written yet must still be.
func (l *failureLog) cleared(p store.Path) {
	l.mu.Lock()
	pending := l.sets > 0
	l.mu.Unlock()
	if pending {
		l.clear(p)
	}
}

func (l *failureLog) put(e logEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.failure != nil {
		l.sets++
	}
	l.queue = append(l.queue, e)
	l.wake()
}

func (l *failureLog) wake() {
	select {
	case l.ready <- struct{}{}:
	default:
	}
}

// close writes what is queued and ends the log.
func (l *failureLog) close() {
	l.mu.Lock()
	l.closed = true
	l.wake()
	l.mu.Unlock()
	<-l.done
}

func (l *failureLog) run() {
	defer close(l.done)
	for range l.ready {
		l.mu.Lock()
		batch, closed := l.queue, l.closed
		l.queue = nil
		l.mu.Unlock()
		err := l.write(batch)
		l.mu.Lock()
		for _, e := range batch {
			if e.failure != nil {
				l.sets--
			}
		}
		l.mu.Unlock()
		for _, e := range batch {
			if e.then != nil {
				e.then(err)
			}
		}
		if closed {
			return
		}
	}
}

// write stores what a batch comes to: the last word on each goal.
func (l *failureLog) write(batch []logEntry) error {
	last := map[store.Path]int{}
	for i, e := range batch {
		switch {
		case e.failure != nil:
			last[e.failure.Chain[0]] = i
		case e.clear != "":
			last[e.clear] = i
		}
	}
	var sets []*store.Failure
	var clears []store.Path
	var errs []error
	for i, e := range batch {
		switch {
		case e.failure != nil && last[e.failure.Chain[0]] == i:
			sets = append(sets, e.failure)
		case e.clear != "" && last[e.clear] == i:
			// Most goals have never failed: reading that is cheap, a
			// transaction for each is not.
			f, err := l.store.Failure(e.clear)
			if err != nil {
				errs = append(errs, fmt.Errorf("forget the failure of %s: %w", e.clear, err))
			}
			if f != nil {
				clears = append(clears, e.clear)
			}
		}
	}
	ctx := context.Background() // what is queued is written, whoever has gone
	if len(sets) > 0 {
		if err := l.store.SetFailures(ctx, sets); err != nil {
			errs = append(errs, fmt.Errorf("remember failures: %w", err))
		}
	}
	if len(clears) > 0 {
		if err := l.store.ClearFailures(ctx, clears...); err != nil {
			errs = append(errs, fmt.Errorf("forget failures: %w", err))
		}
	}
	return errors.Join(errs...)
}
