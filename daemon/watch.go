package daemon

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
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
	// Mount is what the mount does, nil if there is none.
	Mount *MountStatus `json:"mount,omitempty"`
}

// MountStatus is what a mount does.
type MountStatus struct {
	Data string `json:"data"` // how the contents of files reach the kernel
	// Nodes are the files and directories that the kernel remembers.
	Nodes int `json:"nodes"`
	// Requests are how many requests of the kernel were answered, by their
	// names. What the kernel has in its caches asks for none.
	Requests map[string]uint64 `json:"requests"`
}

// Status is the state of the owner now.
func (s *Server) Status() Status {
	s.mu.Lock()
	n := s.sessions
	s.mu.Unlock()
	now := Status{Hello: s.Hello(), Status: s.Realiser.Status(), Clients: n}
	if s.Mount != nil {
		now.Mount = s.Mount()
	}
	return now
}

// Headline is one line: which store, and who owns it.
func (s *Status) Headline() string {
	line := fmt.Sprintf("store %s, state %s, owned by storefs %s (pid %d)", s.Store, s.State, s.Role, s.PID)
	if s.Role == "status" && s.PID == os.Getpid() {
		line = fmt.Sprintf("store %s, state %s, nobody serves it", s.Store, s.State) // but who asks
	}
	if s.Mountpoint != "" {
		line += ", mounted at " + s.Mountpoint
	}
	return line
}

// Text is the status for people: lines, each ended by a newline.
func (s *Status) Text(now time.Time) string {
	var b strings.Builder
	b.WriteString(s.Headline() + "\n")
	fmt.Fprintf(&b, "goals: %d running, %d ready, %d waiting; %d jobs\n", len(s.Running), s.Buildable, s.Waiting, s.Jobs)
	if counts := s.Counts.String(); counts != "" {
		fmt.Fprintf(&b, "since the owner began: %s\n", counts)
	}
	if s.Held != "" {
		fmt.Fprintf(&b, "nothing is started beside what runs: %s\n", s.Held)
	}
	if m := s.Mount; m != nil {
		fmt.Fprintf(&b, "mount: data %s, %d files known to the kernel; requests:", m.Data, m.Nodes)
		for _, name := range slices.Sorted(maps.Keys(m.Requests)) {
			fmt.Fprintf(&b, " %s %d", name, m.Requests[name])
		}
		b.WriteString("\n")
	}
	if s.Remaining > 0 {
		fmt.Fprintf(&b, "about %s left%s\n", progress.About(s.Remaining), s.guessed())
	}
	if e := s.Estimates; e.Count > 0 {
		fmt.Fprintf(&b, "estimates: half of the last %d were within %.0f%%\n", e.Count, max(1, 100*e.MedianError))
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
		if g.Background {
			b.WriteString(" in the background")
		}
		b.WriteString("\n")
	}
	if len(s.Waiters) > 0 {
		fmt.Fprintf(&b, "waiting: %d\n", len(s.Waiters))
	}
	for i, w := range Watched(s.Waiters) {
		if i == maxWaiters && len(s.Waiters) > maxWaiters+1 {
			fmt.Fprintf(&b, "  … and %d more\n", len(s.Waiters)-i)
			break
		}
		fmt.Fprintf(&b, "  %s %s\n", progress.Duration(now.Sub(w.Since)), w.Now(now))
	}
	return b.String()
}

// guessed says how much of the time that is left nobody knows.
func (s *Status) guessed() string {
	if s.Unknown == 0 {
		return ""
	}
	return fmt.Sprintf(", if the %d goals that were never built take as long as others", s.Unknown)
}

// maxWaiters is how many waiters Text lists.
const maxWaiters = 20

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
	sub := s.Events.Watch(func(e event.Event) bool { return logs || e.Kind != event.Log })
	defer sub.Close()
	ctx := r.Context()
	out := newStreamWriter(w)
	now := s.Status()
	sendEvents(out, Seen{Status: &now})
	waiters := now.Waiters
	look := func() []Seen {
		now := s.Realiser.Status()
		seen := remaining(now.Remaining)
		if !sameWaiters(now.Waiters, waiters) {
			waiters = append([]normaliser.Waiter{}, now.Waiters...) // also none must be said
			seen = append(seen, Seen{Waiters: &waiters})
		}
		return seen
	}
	passOn(ctx, ctx, sub, out, look, func(events []event.Event) (over bool) {
		seen := make([]Seen, 0, len(events))
		for i := range events {
			seen = append(seen, Seen{Event: &events[i]})
			if events[i].Kind == event.Missed {
				now := s.Status()
				waiters = now.Waiters
				seen = append(seen, Seen{Status: &now})
			}
			over = over || isOver(events[i], waiters)
		}
		sendEvents(out, seen...)
		return over
	})
	out.end(nil, nil)
	return nil
}

// isOver reports whether e is the end of what somebody waits for.
func isOver(e event.Event, waiters []normaliser.Waiter) bool {
	switch e.Kind {
	case event.Done, event.Failed, event.Dropped:
		return slices.ContainsFunc(waiters, func(w normaliser.Waiter) bool { return e.Goal == w.Goal || e.Goal == w.Path })
	}
	return false
}
