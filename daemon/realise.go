package daemon

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"storefs/event"
	"storefs/normaliser"
	"storefs/store"
)

// Seen is one thing that a client hears while it waits; exactly one field is
// set.
type Seen struct {
	Status *Status      `json:"status,omitempty"` // to a client that watches: first, and after event.Missed
	Event  *event.Event `json:"event,omitempty"`
	// Remaining is an estimate of the time until all that was asked for is done or, to a
	// client that watches, all that the owner does.
	Remaining time.Duration `json:"remaining,omitempty"`
	// Waiters, to a client that watches: who waits for what now.
	Waiters *[]normaliser.Waiter `json:"waiters,omitempty"`
}

func (s *Server) realise(w http.ResponseWriter, r *http.Request) error {
	var req RealiseRequest
	if err := readRequest(w, r, func(data []byte) error { return decodeRequest(data, &req) }); err != nil {
		return err
	}
	out := newStreamWriter(w)
	v := s.newView(req.Logs)
	v.details = req.Details
	var pump sync.WaitGroup
	pump.Go(func() { v.pump(out) })
	result, err := s.Realiser.Realise(r.Context(), normaliser.Request{
		Targets:    req.Targets,
		Caller:     callerOf(r.Context()),
		KeepGoing:  req.KeepGoing,
		Jobs:       req.Jobs,
		Limits:     req.Limits,
		KeepFailed: req.KeepFailed,
		Check:      req.Check,
		Orphans:    normaliser.Orphans{Cancel: true}, // a client that went does not want it any more
		Planned:    v.plan,
	})
	v.sub.Close()
	v.close()
	pump.Wait()
	out.end(result, s.closing(err))
	return nil
}

func (s *Server) plan(w http.ResponseWriter, r *http.Request) error {
	var req pathsRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	p, err := s.Realiser.Plan(r.Context(), req.Paths)
	if err != nil {
		return err
	}
	writeJSON(w, p)
	return nil
}

// view is one request's part of the event stream: the events of its goals. As
// goals may have been added, or may even run, before the request came, each
// begins with events that bring the client up to date.
type view struct {
	sub     *event.Subscription
	now     func() normaliser.Status
	left    func(goals map[store.Path]bool) time.Duration
	details bool // send also what the next event makes old news

	unplanned context.Context // ends when the goals are known
	known     context.CancelFunc
	open      context.Context // ends when no more events come
	close     context.CancelFunc

	mu    sync.Mutex
	goals map[store.Path]bool // nil before plan
}

func (s *Server) newView(logs bool) *view {
	v := &view{now: s.Realiser.Status, left: s.Realiser.Remaining}
	v.unplanned, v.known = context.WithCancel(context.Background())
	v.open, v.close = context.WithCancel(context.Background())
	v.sub = s.Events.Subscribe(func(e event.Event) bool {
		return e.Goal != "" && (logs || e.Kind != event.Log) && v.may(e.Goal)
	})
	return v
}

// may reports whether p is, or may turn out to be, a goal of the request.
func (v *view) may(p store.Path) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.goals == nil || v.goals[p]
}

// all are the request's goals. The normaliser's own goroutine, which is asked about them,
// may be about to add to them.
func (v *view) all() map[store.Path]bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.goals)
}

// plan takes the request's goals. It never blocks: the normaliser's own
// goroutine may call it.
func (v *view) plan(goals []store.Path) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.goals == nil {
		v.goals = make(map[store.Path]bool, len(goals))
	}
	for _, g := range goals {
		v.goals[g] = true
	}
	v.known()
}

// pump sends events until the subscription is closed; nothing before it is
// known which are the request's own.
func (v *view) pump(out *streamWriter) {
	defer v.known()
	var held []event.Event
	for v.unplanned.Err() == nil {
		events, ok := v.sub.Next(v.unplanned)
		held = append(held, events...)
		if !ok && v.unplanned.Err() == nil {
			return
		}
	}
	// What came before the goals were known may still wait: with it, catchUp
	// says nothing twice.
	events, _ := v.sub.Next(v.unplanned)
	held = append(held, events...)
	v.send(out, v.catchUp(held))
	passOn(context.Background(), v.open, v.sub, out,
		func() []Seen { return remaining(v.left(v.all())) },
		func(events []event.Event) bool { v.send(out, events); return false })
}

func (v *view) send(out *streamWriter, events []event.Event) {
	if !v.details {
		events = condense(events)
	}
	var ours []Seen
	for i, e := range events {
		if e.Kind == event.Lost || v.may(e.Goal) {
			ours = append(ours, Seen{Event: &events[i]})
		}
	}
	sendEvents(out, ours...)
}

// condense leaves out how goals got to where they have come by the end of
// events: of goals that take a millisecond nobody can see more.
func condense(events []event.Event) []event.Event {
	last := make(map[store.Path]int) // the last phase or end of each goal
	for i, e := range events {
		switch e.Kind {
		case event.Phase, event.Done, event.Failed, event.Dropped:
			last[e.Goal] = i
		}
	}
	if len(last) == 0 {
		return events
	}
	kept := make([]event.Event, 0, len(events))
	for i, e := range events {
		at, ok := last[e.Goal]
		old := e.Kind == event.Freed || ok && i < at && (e.Kind == event.Phase || e.Kind == event.Started && events[at].Kind != event.Phase)
		if !old {
			kept = append(kept, e)
		}
	}
	return kept
}

// catchUp puts before held, the events that have come meanwhile, those that tell of goals
// what happened before, where held does not tell it. What it tells itself is said once.
func (v *view) catchUp(held []event.Event) []event.Event {
	added := make(map[store.Path]bool)
	for _, e := range held {
		if e.Kind == event.Added {
			added[e.Goal] = true
		}
	}
	now := time.Now()
	running := v.now().Running
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []event.Event
	for g := range v.goals {
		if !added[g] {
			all = append(all, event.Event{Time: now, Kind: event.Added, Goal: g})
		}
	}
	var before []event.Event
	told := make(map[store.Path]bool)
	for _, g := range running {
		if v.goals[g.Goal] && !added[g.Goal] {
			before = append(before, past(g)...)
			told[g.Goal] = true
		}
	}
	// One may have the slot that another one gave back.
	slices.SortStableFunc(before, func(a, b event.Event) int { return a.Time.Compare(b.Time) })
	all = append(all, before...)
	for _, e := range held {
		switch e.Kind {
		case event.Started, event.Phase, event.Freed:
			if told[e.Goal] && e.Time.Before(now) {
				continue
			}
		}
		all = append(all, e)
	}
	return all
}

// past are the events that tell what happened to a running goal before. Of its phases
// no more is known than which it has come to.
func past(g normaliser.Running) []event.Event {
	all := []event.Event{{Time: g.Since, Kind: event.Started, Goal: g.Goal, Expected: g.Expected, Count: g.Slots}}
	if g.Apart {
		all[0].Text = event.SlotApart
	}
	since := g.Since
	if !g.Freed.IsZero() {
		since = g.Freed
		all = append(all,
			event.Event{Time: g.Since, Kind: event.Phase, Goal: g.Goal, Text: event.PhaseBuild},
			event.Event{Time: since, Kind: event.Freed, Goal: g.Goal},
		)
	}
	if g.Phase != "" { // a substitute has none
		all = append(all, event.Event{Time: since, Kind: event.Phase, Goal: g.Goal, Text: g.Phase})
	}
	return all
}

// looks is the time between two looks at how far everything has come, and soon that
// before one at what comes of the end of something that somebody waited for.
const (
	looks = 2 * time.Second
	soon  = 100 * time.Millisecond
)

// gather is how long events are collected before they are sent: it is not seen,
// and spares most wake-ups and messages of a quick build.
const gather = 20 * time.Millisecond

// passOn gives what happens to each, until sub is closed or ctx ends, and now
// and then, or soon when each says so, what there is to say of how far everything has come to out. When open
// ends, which it does with sub at the latest, nothing is gathered any more.
func passOn(ctx, open context.Context, sub *event.Subscription, out *streamWriter, look func() []Seen, each func([]event.Event) bool) {
	due := time.Now().Add(looks)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	timer := time.NewTimer(gather)
	defer timer.Stop()
	for {
		wait, cancel := context.WithDeadline(ctx, due)
		events, ok := sub.Next(wait)
		late := wait.Err() != nil
		cancel()
		if !ok && (!late || ctx.Err() != nil) {
			return
		}
		if len(events) > 0 {
			timer.Reset(gather)
			select {
			case <-timer.C:
			case <-open.Done():
			}
			more, _ := sub.Next(gone) // what is there, without waiting
			if at := time.Now().Add(soon); each(append(events, more...)) && at.Before(due) {
				due = at
			}
		}
		if now := time.Now(); !now.Before(due) {
			due = now.Add(looks)
			sendEvents(out, look()...)
		}
	}
}

// remaining is an estimate, if there is one.
func remaining(left time.Duration) []Seen {
	if left <= 0 {
		return nil
	}
	return []Seen{{Remaining: left}}
}
