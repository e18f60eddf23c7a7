package progress

import (
	"fmt"
	"io"
	"strings"
	"time"

	"storefs/event"
)

// heartbeat is how long Plain may be silent while goals run: whoever reads a
// CI log sees that it is alive, and what it waits for.
const heartbeat = 30 * time.Second

// Plain writes one line for each finished goal. It is for pipes and files.
type Plain struct {
	w     io.Writer
	o     Options
	tally *tally
	held  strings.Builder // lines of the time before Start+Delay
	shown bool            // that time is over
	last  time.Time       // of the last line
	told  map[string]bool // the waiters that had their line, by their IDs
}

// NewPlain writes to w.
func NewPlain(w io.Writer, o Options) *Plain {
	return &Plain{w: w, o: o, tally: newTally(), last: o.Start}
}

var _ Display = (*Plain)(nil)

// Take implements Display.
func (p *Plain) Take(e event.Event) {
	ended := p.tally.take(e)
	if line := eventLine(p.tally, e, ended, &p.o); line != "" {
		if p.shown || e.Kind == event.Log || p.o.tails(e) {
			write(p.w, line)
		} else {
			p.held.WriteString(line)
		}
		p.last = e.Time
	}
}

// Join implements Display.
func (p *Plain) Join(waiting int, now time.Time) { p.tally.join(waiting, now) }

// Say implements Display.
func (p *Plain) Say(line string) { write(p.w, line+"\n") }

// Expect implements Display. Lines do not tell what is to come.
func (p *Plain) Expect(time.Duration) {}

// Wait implements Display: each waiter has a line when it is new.
func (p *Plain) Wait(waiters []Waiter) {
	told := p.told
	p.told = make(map[string]bool, len(waiters))
	for _, w := range waiters {
		p.told[w.ID] = true
		if !told[w.ID] {
			write(p.w, w.Text+"\n")
		}
	}
}

// Paint implements Display: it lets go what was held back, and says now and
// then what runs.
func (p *Plain) Paint(now time.Time) time.Duration {
	if !p.shown {
		if wait := p.o.Delay - now.Sub(p.o.Start); wait > 0 {
			return wait
		}
		p.shown = true
		write(p.w, p.held.String())
		p.held.Reset()
	}
	if len(p.tally.running) == 0 {
		return never
	}
	if now.Sub(p.last) >= heartbeat {
		p.last = now
		var names []string
		for i, j := range p.tally.running {
			if i == 4 {
				names = append(names, fmt.Sprintf("and %d more", len(p.tally.running)-i))
				break
			}
			names = append(names, Name(j.goal)+" "+Duration(now.Sub(j.started)))
		}
		write(p.w, fmt.Sprintf("[%d/%d] running: %s\n", p.tally.done, p.tally.total, strings.Join(names, ", ")))
	}
	return heartbeat - now.Sub(p.last)
}

// Close implements Display. What was held back is dropped: it did not take
// long.
func (p *Plain) Close() {}

// tails reports whether e is shown with the end of a log.
func (o *Options) tails(e event.Event) bool {
	return o.Tails && e.Kind == event.Failed && e.Failure != nil && e.Failure.Path == e.Goal && len(e.Failure.Log) > 0
}

// eventLine is the line for e that stays, with its newline and what belongs below
// it, or "". A goal that fails only because an input did has none: the input had one.
func eventLine(t *tally, e event.Event, ended bool, o *Options) string {
	switch {
	case e.Kind == event.Failed && e.Failure != nil:
		if e.Failure.Path != e.Goal {
			return ""
		}
		s := fmt.Sprintf("[%d/%d] failed %s: %s\n", t.done, t.total, Name(e.Goal), Clean(e.Failure.Message))
		if o.tails(e) {
			for _, line := range e.Failure.Log {
				s += "  " + Clean(line) + "\n"
			}
		}
		return s
	case e.Kind == event.Done && (e.Text == event.OutcomeReused || e.Text == event.OutcomeCutOff || e.Text == event.OutcomeGathered):
		return "" // nothing was done for it
	case ended:
		s := fmt.Sprintf("[%d/%d] %s %s", t.done, t.total, Clean(e.Text), Name(e.Goal))
		if e.Duration > 0 {
			s += " " + Duration(e.Duration)
		}
		return s + "\n"
	case e.Kind == event.Log && o.Logs:
		return Name(e.Goal) + "> " + Clean(e.Text) + "\n"
	case e.Kind == event.Lost && o.Logs:
		return fmt.Sprintf("(%d lines of logs are not shown)\n", e.Count)
	case e.Kind == event.Missed:
		return fmt.Sprintf("(%d events are not shown)\n", e.Count)
	}
	return ""
}
