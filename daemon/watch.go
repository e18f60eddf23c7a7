package daemon

import (
	"context"
	"net/http"

	"storefs/event"
	"storefs/store"
)

// Status is what `storefs status` shows.
type Status struct {
	Hello
	Work
	Clients int `json:"clients"` // connected, this one included
}

// Status is the state of the owner now.
func (s *Server) Status() Status {
	s.mu.Lock()
	n := s.sessions
	s.mu.Unlock()
	return Status{Hello: s.Hello(), Work: s.Realiser.Work(), Clients: n}
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, s.Status())
	return nil
}

// Seen is one thing that a watching client gets: first the status, then
// events.
type Seen struct {
	Status *Status      `json:"status,omitempty"`
	Event  *event.Event `json:"event,omitempty"`
}

// Events are those that tell of s what happened before.
func (s *Status) Events() []event.Event {
	return s.Work.events(func(store.Path) bool { return true })
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request) error {
	logs := r.FormValue("logs") != ""
	sub := s.Events.Subscribe(func(e event.Event) bool { return logs || e.Kind != event.Log })
	defer sub.Close()
	ctx, cancel := s.untilClosing(r.Context())
	defer cancel()
	out := newStreamWriter(w)
	now := s.Status()
	sendEvents(out, Seen{Status: &now})
	for {
		events, ok := sub.Next(ctx)
		if !ok {
			out.end(nil, nil)
			return nil
		}
		seen := make([]Seen, len(events))
		for i := range events {
			seen[i].Event = &events[i]
		}
		sendEvents(out, seen...)
	}
}

// untilClosing ends with ctx or when the owner wants to end: what only watches
// must not hold it up.
func (s *Server) untilClosing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.open, cancel)
	return ctx, func() { stop(); cancel() }
}
