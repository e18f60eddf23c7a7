package timeline

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"storefs/event"
	"storefs/store"
)

var begin = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func goal(name string) store.Path {
	return store.Path("/nix/store/" + strings.Repeat("0", 32) + "-" + name + ".drv")
}

// ran is a goal that had a slot from start on, took so long, could be built from
// then, and was registered after a tenth of a second.
type ran struct {
	name        string
	start, took float64
	needs       []string
}

// run makes the events of goals.
func run(goals ...ran) *Run {
	r := New()
	at := func(s float64) time.Time {
		return begin.Add(time.Duration(s * float64(time.Second)).Round(time.Millisecond))
	}
	type timed struct {
		at float64
		e  event.Event
	}
	needs := map[store.Path][]store.Path{}
	var all []timed
	for _, g := range goals {
		p := goal(g.name)
		for _, n := range g.needs {
			needs[p] = append(needs[p], goal(n))
		}
		end := g.start + g.took
		for _, e := range []timed{
			{0, event.Event{Kind: event.Added}},
			{g.start, event.Event{Kind: event.Started}},
			{g.start, event.Event{Kind: event.Phase, Text: event.PhaseSandbox}},
			{g.start + 0.01, event.Event{Kind: event.Phase, Text: event.PhaseBuild}},
			{end, event.Event{Kind: event.Freed}},
			{end, event.Event{Kind: event.Phase, Text: event.PhaseSync}},
			{end + 0.05, event.Event{Kind: event.Phase, Text: event.PhaseRegister}},
			{end + 0.1, event.Event{Kind: event.Done, Text: event.OutcomeBuilt}},
		} {
			e.e.Goal, e.e.Time = p, at(e.at)
			all = append(all, e)
		}
	}
	for len(all) > 0 { // in the order of time
		first := 0
		for i := range all {
			if all[i].at < all[first].at {
				first = i
			}
		}
		r.Take(all[first].e)
		all = append(all[:first], all[first+1:]...)
	}
	r.Needs(needs)
	return r
}

// Two slots: c waits for a, d for b and c; b has the other slot all the time.
func example() *Run {
	return run(
		ran{"a", 0, 1, nil}, ran{"b", 0, 2, nil}, ran{"c", 1.5, 2, []string{"a", "gone"}},
		ran{"d", 3.6, 1, []string{"b", "c"}},
	)
}

func TestCriticalPath(t *testing.T) {
	var got []string
	for _, s := range example().CriticalPath() {
		got = append(got, fmt.Sprintf("%s %v %v", s.Goal.Path.Name(), s.Waited, s.Took))
	}
	want := "[a.drv 0s 1s c.drv 500ms 2s d.drv 100ms 1.1s]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	if steps := New().CriticalPath(); len(steps) != 0 {
		t.Errorf("of nothing: %v", steps)
	}
}

func TestExplain(t *testing.T) {
	var b strings.Builder
	example().Explain(&b, event.Counts{}, 1, time.Duration.String)
	want := "critical path: 3 of the goals, 4.1s at work and 600ms waiting for a slot\n" +
		"  100ms of the waiting while this build left a slot free: others had it, or --load, short memory or a busy machine held it back\n" +
		"       1s a\n       2s c, after 500ms without a slot\n     1.1s d\n" +
		"one more slot than 1 would have saved about 2s of 6s, had the machine room for it\n"
	if b.String() != want {
		t.Errorf("%s\nwant %s", b.String(), want)
	}
	b.Reset()
	example().Explain(&b, event.Counts{}, 2, time.Duration.String)
	if !strings.HasSuffix(b.String(), "one more slot than 2 would have saved next to nothing\n") {
		t.Error(b.String())
	}
	var long []ran
	for i := range 50 {
		g := ran{name: fmt.Sprint("g", i), start: float64(i) * 2, took: 1 + float64(i%10)/100}
		if i > 0 {
			g.needs = []string{fmt.Sprint("g", i-1)}
		}
		long = append(long, g)
	}
	b.Reset()
	run(long...).Explain(&b, event.Counts{}, 2, time.Duration.String)
	if n := strings.Count(b.String(), "\n"); n > 2*maxSteps+3 || !strings.Contains(b.String(), "shorter)") {
		t.Errorf("%d lines:\n%s", n, b.String())
	}
	b.Reset()
	New().Explain(&b, event.Counts{}, 2, time.Duration.String)
	if b.String() != "critical path: none, nothing had to be done\n" {
		t.Errorf("of nothing: %s", b.String())
	}
	b.Reset()
	New().Explain(&b, event.Counts{Failed: 1}, 2, time.Duration.String)
	if b.String() != "critical path: none, nothing had begun\n" {
		t.Errorf("of what cannot be made: %s", b.String())
	}
}

// What waits while there is room does not wait for a goal of its own build.
func TestExplainsIdleSlots(t *testing.T) {
	const idle = "of the waiting while this build left a slot free"
	r := run(
		ran{"a", 0, 1, nil}, ran{"beside", 0, 2, nil},
		ran{"b", 5, 2, []string{"a"}}, // a second for the slot of beside or of what is not seen, and 3 more
		ran{"c", 7, 1, []string{"b"}},
	)
	for slots, want := range map[int]string{1: "3s ", 2: "4s "} {
		var b strings.Builder
		r.Explain(&b, event.Counts{}, slots, time.Duration.String)
		if !strings.Contains(b.String(), "\n  "+want+idle) {
			t.Errorf("%d slots: %s", slots, b.String())
		}
	}
	var b strings.Builder
	run(ran{"a", 0, 1, nil}, ran{"b", 1, 1, nil}).Explain(&b, event.Counts{}, 1, time.Duration.String)
	if strings.Contains(b.String(), idle) {
		t.Error(b.String())
	}
}

// A replay is never better than what is possible, and never worse than what any
// order that leaves no slot idle reaches (Graham's bound).
func TestReplay(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var goals []ran
		longest, work := 0.0, 0.0
		depth := map[string]float64{}
		for i := range 1 + r.IntN(60) {
			g := ran{name: fmt.Sprint("g", i), start: 2 * float64(i), took: float64(100+r.IntN(1000)) / 1000}
			for range r.IntN(3) {
				if i > 0 {
					g.needs = append(g.needs, fmt.Sprint("g", r.IntN(i)))
				}
			}
			for _, n := range g.needs {
				depth[g.name] = max(depth[g.name], depth[n])
			}
			depth[g.name] += g.took
			longest = max(longest, depth[g.name])
			work += g.took
			goals = append(goals, g)
		}
		run := run(goals...)
		last := time.Duration(1 << 62)
		for _, slots := range []int{1, 2, 4, 8, 100} {
			got := run.Replay(slots)
			least := max(longest, work/float64(slots))
			if s := got.Seconds(); s < least-1e-6 || s > longest+work/float64(slots)+1e-6 {
				t.Fatalf("%d goals in %d slots: %v, at least %.3fs is needed, path %.3fs", len(goals), slots, got, least, longest)
			}
			if slots == 100 && got.Seconds() > longest+1e-6 {
				t.Fatalf("%v with a slot for each, the longest path takes %.3fs", got, longest)
			}
			if slots == 100 && got > last {
				t.Fatalf("%v, fewer slots took %v", got, last)
			}
			last = got
		}
	}
	if got := New().Replay(2); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

// Slots for substitution are others than those of builds.
func TestApart(t *testing.T) {
	r := New()
	for i, apart := range []string{event.SlotApart, event.SlotApart, ""} {
		p := goal(fmt.Sprint("g", i))
		r.Take(event.Event{Time: begin, Kind: event.Added, Goal: p})
		r.Take(event.Event{Time: begin, Kind: event.Started, Goal: p, Text: apart})
	}
	for _, p := range r.Goals() {
		r.Take(event.Event{Time: begin.Add(time.Second), Kind: event.Done, Goal: p, Text: event.OutcomeBuilt})
	}
	if got := r.Replay(1); got != time.Second {
		t.Errorf("it would have taken %v", got)
	}
	threads := map[int]int{}
	for _, e := range traced(t, r, r.Counts()) {
		if e.Category == "goal" {
			threads[e.Process]++
		}
	}
	if want := map[int]int{trackSlots: 1, trackApart: 2}; !maps.Equal(threads, want) {
		t.Errorf("%v, want %v", threads, want)
	}
}

// A slot is kept, in a replay as in the normaliser, for what waits for no more than that
// the outputs are in the store, if that is needed more than what could have it now.
func TestReplayKeepsSlots(t *testing.T) {
	for _, scan := range []time.Duration{0, 100 * time.Millisecond} {
		r := New()
		for _, g := range []struct {
			name string
			took time.Duration
		}{{"first", time.Second}, {"beside", 2 * time.Second}, {"other", 3 * time.Second}, {"user", 4 * time.Second}} {
			start := begin
			if g.name == "user" {
				start = begin.Add(time.Hour)
			}
			for _, e := range []event.Event{
				{Kind: event.Added, Time: begin},
				{Kind: event.Started, Time: start},
				{Kind: event.Freed, Time: start.Add(g.took)},
				{Kind: event.Phase, Text: event.PhaseSync, Time: start.Add(g.took + scan)},
				{Kind: event.Done, Text: event.OutcomeBuilt, Time: start.Add(g.took + scan)},
			} {
				e.Goal = goal(g.name)
				r.Take(e)
			}
		}
		r.Needs(map[store.Path][]store.Path{goal("user"): {goal("first")}})
		if got, want := r.Replay(2), 5*time.Second+2*scan; got != want {
			t.Errorf("where scanning takes %v: %v, want %v", scan, got, want)
		}
	}
}

// What had several slots needs as many in a replay, or all that there are.
func TestReplaySeveralSlots(t *testing.T) {
	r := New()
	for i, holds := range []int{2, 2, 0, 0} {
		p, start := goal(fmt.Sprint("g", i)), begin.Add(time.Duration(i)*time.Second)
		r.Take(event.Event{Time: begin, Kind: event.Added, Goal: p})
		r.Take(event.Event{Time: start, Kind: event.Started, Goal: p, Count: holds})
		r.Take(event.Event{Time: start.Add(time.Second), Kind: event.Done, Goal: p, Text: event.OutcomeBuilt})
	}
	for slots, want := range map[int]int{1: 4, 2: 3, 3: 2, 4: 2, 5: 2, 6: 1} {
		if got := r.Replay(slots); got != time.Duration(want)*time.Second {
			t.Errorf("in %d slots: %v, want %d s", slots, got, want)
		}
	}
	// What would have taken more slots than there were takes them in the replay.
	r.Cores(map[store.Path]int{goal("g0"): 0, goal("g1"): 3, goal("g2"): 1})
	for slots, want := range map[int]int{1: 4, 2: 3, 3: 3, 4: 3, 5: 2, 6: 2} {
		if got := r.Replay(slots); got != time.Duration(want)*time.Second {
			t.Errorf("with cores, in %d slots: %v, want %d s", slots, got, want)
		}
	}
}

func TestTrace(t *testing.T) {
	r := example()
	r.Take(event.Event{Kind: event.Added, Goal: goal("never"), Time: begin})
	r.Take(event.Event{Kind: event.Started, Goal: goal("cut"), Time: begin.Add(time.Second)})
	r.Take(event.Event{Kind: event.Valid, Paths: []store.Path{goal("x")}, Time: begin})
	counts := event.Counts{Built: 4, Reused: 7, CutOff: 2}
	entries := traced(t, r, counts)
	// On each slot goals follow each other, and phases lie in their goal.
	slots := map[int]bool{}
	var goals, phases, steps int
	for _, e := range entries {
		switch {
		case e.Phase != "X":
		case e.Category == "goal":
			goals++
			slots[e.Thread] = true
		case e.Category == "phase" && e.Process == trackSlots:
			phases++
		case e.Category == "critical":
			steps++
		}
	}
	if goals != 4 || phases != 8 || steps != 3 || len(slots) != 2 {
		t.Errorf("%d goals, %d phases, %d steps, %d slots: %+v", goals, phases, steps, len(slots), entries)
	}
}

// traced writes the trace of r, and sees whether it is one that a reader takes as it
// is meant: on each thread slices lie in each other or follow each other, in the
// nanoseconds of Perfetto, which rounds a time and a duration down, each for itself.
func traced(t *testing.T, r *Run, counts event.Counts) []entry {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteTrace(&b, counts); err != nil {
		t.Fatal(err)
	}
	var trace struct {
		TraceEvents []entry      `json:"traceEvents"`
		OtherData   event.Counts `json:"otherData"`
	}
	if err := json.Unmarshal(b.Bytes(), &trace); err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if trace.OtherData != counts {
		t.Errorf("counts %+v, want %+v", trace.OtherData, counts)
	}
	type slice struct {
		name       string
		start, end int64
	}
	threads := map[int][]slice{}
	processes := map[int]int{}
	open := map[string]entry{}
	for _, e := range trace.TraceEvents {
		if e.Start < 0 {
			t.Errorf("before the begin: %+v", e)
		}
		key := fmt.Sprint(e.Process, e.Category, e.ID)
		switch e.Phase {
		case "M":
			if p, ok := processes[e.Thread]; ok && e.Thread > 0 && p != e.Process {
				t.Errorf("the thread %d is in the tracks %d and %d", e.Thread, p, e.Process)
			}
			processes[e.Thread] = e.Process
		case "b":
			if o, ok := open[key]; ok {
				t.Errorf("%+v begins in %+v", e, o)
			}
			open[key] = e
		case "e":
			if o, ok := open[key]; !ok || o.Name != e.Name || o.Start > e.Start {
				t.Errorf("%+v ends %+v", e, o)
			}
			delete(open, key)
		case "X":
			if *e.Duration < 0 || processes[e.Thread] != e.Process {
				t.Errorf("%+v, which is no slice of its thread", e)
			}
			start := int64(e.Start * 1000)
			threads[e.Thread] = append(threads[e.Thread], slice{e.Name, start, start + int64(*e.Duration*1000)})
		default:
			t.Errorf("unknown: %+v", e)
		}
	}
	if len(open) > 0 {
		t.Errorf("without an end: %+v", open)
	}
	for n, all := range threads {
		slices.SortStableFunc(all, func(a, b slice) int { return cmp.Compare(a.start, b.start) })
		var stack []slice
		for _, s := range all {
			for len(stack) > 0 && stack[len(stack)-1].end <= s.start {
				stack = stack[:len(stack)-1]
			}
			if len(stack) > 0 && s.end > stack[len(stack)-1].end {
				t.Errorf("on the thread %d %+v overlaps %+v", n, s, stack[len(stack)-1])
			}
			stack = append(stack, s)
		}
	}
	return trace.TraceEvents
}

// Times have nanoseconds, and goals scan and register beside each other.
func TestTraceOfOddTimes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	r := New()
	now := begin
	all := make([][]event.Event, 30)
	for i := range all {
		for _, e := range []event.Event{
			{Kind: event.Added},
			{Kind: event.Started},
			{Kind: event.Phase, Text: event.PhaseSandbox},
			{Kind: event.Phase, Text: event.PhaseBuild},
			{Kind: event.Phase, Text: event.PhaseScan},
			{Kind: event.Freed},
			{Kind: event.Phase, Text: event.PhaseSync},
			{Kind: event.Phase, Text: event.PhaseRegister},
			{Kind: event.Done, Text: event.OutcomeBuilt},
		} {
			e.Goal = goal(fmt.Sprint("g", i))
			all[i] = append(all[i], e)
		}
	}
	for left := len(all); left > 0; {
		i := rnd.IntN(len(all))
		if len(all[i]) == 0 {
			continue
		}
		now = now.Add(time.Duration(rnd.IntN(3_000_000)))
		e := all[i][0]
		e.Time = now
		r.Take(e)
		if all[i] = all[i][1:]; len(all[i]) == 0 {
			left--
		}
	}
	// The phases of a goal are all of its time.
	sums := map[string]float64{}
	for _, e := range traced(t, r, r.Counts()) {
		switch {
		case e.Phase == "X" && (e.Category == "goal" || e.Category == "after"):
			sums["all"] += *e.Duration
		case e.Phase == "X" && e.Category == "phase":
			sums["phases"] += *e.Duration
			sums[e.Name] += *e.Duration
		}
	}
	if sums["all"] != sums["phases"] || sums[prepare] == 0 {
		t.Errorf("%v", sums)
	}
}

// What is at work when a run is over is in the trace up to then; only a run that was
// interrupted has waited for it.
func TestUnfinished(t *testing.T) {
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	unfinishedRun := func(interrupted bool) *Run {
		r := New()
		for _, e := range []event.Event{
			{Time: at(0), Kind: event.Added, Goal: goal("bad")},
			{Time: at(0), Kind: event.Added, Goal: goal("long")},
			{Time: at(0), Kind: event.Added, Goal: goal("never")},
			{Time: at(0), Kind: event.Started, Goal: goal("bad")},
			{Time: at(1), Kind: event.Started, Goal: goal("long")},
			{Time: at(2), Kind: event.Phase, Goal: goal("long"), Text: event.PhaseBuild},
			{Time: at(4), Kind: event.Failed, Goal: goal("bad")},
		} {
			r.Take(e)
		}
		r.Stop(at(5), interrupted)
		return r
	}
	r := unfinishedRun(false)
	lasts := map[string]float64{}
	for _, e := range traced(t, r, r.Counts()) {
		if e.Phase == "X" {
			lasts[e.Name] = *e.Duration / 1e6
		}
	}
	if want := map[string]float64{"bad.drv": 4, "long.drv": 4, prepare: 1, event.PhaseBuild: 3}; !maps.Equal(lasts, want) {
		t.Errorf("%v, want %v", lasts, want)
	}
	for interrupted, want := range map[bool]string{
		false: "critical path: 1 of the goals, 4s at work and 0s waiting for a slot\n       4s bad\none more slot than 2 would have saved next to nothing\n",
		true: "critical path: 1 of the goals, 4s at work and 1s waiting for a slot\n" +
			"  1s of the waiting while this build left a slot free: others had it, or --load, short memory or a busy machine held it back\n" +
			"       4s long (its builder 3s), after 1s without a slot, unfinished\n",
	} {
		var b strings.Builder
		unfinishedRun(interrupted).Explain(&b, event.Counts{}, 2, time.Duration.String)
		if b.String() != want {
			t.Errorf("interrupted %v: %s\nwant %s", interrupted, b.String(), want)
		}
	}
}

func TestCounts(t *testing.T) {
	r := example()
	r.Take(event.Event{Kind: event.Failed, Goal: goal("bad"), Time: begin})
	if c := r.Counts(); c != (event.Counts{Built: 4, Failed: 1}) {
		t.Errorf("%v", c)
	}
}

// What begins anew has been at work only since then.
func TestBeginsAnew(t *testing.T) {
	r := New()
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	for _, e := range []event.Event{
		{Time: at(0), Kind: event.Added, Goal: goal("a")},
		{Time: at(1), Kind: event.Started, Goal: goal("a")},
		{Time: at(1), Kind: event.Phase, Goal: goal("a"), Text: event.PhaseBuild},
		{Time: at(5), Kind: event.Started, Goal: goal("a")},
		{Time: at(6), Kind: event.Phase, Goal: goal("a"), Text: event.PhaseBuild},
		{Time: at(7), Kind: event.Started, Goal: goal("b")},
		{Time: at(8), Kind: event.Freed, Goal: goal("a")},
		{Time: at(9), Kind: event.Done, Goal: goal("a"), Text: event.OutcomeBuilt},
	} {
		r.Take(e)
	}
	g := r.goals[goal("a")]
	if g.Started != at(5) || g.Slot() != 3*time.Second || len(g.Phases) != 1 || g.Lane != 0 || len(r.free) != 2 {
		t.Errorf("%+v, %d slots", g, len(r.free))
	}
}

// Goals that need each other, by substitutes, were not waited for in a circle.
func TestCircle(t *testing.T) {
	r := run(
		ran{name: "a", start: 0, took: 1, needs: []string{"path"}},
		ran{name: "path", start: 1, took: 1, needs: []string{"a"}},
		ran{name: "user", start: 2, took: 1, needs: []string{"path", "a"}},
	)
	var names []string
	for _, s := range r.CriticalPath() {
		names = append(names, s.Goal.Path.Name())
	}
	if want := []string{"a.drv", "path.drv", "user.drv"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	if got := r.Replay(2); got != 3*time.Second {
		t.Errorf("again it would take %v", got)
	}
}

// What is scanned when the slot is free already is not on the slot.
func TestTraceAfterTheSlot(t *testing.T) {
	r := New()
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	p := goal("a")
	for _, e := range []event.Event{
		{Time: at(0), Kind: event.Added},
		{Time: at(1), Kind: event.Started},
		{Time: at(1), Kind: event.Phase, Text: event.PhaseBuild},
		{Time: at(5), Kind: event.Phase, Text: event.PhaseScan},
		{Time: at(6), Kind: event.Freed},
		{Time: at(9), Kind: event.Phase, Text: event.PhaseSync},
		{Time: at(10), Kind: event.Done, Text: event.OutcomeBuilt},
	} {
		e.Goal = p
		r.Take(e)
	}
	got := map[string]float64{}
	for _, e := range traced(t, r, r.Counts()) {
		switch e.Phase {
		case "X":
			got[e.Category+" "+e.Name] += *e.Duration
		case "b":
			got[e.Name] -= e.Start
		case "e":
			got[e.Name] += e.Start
		}
	}
	name := p.Name()
	want := map[string]float64{
		"goal " + name: 5000, "after " + name: 4000, "critical " + name: 9000,
		"phase build": 4000, "phase scan": 4000, "phase sync": 1000, "slot: " + name: 1000,
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// What was joined when it registered already does not hold its slot; and what comes twice
// of its past counts once.
func TestJoinedLate(t *testing.T) {
	r := New()
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	for _, e := range []event.Event{
		{Time: at(9), Kind: event.Added, Goal: goal("a")},
		{Time: at(0), Kind: event.Started, Goal: goal("a")},
		{Time: at(0), Kind: event.Phase, Goal: goal("a"), Text: event.PhaseBuild},
		{Time: at(5), Kind: event.Freed, Goal: goal("a")},
		{Time: at(5), Kind: event.Phase, Goal: goal("a"), Text: event.PhaseSync},
		{Time: at(4), Kind: event.Phase, Goal: goal("a"), Text: event.PhaseScan},
		{Time: at(9), Kind: event.Added, Goal: goal("b")},
		{Time: at(10), Kind: event.Started, Goal: goal("b")},
		{Time: at(11), Kind: event.Done, Goal: goal("a"), Text: event.OutcomeBuilt},
		{Time: at(12), Kind: event.Done, Goal: goal("b"), Text: event.OutcomeBuilt},
	} {
		r.Take(e)
	}
	if g := r.goals[goal("a")]; len(r.free) != 1 || g.Slot() != 5*time.Second || len(g.Phases) != 2 {
		t.Errorf("%d slots, %+v", len(r.free), g)
	}
	traced(t, r, r.Counts())
}

// A trace begins with what was at work when its run joined it.
func TestTraceOfWhatRanAlready(t *testing.T) {
	r := New()
	r.Take(event.Event{Time: begin.Add(time.Minute), Kind: event.Added, Goal: goal("a")})
	r.Take(event.Event{Time: begin, Kind: event.Started, Goal: goal("a")})
	r.Take(event.Event{Time: begin, Kind: event.Phase, Goal: goal("a"), Text: event.PhaseBuild})
	r.Take(event.Event{Time: begin.Add(time.Hour), Kind: event.Done, Goal: goal("a"), Text: event.OutcomeBuilt})
	for _, e := range traced(t, r, r.Counts()) {
		if e.Phase == "X" && (e.Start != 0 || *e.Duration != 3600e6) {
			t.Errorf("%s from %v on, for %v µs", e.Name, e.Start, *e.Duration)
		}
	}
}

// What waits for a lock has no slot, and gets one again, perhaps another one.
func TestLockedOut(t *testing.T) {
	r := New()
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	for _, e := range []event.Event{
		{Time: at(0), Kind: event.Added, Goal: goal("a")},
		{Time: at(0), Kind: event.Started, Goal: goal("a")},
		{Time: at(1), Kind: event.Phase, Goal: goal("a"), Text: event.PhaseLock},
		{Time: at(1), Kind: event.Started, Goal: goal("b")},
		{Time: at(4), Kind: event.Done, Goal: goal("b"), Text: event.OutcomeBuilt},
		{Time: at(5), Kind: event.Phase, Goal: goal("a"), Text: event.PhaseBuild},
		{Time: at(7), Kind: event.Done, Goal: goal("a"), Text: event.OutcomeBuilt},
		// Another one finds that it is built already.
		{Time: at(7), Kind: event.Started, Goal: goal("c")},
		{Time: at(8), Kind: event.Phase, Goal: goal("c"), Text: event.PhaseLock},
		{Time: at(9), Kind: event.Done, Goal: goal("c"), Text: event.OutcomeReused},
	} {
		r.Take(e)
	}
	if len(r.free) != 1 || !r.free[0] {
		t.Errorf("slots: %v", r.free)
	}
	if g := r.goals[goal("a")]; g.Started != at(5) || g.Slot() != 2*time.Second {
		t.Errorf("%+v", g)
	}
	var got []string
	for _, e := range traced(t, r, r.Counts()) {
		switch e.Phase {
		case "X":
			if e.Process == trackPath {
				continue
			}
			got = append(got, fmt.Sprintf("%s %v+%v", e.Name, e.Start/1e6, *e.Duration/1e6))
		case "b", "e":
			got = append(got, fmt.Sprintf("%s %s %v", e.Phase, e.Name, e.Start/1e6))
		}
	}
	want := []string{
		"b slot: a.drv 0", "e slot: a.drv 1", "a.drv 5+2", "build 5+2", "b.drv 1+3", "c.drv 7+1", "prepare 7+1",
		"a.drv 1+4", "lock 1+4", "c.drv 8+1", "lock 8+1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
