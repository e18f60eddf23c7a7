package daemon

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"storefs/event"
	"storefs/normaliser"
	"storefs/progress"
)

// Status is what `storefs status` shows.
type Status struct {
	Hello
	normaliser.Status
	Clients int `json:"clients"` // connected, but for those that only watch
}

// Status is the state of the owner now.
func (s *Server) Status() Status {
	s.mu.Lock()
	n := s.sessions
	s.mu.Unlock()
	return Status{Hello: s.Hello(), Status: s.Realiser.Status(), Clients: n}
}

// Headline is one line: which store, and who owns it.
func (s *Status) Headline() string {
	line := fmt.Sprintf("store %s, state %s, owned by storefs %s (pid %d)", s.Store, s.State, s.Role, s.PID)
	if s.Mountpoint != "" {
		line += ", mounted at " + s.Mountpoint
	}
	return line
}

// Text is the status for people: lines, each ended by a newline.
func (s *Status) Text(now time.Time) string {
	var b strings.Builder
	b.WriteString(s.Headline() + "\n")
	fmt.Fprintf(&b, "goals: %d running, %d ready, %d waiting; %d done, %d failed since the owner began; %d jobs\n",
		len(s.Running), s.Buildable, s.Waiting, s.Done, s.Failed, s.Jobs)
	if s.Remaining > 0 {
		fmt.Fprintf(&b, "about %s left\n", progress.About(s.Remaining))
	}
	for _, g := range s.Running {
		fmt.Fprintf(&b, "  %s", progress.Duration(now.Sub(g.Since)))
		if g.Expected > 0 {
			fmt.Fprintf(&b, " of %s", progress.Duration(g.Expected))
		}
		fmt.Fprintf(&b, " %s", g.Goal)
		if g.Phase != "" {
			fmt.Fprintf(&b, " (%s)", g.Phase)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Events are those that tell what happened to the running goals before.
func (s *Status) Events() []event.Event {
	var all []event.Event
	for _, g := range s.Running {
		all = append(all, past(g)...)
	}
	return all
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, s.Status())
	return nil
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
	passOn(ctx, sub, s.Realiser.Status, out, func(events []event.Event) {
		seen := make([]Seen, len(events))
		for i := range events {
			seen[i].Event = &events[i]
		}
		sendEvents(out, seen...)
	})
	out.end(nil, nil)
	return nil
}

// untilClosing ends with ctx or when the owner wants to end: what only watches
// must not hold it up.
func (s *Server) untilClosing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.open, cancel)
	return ctx, func() { stop(); cancel() }
}
