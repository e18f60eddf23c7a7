package timeline

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"storefs/event"
)

// entry is one event of Chrome's trace format. Times are microseconds.
type entry struct {
	Name     string         `json:"name"`
	Category string         `json:"cat,omitempty"`
	Phase    string         `json:"ph"` // X complete, M metadata, b and e the ends of what has no thread
	Start    float64        `json:"ts"`
	Duration *float64       `json:"dur,omitempty"`
	Process  int            `json:"pid"`
	Thread   int            `json:"tid"`
	ID       string         `json:"id,omitempty"`
	Args     map[string]any `json:"args,omitempty"`
}

// The tracks of a trace, which calls them processes, in the order in which they
// are shown.
const (
	trackSlots = iota + 1
	trackAfter
	trackWaiting
)

// WriteTrace writes the run in Chrome's trace format: each goal, with its
// phases, on the slot that it had; after that, on tracks of their own, how it was
// scanned and registered; before that, its waits for inputs and for a slot. The
// counts are of all goals, also of those that needed nothing and had no event.
func (r *Run) WriteTrace(w io.Writer, counts event.Counts) error {
	t := &trace{w: bufio.NewWriter(w)}
	for _, g := range r.order {
		if t.base.IsZero() || g.Added.Before(t.base) {
			t.base = g.Added
		}
		// What ran already when it was joined had begun before.
		if !g.Started.IsZero() && g.Started.Before(t.base) {
			t.base = g.Started
		}
	}
	t.text(`{"displayTimeUnit":"ms","traceEvents":[`)
	for i, name := range []string{"slots", "without a slot", "waiting for inputs or a slot"} {
		track := trackSlots + i
		t.add(entry{Name: "process_name", Phase: "M", Process: track, Args: map[string]any{"name": name}})
		t.add(entry{Name: "process_sort_index", Phase: "M", Process: track, Args: map[string]any{"sort_index": track}})
	}
	for lane := range r.free {
		t.add(entry{Name: "thread_name", Phase: "M", Process: trackSlots, Thread: lane + 1, Args: map[string]any{"name": fmt.Sprintf("slot %d", lane+1)}})
	}
	for i, g := range r.order {
		r.traceGoal(t, g, fmt.Sprint(i))
	}
	t.text("\n]")
	about, err := json.Marshal(counts)
	if err != nil {
		return err
	}
	t.text(`,"otherData":` + string(about) + "}\n")
	if t.err == nil {
		t.err = t.w.Flush()
	}
	if t.err != nil {
		return fmt.Errorf("write trace: %w", t.err)
	}
	return nil
}

func (r *Run) traceGoal(t *trace, g *Goal, id string) {
	name := g.Path.Name()
	ready, last := r.ready(g)
	if !g.Started.IsZero() {
		if last != nil {
			t.span(name, "inputs", id, trackWaiting, g.Added, ready)
		}
		begun := g.Started
		if len(g.Phases) > 0 {
			begun = earlier(begun, g.Phases[0].Start) // it waited for a lock
		}
		t.span(name, "slot", id, trackWaiting, ready, begun)
	}
	if !g.ran() {
		return
	}
	args := map[string]any{"path": g.Path, "outcome": g.Outcome}
	if last != nil {
		args["waited for"] = last.Path.Name()
	}
	if g.Holds > 1 {
		args["slots"] = g.Holds // of which it is shown on one: the others only look free
	}
	t.slice(name, "goal", g.Lane, g.Started, g.Freed, args)
	for i, p := range g.Phases {
		end := g.Ended
		if i+1 < len(g.Phases) {
			end = g.Phases[i+1].Start
		}
		if p.Start.Before(g.Started) {
			t.span(name, p.Name, id, trackAfter, p.Start, earlier(end, g.Started))
			continue
		}
		if p.Start.Before(g.Freed) {
			t.slice(p.Name, "phase", g.Lane, p.Start, earlier(end, g.Freed), nil)
		}
		if end.After(g.Freed) {
			begin := p.Start
			if begin.Before(g.Freed) {
				begin = g.Freed
			}
			t.span(name, p.Name, id, trackAfter, begin, end)
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// trace writes entries.
type trace struct {
	w     *bufio.Writer
	base  time.Time
	count int
	err   error
}

func (t *trace) add(e entry) {
	b, err := json.Marshal(e)
	if err != nil && t.err == nil {
		t.err = err
	}
	if t.count++; t.count > 1 {
		t.text(",")
	}
	t.text("\n" + string(b))
}

func (t *trace) text(s string) {
	if t.err == nil {
		_, t.err = t.w.WriteString(s)
	}
}

func (t *trace) micros(at time.Time) float64 {
	return float64(at.Sub(t.base).Nanoseconds()) / 1000
}

// slice is time on a slot.
func (t *trace) slice(name, category string, lane int, start, end time.Time, args map[string]any) {
	d := float64(end.Sub(start).Nanoseconds()) / 1000
	t.add(entry{
		Name: name, Category: category, Phase: "X", Start: t.micros(start), Duration: &d,
		Process: trackSlots, Thread: lane + 1, Args: args,
	})
}

// span is time of a goal outside of slots: any number of them may overlap.
func (t *trace) span(name, what, id string, track int, start, end time.Time) {
	if !end.After(start) {
		return
	}
	for _, e := range []entry{
		{Name: what + ": " + name, Phase: "b", Start: t.micros(start)},
		{Name: what + ": " + name, Phase: "e", Start: t.micros(end)},
	} {
		e.Category, e.ID, e.Process = what, id, track
		t.add(e)
	}
}
