package daemon

import (
	"context"
	"net/http"
	"sync"
	"time"

	"storefs/event"
	"storefs/normaliser"
	"storefs/store"
)

// Seen is one thing that a client hears while it waits; exactly one field is
// set.
type Seen struct {
	Status *Status      `json:"status,omitempty"` // first, to a client that watches
	Event  *event.Event `json:"event,omitempty"`
	// Remaining is an estimate of the time until all that the owner does is
	// done.
	Remaining time.Duration `json:"remaining,omitempty"`
}

func (s *Server) realise(w http.ResponseWriter, r *http.Request) error {
	var req RealiseRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	out := newStreamWriter(w)
	v := s.newView(req.Logs)
	var pump sync.WaitGroup
	pump.Go(func() { v.pump(out) })
	result, err := s.Realiser.Realise(r.Context(), normaliser.Request{
		Targets:    req.Targets,
		KeepGoing:  req.KeepGoing,
		Jobs:       req.Jobs,
		Limits:     req.Limits,
		KeepFailed: req.KeepFailed,
		Check:      req.Check,
		Orphans:    normaliser.Orphans{Cancel: true}, // a client that went does not want it any more
		Planned:    v.plan,
	})
	v.sub.Close()
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
	sub *event.Subscription
	now func() normaliser.Status

	unplanned context.Context // ends when the goals are known
	known     context.CancelFunc

	mu    sync.Mutex
	goals map[store.Path]bool // nil before plan
}

func (s *Server) newView(logs bool) *view {
	v := &view{now: s.Realiser.Status}
	v.unplanned, v.known = context.WithCancel(context.Background())
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
	v.send(out, v.catchUp())
	v.send(out, held)
	passOn(context.Background(), v.sub, v.now, out, func(events []event.Event) { v.send(out, events) })
}

func (v *view) send(out *streamWriter, events []event.Event) {
	var ours []Seen
	for i, e := range events {
		if e.Kind == event.Lost || v.may(e.Goal) {
			ours = append(ours, Seen{Event: &events[i]})
		}
	}
	sendEvents(out, ours...)
}

// catchUp makes the events that tell of goals what happened before.
func (v *view) catchUp() []event.Event {
	running := v.now().Running
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	var all []event.Event
	for g := range v.goals {
		all = append(all, event.Event{Time: now, Kind: event.Added, Goal: g})
	}
	for _, g := range running {
		if v.goals[g.Goal] {
			all = append(all, past(g)...)
		}
	}
	return all
}

// past are the events that tell what happened to a running goal before.
func past(g normaliser.Running) []event.Event {
	return []event.Event{
		{Time: g.Since, Kind: event.Started, Goal: g.Goal, Expected: g.Expected},
		{Time: g.Since, Kind: event.Phase, Goal: g.Goal, Text: g.Phase},
	}
}

// estimates is the time between two estimates of what remains.
const estimates = 2 * time.Second

// passOn gives what happens to each, until sub is closed or ctx ends, and an
// estimate of what remains to out now and then.
func passOn(ctx context.Context, sub *event.Subscription, now func() normaliser.Status, out *streamWriter, each func([]event.Event)) {
	last := time.Now()
	for {
		wait, cancel := context.WithTimeout(ctx, estimates)
		events, ok := sub.Next(wait)
		late := wait.Err() != nil
		cancel()
		if !ok && (!late || ctx.Err() != nil) {
			return
		}
		each(events)
		if time.Since(last) >= estimates {
			last = time.Now()
			if left := now().Remaining; left > 0 {
				sendEvents(out, Seen{Remaining: left})
			}
		}
	}
}
