package timeline

import (
	"io"
	"testing"
	"time"

	"storefs/event"
	"storefs/store"
)

// Whatever goals go through, one beside the other, the trace is one that a reader takes
// as it is meant, and the rest comes to an end. Each two bytes are an event: of which
// goal, and what; how much time has passed.
func FuzzRun(f *testing.F) {
	life := "\x00\x09\x01\x05\x02\x05\x03\x05\x04\x05\x05\x05\x06\x05\x07\x05\x08\x05"
	f.Add([]byte(life + life))
	f.Add([]byte("\x00\x01\x01\x01\x02\x00\x10\x00\x11\x07\x12\x01\x04\x00\x06\x03\x02\x00\x08\x00\x01\x09\x05\x01\x0a\x00"))
	f.Add([]byte("\x01\x01\x21\x01\x31\x01\x06\x02\x23\x05\x03\x01\x2b\x05\x3a\x05"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 400 {
			return
		}
		goals := []store.Path{goal("a"), goal("b"), goal("c"), goal("d")}
		// The third and the fourth need each other, which cannot be.
		needs := map[store.Path][]store.Path{goals[1]: goals[:1], goals[2]: goals[3:], goals[3]: goals[:3]}
		r := New()
		r.Needs(needs)
		const (
			waits = iota
			works
			locked
			rests // without its slot
		)
		state := make([]int, len(goals))
		now := begin
		for ; len(text) >= 2; text = text[2:] {
			now = now.Add(time.Duration(text[1]) * 123_457)
			g := int(text[0]>>4) % len(goals)
			e := event.Event{Time: now, Goal: goals[g], Count: int(text[1] % 3)}
			s := state[g]
			switch what := text[0] & 15; {
			case what == 0 && s == waits:
				e.Kind = event.Added
			case what == 1 && (s == waits || s == rests):
				e.Kind, state[g] = event.Started, works
				if g == 2 {
					e.Text = event.SlotApart
				}
			case what == 2 && (s == works || s == rests):
				e.Kind, e.Text, state[g] = event.Phase, event.PhaseLock, locked
			case what >= 3 && what <= 5 && s != waits && s != rests:
				e.Kind, e.Text, state[g] = event.Phase, []string{event.PhaseSandbox, event.PhaseBuild, event.PhaseScan}[what-3], works
			case what == 6 && s == works:
				e.Kind, state[g] = event.Freed, rests
			case what == 7 && s == rests:
				e.Kind, e.Text = event.Phase, event.PhaseSync
			case what == 8:
				e.Kind, e.Text, state[g] = event.Done, event.OutcomeBuilt, waits
			case what == 9:
				e.Kind, state[g] = event.Failed, waits
			case what == 10:
				e.Kind, state[g] = event.Dropped, waits
			case what == 11:
				r.Stop(now, text[1]%2 == 0)
				state = make([]int, len(goals))
				continue
			default:
				continue
			}
			r.Take(e)
		}
		traced(t, r, r.Counts())
		r.Explain(io.Discard, r.Counts(), 2, time.Duration.String)
		if one, many := r.Replay(1), r.Replay(100); many < 0 || many > one {
			t.Errorf("%v in one slot, %v in many", one, many)
		}
	})
}
