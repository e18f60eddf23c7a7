package progress

import (
	"fmt"
	"io"
	"strings"
	"time"

	"storefs/event"
)

// maxJobs is how many running goals Live lists at most.
const maxJobs = 12

// Live keeps a short list of the running goals at the bottom of a terminal.
// Lines that stay (failures, logs) are written above it.
type Live struct {
	w       io.Writer
	o       Options
	tally   *tally
	above   strings.Builder // lines that stay and are not written yet
	painted string          // what stands on the screen now
	ends    time.Time       // when all is done, by the last estimate from outside; zero if there is none
	fresh   time.Duration   // an estimate since the last Paint
	lines   int             // how many lines that is
	waiters []Waiter
}

// NewLive writes to w, a terminal of the size that o.Size tells.
func NewLive(w io.Writer, o Options) *Live {
	return &Live{w: w, o: o, tally: newTally()}
}

var _ Display = (*Live)(nil)

// Take implements Display. Finished goals leave no line here, only failed
// ones.
func (l *Live) Take(e event.Event) {
	ended := l.tally.take(e)
	if e.Kind == event.Done {
		return
	}
	l.above.WriteString(eventLine(l.tally, e, ended, &l.o))
}

// Join implements Display.
func (l *Live) Join(waiting int, now time.Time) { l.tally.join(waiting, now) }

// Say implements Display.
func (l *Live) Say(line string) {
	write(l.w, l.erase()+line+"\n"+l.painted)
}

// Expect implements Display.
func (l *Live) Expect(left time.Duration) { l.fresh = left }

// Wait implements Display.
func (l *Live) Wait(waiters []Waiter) { l.waiters = waiters }

// left is the time until all is done: by the estimate from outside, which knows
// what waits for what, or else by the tally.
func (l *Live) left(now time.Time) time.Duration {
	if l.fresh > 0 {
		l.ends, l.fresh = now.Add(l.fresh), 0
	}
	if l.ends.IsZero() {
		return l.tally.left(now)
	}
	return l.ends.Sub(now)
}

// Paint implements Display. It writes nothing when nothing changed.
func (l *Live) Paint(now time.Time) time.Duration {
	list, again := "", never
	if l.tally.idle() {
		l.ends = time.Time{}
	}
	if !l.tally.idle() || len(l.waiters) > 0 {
		again = pace // it says since when
		if now.Sub(l.o.Start) >= l.o.Delay {
			list = l.list(now)
		}
	}
	if l.above.Len() == 0 && list == l.painted {
		return again
	}
	write(l.w, l.erase()+l.above.String()+list)
	l.above.Reset()
	l.painted, l.lines = list, strings.Count(list, "\n")
	return again
}

// Close implements Display.
func (l *Live) Close() {
	write(l.w, l.erase()+l.above.String())
	l.above.Reset()
	l.painted, l.lines = "", 0
}

// erase moves to the first line of the list and clears from there.
func (l *Live) erase() string {
	if l.lines == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", l.lines)
}

func (l *Live) list(now time.Time) string {
	width, height := l.o.Size()
	t := l.tally
	var b strings.Builder
	line := func(s string) {
		// The last column stays free: some terminals wrap when it is written.
		b.WriteString(cut(s, width-1) + "\n")
	}
	head := fmt.Sprintf("[%d/%d] %d running", t.done, t.total, len(t.running))
	if t.failed > 0 {
		head += fmt.Sprintf(", %d failed", t.failed)
	}
	if left := l.left(now); left > 0 {
		head += ", about " + About(left) + " left"
	}
	line(head)
	// The head, a line that says how many more there are, and one that is free.
	room := height - 3
	waiting := 0
	if len(l.waiters) > 0 {
		room -= 2 // a head, and how many more
		waiting = min(len(l.waiters), maxJobs, max(1, room*2/3))
	}
	n := min(len(t.running), maxJobs, max(1, room-waiting))
	for _, j := range t.running[:n] {
		s := fmt.Sprintf("  %7s", Duration(now.Sub(j.started)))
		if j.expected > 0 {
			s += fmt.Sprintf(" of %-6s", Duration(j.expected))
		} else {
			s += strings.Repeat(" ", len(" of 123456"))
		}
		s += " " + Name(j.goal)
		if j.phase != "" && j.phase != event.PhaseBuild {
			s += " (" + Clean(j.phase) + ")"
		}
		line(s)
	}
	if n < len(t.running) {
		line(fmt.Sprintf("  … and %d more", len(t.running)-n))
	}
	if waiting > 0 {
		line(fmt.Sprintf("%d waiting", len(l.waiters)))
	}
	for _, w := range l.waiters[:waiting] {
		line(fmt.Sprintf("  %7s %s", Duration(now.Sub(w.Since)), w.text(now)))
	}
	if waiting < len(l.waiters) {
		line(fmt.Sprintf("  … and %d more", len(l.waiters)-waiting))
	}
	return b.String()
}
