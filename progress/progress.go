// Package progress shows people what happens while they wait: a short list of
// the running goals on a terminal, a line for each finished goal elsewhere. It
// reads the event stream and knows nothing of who publishes it or where it
// comes from; it keeps nothing, and is not a log.
package progress

import (
	"io"
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"storefs/event"
)

// Display turns events into output. Its methods are called one at a time.
type Display interface {
	// Take notes what happened. It may write lines that stay.
	Take(e event.Event)
	// Join notes how many goals were waiting at now, of which no event told.
	Join(waiting int, now time.Time)
	// Say shows a line that stays, now.
	Say(line string)
	// Expect notes an estimate of the time until all is done. It counts from
	// the next Paint on, until another one comes.
	Expect(left time.Duration)
	// Wait notes who waits now, those who came first are first.
	Wait(waiters []Waiter)
	// Paint brings the output up to date, and returns after how long there is more
	// to say although nothing happens. It is called then, and soon after something
	// has happened.
	Paint(now time.Time) (again time.Duration)
	// Close removes what was for the moment only. Only Say follows it.
	Close()
}

// Waiter is a process that waits for something to be realised.
type Waiter struct {
	ID    string    // of just this wait
	Since time.Time // when it began
	Text  string    // one line: who waits for what, without times, which are old soon
	// Now is Text with them; nil: there are none.
	Now func(now time.Time) string
}

// text is the line for now.
func (w *Waiter) text(now time.Time) string {
	if w.Now == nil {
		return w.Text
	}
	return w.Now(now)
}

// Delay is how long a request may take before anything is shown: what is
// quicker than that needs no explanation.
const Delay = 500 * time.Millisecond

// Options of both displays.
type Options struct {
	Start time.Time     // when the waiting began
	Delay time.Duration // nothing but logs and their ends is shown before Start+Delay
	Logs  bool          // show the lines that builders write
	Tails bool          // show the end of its log when a builder fails, at once
	// Size is the width and height of the terminal, in characters. Only Live
	// asks, before each painting, so that a resized window is followed.
	Size func() (width, height int)
}

// For chooses the display for f: Live if it is a terminal that can move its
// cursor, else Plain. It writes to w, by which f is written. Of o, Logs and Tails
// count: the waiting begins now.
func For(f *os.File, w io.Writer, o Options) Display {
	o.Start, o.Delay = time.Now(), Delay
	fd := int(f.Fd())
	if !term.IsTerminal(fd) || os.Getenv("TERM") == "dumb" {
		return NewPlain(w, o)
	}
	o.Size = func() (int, int) {
		width, height, err := term.GetSize(fd)
		if err != nil || width <= 0 || height <= 0 {
			return 80, 24
		}
		return width, height
	}
	return NewLive(w, o)
}

const (
	// pace is how soon what happened is painted, and how often what changes with
	// the time is.
	pace = 100 * time.Millisecond
	// never is the answer of Paint when nothing changes until something happens.
	never = time.Duration(math.MaxInt64)
)

// Meter drives a Display: it passes events on and paints, ten times a second at
// most, and not at all while there is nothing new. Its methods may be called from
// any goroutine.
type Meter struct {
	mu     sync.Mutex
	d      Display
	closed bool
	asleep bool          // the next painting is not soon
	news   chan struct{} // something happened while it was asleep
	stop   chan struct{}
	ended  chan struct{}
}

// Start begins to drive d, until Close.
func Start(d Display) *Meter {
	m := &Meter{d: d, news: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{})}
	go m.run()
	return m
}

func (m *Meter) run() {
	defer close(m.ended)
	t := time.NewTimer(pace)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			t.Reset(m.paint(now))
		case <-m.news:
			t.Reset(pace)
		case <-m.stop:
			return
		}
	}
}

// paint returns when the next one is due.
func (m *Meter) paint(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	again := max(pace, m.d.Paint(now))
	m.asleep = again > pace
	return again
}

// rouse sees to it that something new is painted soon.
func (m *Meter) rouse() {
	if !m.asleep {
		return
	}
	m.asleep = false
	select {
	case m.news <- struct{}{}:
	default: // it was painted before it heard of the last time
	}
}

// Take passes e to the display. After Close it does nothing.
func (m *Meter) Take(e event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.d.Take(e)
		m.rouse()
	}
}

// Join passes the number of waiting goals to the display. After Close it does nothing.
func (m *Meter) Join(waiting int, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.d.Join(waiting, now)
		m.rouse()
	}
}

// Say shows a line that stays; after Close too.
func (m *Meter) Say(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.d.Say(line)
}

// Expect passes an estimate to the display. After Close it does nothing.
func (m *Meter) Expect(left time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.d.Expect(left)
		m.rouse()
	}
}

// Wait passes the waiters to the display. After Close it does nothing.
func (m *Meter) Wait(waiters []Waiter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.d.Wait(waiters)
		m.rouse()
	}
}

// Close clears the display and waits for the painting to end. It may be called
// more than once.
func (m *Meter) Close() {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.closed = true
	close(m.stop)
	m.d.Close()
	m.mu.Unlock()
	<-m.ended
}

// write ignores errors: whoever closed stderr does not want to see progress,
// and the build must not fail for it.
func write(w io.Writer, s string) {
	if s != "" {
		_, _ = io.WriteString(w, s)
	}
}
