package timeline

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"storefs/event"
)

// entry is one event of Chrome's trace format. Times are microseconds, and whole ones:
// Perfetto reads others as floating point and rounds each down to nanoseconds, so that
// the end of a phase came behind that of its goal at times, and the phase was left out.
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

// The tracks of a trace, which calls them processes.
const (
	trackSlots = iota + 1
	trackApart
	trackAfter
	trackWaiting
	trackPath
)

// tracks are their names, in the order in which they are shown.
var tracks = []struct {
	number int
	name   string
}{
	{trackPath, "critical path"},
	{trackSlots, "slots"},
	{trackApart, "slots for substitution"},
	{trackAfter, "without a slot"},
	{trackWaiting, "waiting for inputs or a slot"},
}

// prepare is what a trace calls the time on a slot before the first phase: the outputs
// are locked, and the closure of the inputs is found.
const prepare = "prepare"

// WriteTrace writes the run in Chrome's trace format: each goal, with its
// phases, on the slot that it had; after that, on a track of its own, how it was
// scanned and registered; before that, its waits for inputs and for a slot; and the
// critical path. The counts are of all goals, also of those that needed nothing and had
// no event.
func (r *Run) WriteTrace(w io.Writer, counts event.Counts) error {
	t := &trace{w: bufio.NewWriter(w), lanes: map[int]int{}}
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
	for i, track := range tracks {
		if track.number == trackApart && len(r.apart) == 0 {
			continue
		}
		t.add(entry{Name: "process_name", Phase: "M", Process: track.number, Args: map[string]any{"name": track.name}})
		t.add(entry{Name: "process_sort_index", Phase: "M", Process: track.number, Args: map[string]any{"sort_index": i + 1}})
	}
	for lane := range r.free {
		t.thread(trackSlots, fmt.Sprintf("slot %d", lane+1))
	}
	for lane := range r.apart {
		t.thread(trackApart, fmt.Sprintf("slot %d for substitution", lane+1))
	}
	for i, g := range r.order {
		r.traceGoal(t, g, fmt.Sprint(i))
	}
	t.layOut()
	if steps := r.CriticalPath(); len(steps) > 0 {
		thread := t.thread(trackPath, "critical path")
		for _, s := range steps {
			t.slice(s.Goal.Path.Name(), "critical", trackPath, thread, s.Goal.Started, s.Goal.Started.Add(s.Took), nil)
		}
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
	args := map[string]any{"path": g.Path, "outcome": g.Outcome}
	if g.Started.IsZero() {
		// It never had a slot: an input failed, say, or it was there already.
		if !g.Ended.IsZero() {
			t.span(name, "inputs", id, g.Added, g.Ended, args)
		}
		return
	}
	if last != nil {
		t.span(name, "inputs", id, g.Added, ready, nil)
	}
	begun := g.Started
	if len(g.Phases) > 0 {
		begun = earlier(begun, g.Phases[0].Start) // it waited for a lock
	}
	t.span(name, "slot", id, ready, begun, nil)
	if g.Ended.IsZero() {
		return
	}
	if last != nil {
		args["waited for"] = last.Path.Name()
	}
	if g.Holds > 1 {
		args["slots"] = g.Holds // of which it is shown on one: the others only look free
	}
	if g.Expected > 0 {
		args["expected ms"] = g.Expected.Milliseconds()
	}
	track, thread := trackSlots, g.Lane+1
	if g.Apart {
		track, thread = trackApart, len(r.free)+g.Lane+1
	}
	t.slice(name, "goal", track, thread, g.Started, g.Freed, args)
	before, after := stay{name: name}, stay{name: name}
	onSlot := g.Started
	for i, p := range g.Phases {
		end := g.Ended
		if i+1 < len(g.Phases) {
			end = g.Phases[i+1].Start
		}
		if p.Start.Before(g.Started) {
			before.add(p.Name, p.Start, earlier(end, g.Started))
			continue
		}
		if onSlot.Equal(g.Started) && onSlot.Before(p.Start) {
			t.slice(prepare, "phase", track, thread, onSlot, earlier(p.Start, g.Freed), nil)
		}
		onSlot = end
		if p.Start.Before(g.Freed) {
			t.slice(p.Name, "phase", track, thread, p.Start, earlier(end, g.Freed), nil)
		}
		after.add(p.Name, later(p.Start, g.Freed), end)
	}
	t.stays = append(t.stays, before, after)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// stay is a time of a goal without a slot.
type stay struct {
	name   string
	phases []Phase // one follows the other
	end    time.Time
}

func (s *stay) add(phase string, start, end time.Time) {
	if end.After(start) {
		s.phases, s.end = append(s.phases, Phase{phase, start}), end
	}
}

// trace writes entries.
type trace struct {
	w     *bufio.Writer
	base  time.Time
	count int
	lanes map[int]int // threads by track
	tids  int
	stays []stay
	err   error
}

// thread begins another thread of a track. No two threads of a trace have the same
// number: there are readers who tell them apart by nothing else.
func (t *trace) thread(track int, name string) int {
	t.tids++
	t.lanes[track]++
	t.add(entry{Name: "thread_name", Phase: "M", Process: track, Thread: t.tids, Args: map[string]any{"name": name}})
	t.add(entry{Name: "thread_sort_index", Phase: "M", Process: track, Thread: t.tids, Args: map[string]any{"sort_index": t.lanes[track]}})
	return t.tids
}

// layOut writes the stays on as few threads as there are at a time.
func (t *trace) layOut() {
	t.stays = slices.DeleteFunc(t.stays, func(s stay) bool { return len(s.phases) == 0 })
	slices.SortStableFunc(t.stays, func(a, b stay) int { return a.phases[0].Start.Compare(b.phases[0].Start) })
	type lane struct {
		thread int
		end    time.Time
	}
	var lanes []lane
	for _, s := range t.stays {
		start := s.phases[0].Start
		i := slices.IndexFunc(lanes, func(l lane) bool { return !l.end.After(start) })
		if i < 0 {
			i = len(lanes)
			lanes = append(lanes, lane{thread: t.thread(trackAfter, "without a slot")})
		}
		lanes[i].end = s.end
		t.slice(s.name, "after", trackAfter, lanes[i].thread, start, s.end, nil)
		for j, p := range s.phases {
			end := s.end
			if j+1 < len(s.phases) {
				end = s.phases[j+1].Start
			}
			t.slice(p.Name, "phase", trackAfter, lanes[i].thread, p.Start, end, nil)
		}
	}
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
	return float64(max(0, at.Sub(t.base).Microseconds()))
}

// slice is time on a thread.
func (t *trace) slice(name, category string, track, thread int, start, end time.Time, args map[string]any) {
	begin := t.micros(start)
	d := max(0, t.micros(end)-begin)
	t.add(entry{Name: name, Category: category, Phase: "X", Start: begin, Duration: &d, Process: track, Thread: thread, Args: args})
}

// span is time of a goal that waits: any number of them may overlap. Those with the
// same id are shown in one row.
func (t *trace) span(name, what, id string, start, end time.Time, args map[string]any) {
	if !end.After(start) {
		return
	}
	for _, e := range []entry{
		{Phase: "b", Start: t.micros(start), Args: args},
		{Phase: "e", Start: t.micros(end)},
	} {
		e.Name, e.Category, e.ID, e.Process = what+": "+name, "waiting", id, trackWaiting
		t.add(e)
	}
}
