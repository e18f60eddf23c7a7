package daemon

import (
	"context"
	"net/http"
	"sync"
	"time"

	"storefs/event"
	"storefs/store"
)

func (s *Server) realise(w http.ResponseWriter, r *http.Request) error {
	var req RealiseRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	out := newStreamWriter(w)
	v := s.newView(req.Logs)
	var pump sync.WaitGroup
	pump.Go(func() { v.pump(out) })
	results, err := s.Realiser.Realise(r.Context(), req, v.plan)
	v.sub.Close()
	pump.Wait()
	out.end(results, err)
	return nil
}

func (s *Server) plan(w http.ResponseWriter, r *http.Request) error {
	var req RealiseRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	p, err := s.Realiser.Plan(r.Context(), req.Targets)
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
	sub  *event.Subscription
	work func() Work

	unplanned context.Context // ends when the goals are known
	known     context.CancelFunc

	mu    sync.Mutex
	goals map[store.Path]bool // nil before plan
}

func (s *Server) newView(logs bool) *view {
	v := &view{work: s.Realiser.Work}
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
	sendEvents(out, v.catchUp()...)
	v.send(out, held)
	for {
		events, ok := v.sub.Next(context.Background())
		if !ok {
			return
		}
		v.send(out, events)
	}
}

func (v *view) send(out *streamWriter, events []event.Event) {
	var ours []event.Event
	for _, e := range events {
		if e.Kind == event.Lost || v.may(e.Goal) {
			ours = append(ours, e)
		}
	}
	sendEvents(out, ours...)
}

// catchUp makes the events that tell of goals what happened before.
func (v *view) catchUp() []event.Event {
	work := v.work()
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	var all []event.Event
	for g := range v.goals {
		all = append(all, event.Event{Time: now, Kind: event.Added, Goal: g})
	}
	return append(all, work.events(func(g store.Path) bool { return v.goals[g] })...)
}

// events are those that tell of w what happened before.
func (w Work) events(of func(store.Path) bool) []event.Event {
	var all []event.Event
	for _, g := range w.Running {
		if of(g.Goal) {
			all = append(all,
				event.Event{Time: g.Started, Kind: event.Started, Goal: g.Goal, Expected: g.Expected},
				event.Event{Time: g.Started, Kind: event.Phase, Goal: g.Goal, Text: g.Phase})
		}
	}
	return all
}
