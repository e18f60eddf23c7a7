package event

import (
	"context"
	"slices"
	"sync"
	"time"
)

// maxQueuedLog bounds the log lines that wait for a slow reader. Events of
// other kinds are dropped for those only who Watch: there are at most a handful a goal.
const maxQueuedLog = 4096

// maxWatched bounds the events of other kinds that wait for one who watches: some
// thousands of goals, and as many megabytes.
const maxWatched = 1 << 15

// maxRoom bounds the room that a queue begins with.
const maxRoom = 256

// Bus hands every published event to every reader that subscribed before. The
// zero Bus is ready. Publish never blocks, whatever the readers do.
type Bus struct {
	mu   sync.Mutex
	subs []*Subscription
}

// Subscription is one reader's queue. Close it, or it grows.
type Subscription struct {
	bus    *Bus
	filter func(Event) bool

	mu     sync.Mutex
	queue  []Event
	room   int // of the next queue: as much as the last one held
	logs   int // Log events in queue
	lost   int // Log events dropped since the last Next
	most   int // the length of queue at which all of it is dropped; 0: never
	missed int // events dropped so since the last Next
	ready  chan struct{}
	closed bool
}

// Publish gives e to all readers, with the time now if it has none.
func (b *Bus) Publish(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.subs {
		if s.filter == nil || s.filter(e) {
			s.put(e)
		}
	}
}

// Subscribe begins to collect the events that filter accepts (all, if it is
// nil). filter runs inside Publish: it must be quick and must not publish.
func (b *Bus) Subscribe(filter func(Event) bool) *Subscription { return b.subscribe(filter, 0) }

// Watch is Subscribe for a reader who stays however much happens: if he reads nothing
// for long, he gets Missed in the place of what he has not read.
func (b *Bus) Watch(filter func(Event) bool) *Subscription {
	return b.subscribe(filter, maxWatched+maxQueuedLog)
}

func (b *Bus) subscribe(filter func(Event) bool, most int) *Subscription {
	s := &Subscription{bus: b, filter: filter, most: most, ready: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs = append(b.subs, s)
	return s
}

func (s *Subscription) put(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.most > 0 && len(s.queue) >= s.most {
		s.missed += len(s.queue) + s.lost
		s.queue, s.logs, s.lost = nil, 0, 0
	}
	if e.Kind == Log {
		if s.logs >= maxQueuedLog {
			s.lost++
			return
		}
		s.logs++
	}
	if s.queue == nil {
		s.queue = make([]Event, 0, s.room)
	}
	s.queue = append(s.queue, e)
	s.wake()
}

func (s *Subscription) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Next waits for events and returns all that there are, oldest first. After
// Close it returns what is left and then nothing, with false.
func (s *Subscription) Next(ctx context.Context) ([]Event, bool) {
	for {
		s.mu.Lock()
		q, lost, missed, closed := s.queue, s.lost, s.missed, s.closed
		s.queue, s.logs, s.lost, s.missed = nil, 0, 0, 0
		if len(q) > 0 {
			s.room = min(len(q), maxRoom)
		}
		s.mu.Unlock()
		if lost > 0 {
			q = append(q, Event{Time: time.Now(), Kind: Lost, Count: lost})
		}
		if missed > 0 {
			q = slices.Insert(q, 0, Event{Time: q[0].Time, Kind: Missed, Count: missed})
		}
		if len(q) > 0 {
			return q, true
		}
		if closed {
			return nil, false
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// Close ends the subscription: a Next that waits returns.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	if i := slices.Index(s.bus.subs, s); i >= 0 {
		s.bus.subs = slices.Delete(s.bus.subs, i, i+1)
	}
	s.bus.mu.Unlock()
	s.mu.Lock()
	s.closed = true
	s.wake()
	s.mu.Unlock()
}
