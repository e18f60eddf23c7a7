package progress

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"storefs/event"
	"storefs/store"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func at(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }

func goal(name string) store.Path {
	return store.Path("/nix/store/" + strings.Repeat("0", 32) + "-" + name + ".drv")
}

func ev(t float64, k event.Kind, name string) event.Event {
	return event.Event{Time: at(t), Kind: k, Goal: goal(name)}
}

func done(t float64, name string, d time.Duration) event.Event {
	e := ev(t, event.Done, name)
	e.Text, e.Duration = event.OutcomeBuilt, d
	return e
}

func failed(t float64, name, culprit string) event.Event {
	e := ev(t, event.Failed, name)
	e.Failure = &store.Failure{Path: goal(culprit), Message: "builder exited with status 1\x1b[31m"}
	return e
}

func added(name string, expected time.Duration) event.Event {
	e := ev(0, event.Added, name)
	e.Expected = expected
	return e
}

func logLine(t float64, name, text string) event.Event {
	e := ev(t, event.Log, name)
	e.Text = text
	return e
}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	p := NewPlain(&out, Options{Start: start, Delay: Delay})
	for _, n := range []string{"a", "b", "c", "d"} {
		p.Take(added(n, 0))
	}
	p.Take(ev(0, event.Started, "a"))
	p.Take(logLine(0.1, "a", "not shown"))
	p.Take(done(0.3, "a", 300*time.Millisecond))
	p.Paint(at(0.4))
	if out.Len() != 0 {
		t.Fatalf("shown before the delay was over: %q", &out)
	}
	p.Paint(at(0.5))
	p.Take(ev(0.6, event.Started, "b"))
	p.Take(failed(1, "b", "b"))
	p.Take(failed(1, "c", "b")) // needs b: counted, not told
	p.Take(ev(1, event.Started, "d"))
	p.Paint(at(20))
	p.Paint(at(31))
	p.Paint(at(32))
	reused := done(40, "e", 0)
	reused.Text = event.OutcomeReused
	p.Take(reused)
	reused.Goal, reused.Text = goal("f"), event.OutcomeCutOff // neither was made
	p.Take(reused)
	p.Take(done(90, "d", 89*time.Second))
	p.Close()
	want := `[1/4] built a 0.3s
[2/4] failed b: builder exited with status 1
[3/4] running: d 30s
[6/6] built d 1m29s
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

func TestPlainQuickRequestSaysNothing(t *testing.T) {
	var out bytes.Buffer
	p := NewPlain(&out, Options{Start: start, Delay: Delay})
	p.Take(added("a", 0))
	p.Take(done(0.2, "a", 0))
	p.Paint(at(0.3))
	p.Close()
	if out.Len() != 0 {
		t.Errorf("%q", &out)
	}
}

func TestPlainLogs(t *testing.T) {
	var out bytes.Buffer
	p := NewPlain(&out, Options{Start: start, Delay: Delay, Logs: true})
	p.Take(logLine(0.1, "a", "compiling\x1b]0;title\a"))
	p.Take(event.Event{Time: at(0.2), Kind: event.Lost, Count: 7})
	p.Paint(at(1))
	want := "a> compiling\n(7 lines of logs are not shown)\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

// The end of a log stands below the failure, on a terminal too, although the rest of
// what a quick request has to say is not told.
func TestTails(t *testing.T) {
	f := failed(0.2, "b", "b")
	f.Failure.Log = []string{"cc -c b.c", "b.c:1: \x1b[31merror\x1b[m"}
	const want = "[1/1] failed b: builder exited with status 1\n  cc -c b.c\n  b.c:1: error\n"
	for _, tails := range []bool{false, true} {
		var plain, live bytes.Buffer
		o := Options{Start: start, Delay: Delay, Tails: tails, Size: func() (int, int) { return 60, 24 }}
		for out, d := range map[*bytes.Buffer]Display{&plain: NewPlain(&plain, o), &live: NewLive(&live, o)} {
			d.Take(added("b", 0))
			d.Take(f)
			d.Take(failed(0.2, "c", "b"))
			d.Close()
			if got := out.String(); strings.Contains(got, want) != tails || tails && got != want {
				t.Errorf("tails %t, %T: %q", tails, d, got)
			}
		}
	}
}

// What ran before something was missed may have ended since: whoever says that it still
// runs comes later.
// Who joins in the middle knows how many goals there are, and not yet which.
func TestJoin(t *testing.T) {
	var out bytes.Buffer
	p := NewPlain(&out, Options{Start: start})
	p.Take(ev(0, event.Started, "a"))
	p.Join(3, at(5))
	p.Take(added("b", 0)) // one of the three
	p.Paint(at(6))
	p.Take(done(6, "a", time.Second))
	p.Take(ev(6, event.Started, "b"))
	p.Take(done(7, "b", time.Second))
	p.Take(ev(7, event.Started, "c"))
	p.Take(ev(7, event.Dropped, "d"))
	p.Take(done(8, "c", time.Second))
	// The next ones count from the beginning.
	for _, n := range []string{"e", "f"} {
		p.Take(ev(9, event.Added, n))
	}
	p.Take(done(9, "e", 0))
	want := "[1/4] built a 1.0s\n[2/4] built b 1.0s\n[3/3] built c 1.0s\n[1/2] built e\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

func TestMissed(t *testing.T) {
	var out bytes.Buffer
	p := NewPlain(&out, Options{Start: start, Delay: Delay})
	p.Take(ev(0, event.Started, "a"))
	p.Take(ev(0, event.Started, "b"))
	p.Take(event.Event{Time: at(1), Kind: event.Missed, Count: 7})
	p.Take(ev(0, event.Started, "b"))
	p.Paint(at(100))
	want := "(7 events are not shown)\n[0/1] running: b 1m40s\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

// screen is as much of a terminal as Live uses: it interprets newline,
// carriage return, cursor up and clear to the end.
type screen struct {
	lines []string
	wrote int
}

func (s *screen) Write(b []byte) (int, error) {
	s.wrote++
	for text := string(b); text != ""; {
		switch {
		case strings.HasPrefix(text, "\x1b[J"):
			text = text[3:]
		case strings.HasPrefix(text, "\x1b["):
			i := strings.IndexByte(text, 'A')
			n := 0
			for _, c := range text[2:i] {
				n = n*10 + int(c-'0')
			}
			// Up and clear always come together.
			s.lines = s.lines[:len(s.lines)-n]
			text = text[i+1:]
		case text[0] == '\r':
			text = text[1:]
		default:
			i := strings.IndexByte(text, '\n')
			s.lines = append(s.lines, text[:i])
			text = text[i+1:]
		}
	}
	return len(b), nil
}

func (s *screen) expect(t *testing.T, want ...string) {
	t.Helper()
	if d := cmp.Diff(strings.Join(want, "\n"), strings.Join(s.lines, "\n")); d != "" {
		t.Error(d)
	}
}

func TestLive(t *testing.T) {
	var s screen
	width, height := 60, 24
	l := NewLive(&s, Options{Start: start, Delay: Delay, Size: func() (int, int) { return width, height }})
	l.Take(added("gcc", 10*time.Second))
	l.Take(added("musl", 0))
	l.Take(added("hello", 4*time.Second))
	l.Take(ev(0, event.Started, "gcc"))
	l.Take(ev(0, event.Started, "musl"))
	l.Paint(at(0.4))
	s.expect(t)

	phase := ev(0.4, event.Phase, "musl")
	phase.Text = event.PhaseScan
	l.Take(phase)
	l.Paint(at(1))
	// Left: gcc 9 s, musl the average of 7 s less 1, hello 4 s; two at a time: 9.5.
	s.expect(t,
		"[0/3] 2 running, about 10s left",
		"     1.0s of 10s    gcc",
		"     1.0s           musl (scan)",
	)
	wrote := s.wrote
	l.Paint(at(1))
	if s.wrote != wrote {
		t.Error("painted again although nothing changed")
	}

	l.Take(failed(2, "musl", "musl"))
	l.Take(failed(2, "hello", "musl"))
	l.Paint(at(2))
	s.expect(t,
		"[1/3] failed musl: builder exited with status 1",
		"[2/3] 1 running, 2 failed, about 8s left",
		"     2.0s of 10s    gcc",
	)

	width = 20
	l.Paint(at(3))
	s.expect(t,
		"[1/3] failed musl: builder exited with status 1",
		"[2/3] 1 running, 2…",
		"     3.0s of 10s  …",
	)

	l.Take(done(10, "gcc", 10*time.Second))
	l.Paint(at(10))
	l.Close()
	s.expect(t, "[1/3] failed musl: builder exited with status 1")
}

func TestLiveEstimates(t *testing.T) {
	var s screen
	l := NewLive(&s, Options{Start: start, Size: func() (int, int) { return 60, 24 }})
	l.Take(added("a", 0)) // announced before anything is known of it
	l.Take(added("a", 10*time.Second))
	l.Take(added("b", 0))
	l.Take(ev(0, event.Started, "b"))
	l.Paint(at(0))
	s.expect(t, "[0/2] 1 running, about 20s left", "     0.0s           b")
	l.Expect(50 * time.Second)
	l.Paint(at(2))
	s.expect(t, "[0/2] 1 running, about 50s left", "     2.0s           b")
	l.Say("something else")
	s.expect(t, "something else", "[0/2] 1 running, about 50s left", "     2.0s           b")
	l.Paint(at(12))
	s.expect(t, "something else", "[0/2] 1 running, about 40s left", "      12s           b")
	l.Close()
	l.Say("the end")
	s.expect(t, "something else", "the end")
}

// A path whose substitute is made does not run beside that, and what was made of others is no
// line of its own.
func TestSubstitutesAreToldOnce(t *testing.T) {
	started := func(sec float64, goal string) event.Event {
		e := ev(sec, event.Started, goal)
		e.Text = event.SlotApart
		return e
	}
	events := []event.Event{
		added("p", 0), added("p.drv", 0), started(0, "p"), ev(0, event.Freed, "p"),
		added("cache.store", 0), started(0, "cache.store"),
	}
	var s screen
	l := NewLive(&s, Options{Start: start, Size: func() (int, int) { return 60, 24 }})
	for _, e := range events {
		l.Take(e)
	}
	l.Paint(at(1))
	s.expect(t, "[0/3] 1 running", "     1.0s           cache.store")

	var out strings.Builder
	p := NewPlain(&out, Options{Start: start})
	p.Paint(at(0))
	for _, e := range append(events, done(2, "cache.store", 2*time.Second), started(2, "p")) {
		p.Take(e)
	}
	for _, goal := range []string{"p", "p.drv"} {
		e := ev(2, event.Done, goal)
		e.Text = event.OutcomeSubstituted
		if goal != "p" {
			e.Text = event.OutcomeGathered
		}
		p.Take(e)
	}
	if got, want := out.String(), "[1/3] built cache.store 2.0s\n[2/3] substituted p\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestLiveBeginsAnew(t *testing.T) {
	var s screen
	l := NewLive(&s, Options{Start: start, Size: func() (int, int) { return 60, 24 }})
	l.Take(added("a", 10*time.Second))
	l.Take(ev(0, event.Started, "a"))
	phase := ev(1, event.Phase, "a")
	phase.Text = event.PhaseScan
	l.Take(phase)
	l.Take(ev(1, event.Started, "b"))
	l.Take(ev(5, event.Started, "a"))
	l.Paint(at(6))
	s.expect(t,
		"[0/2] 2 running, about 9s left",
		"     5.0s           b",
		"     1.0s of 10s    a",
	)
}

func TestLiveFitsTheWindow(t *testing.T) {
	var s screen
	l := NewLive(&s, Options{Start: start, Size: func() (int, int) { return 60, 6 }})
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		l.Take(ev(0, event.Started, n))
	}
	l.Paint(at(1))
	s.expect(t,
		"[0/5] 5 running",
		"     1.0s           a",
		"     1.0s           b",
		"     1.0s           c",
		"  … and 2 more",
	)
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		l.Take(ev(1, event.Dropped, n))
	}
	l.Paint(at(1))
	s.expect(t)
	l.Take(added("next", 0))
	l.Take(ev(2, event.Started, "next"))
	l.Paint(at(2))
	s.expect(t, "[0/1] 1 running", "     0.0s           next")
	l.Close()
	s.expect(t)
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                   "plain",
		"10%\r20%\r30%\r\n":       "30%",
		"\x1b[1;31merror\x1b[0m:": "error:",
		"\x1b]0;evil\x07rest":     "rest",
		"\x1b]8;;u\x1b\\link":     "link",
		"cut \x1b[12":             "cut ",
		"\x1bcreset":              "reset",
		"\x1b(B\x1b[mplain":       "plain",
		"\x1b#8\x1b%G\x1b $Fx":    "x",
		"cut \x1b(":               "cut ",
		"\x1b(\x1b[1mtwice":       "twice",
		"\x1b\x1b[1mtwice":        "twice",
		"\x1bé":                   "é",
		"a\tb":                    "a    b",
		"bell\a nul\x00 c1\u009b": "bell\ufffd nul\ufffd c1\ufffd",
		"\xff\xfe":                "\ufffd\ufffd",
		"right\u202eleft":         "right\ufffdleft",
		"größe 日本":                "größe 日本",
		"trailing escape\x1b":     "trailing escape\ufffd",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[1;31merror\x1b[0m")
	f.Add("\x1b]0;t\x07\r\n\x9b")
	f.Fuzz(func(t *testing.T, in string) {
		got := Clean(in)
		if strings.ContainsFunc(got, unsafeRune) {
			t.Errorf("Clean(%q) = %q", in, got)
		}
		if again := Clean(got); again != got {
			t.Errorf("Clean(Clean(%q)) = %q", in, again)
		}
	})
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0.0s", 0: "0.0s", 1234 * time.Millisecond: "1.2s", 59 * time.Second: "59s",
		65 * time.Second: "1m05s", 3725 * time.Second: "1h02m",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%d) = %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{time.Millisecond: "1s", 2400 * time.Millisecond: "2s", 90 * time.Second: "1m30s"} {
		if got := About(d); got != want {
			t.Errorf("About(%v) = %q, want %q", d, got, want)
		}
	}
}

// brokenPipe is a stderr whose reader has gone.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestMeter(t *testing.T) {
	m := Start(NewPlain(brokenPipe{}, Options{Start: time.Now()}))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				m.Take(done(0, "a", time.Second))
			}
		})
	}
	wg.Wait()
	m.Close()
	m.Close()
	m.Take(done(0, "late", 0))
}

// counted is a display that counts its paintings.
type counted struct {
	Display
	paints int
}

func (c *counted) Paint(now time.Time) time.Duration {
	c.paints++
	return c.Display.Paint(now)
}

// Nothing is painted while nothing happens and nothing changes with the time.
func TestMeterSleeps(t *testing.T) {
	size := func() (int, int) { return 80, 24 }
	for name, display := range map[string]func(io.Writer, Options) Display{
		"plain": func(w io.Writer, o Options) Display { return NewPlain(w, o) },
		"live":  func(w io.Writer, o Options) Display { return NewLive(w, o) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out strings.Builder
				c := &counted{Display: display(&out, Options{Start: time.Now(), Delay: Delay, Size: size})}
				m := Start(c)
				defer m.Close()
				passes := func(d time.Duration, happens func()) (paints int, shown string) {
					m.mu.Lock()
					before := c.paints
					out.Reset()
					m.mu.Unlock()
					happens()
					time.Sleep(d)
					m.mu.Lock()
					defer m.mu.Unlock()
					return c.paints - before, out.String()
				}
				if n, _ := passes(time.Hour, func() {}); n > 2 {
					t.Errorf("painted %d times in an hour without anything", n)
				}
				n, shown := passes(time.Hour, func() {
					m.Take(event.Event{Kind: event.Added, Goal: goal("a"), Time: time.Now()})
					m.Take(event.Event{Kind: event.Started, Goal: goal("a"), Time: time.Now()})
				})
				if most := map[string]int{"plain": 122, "live": 36_001}[name]; n > most || n < 120 || !strings.Contains(shown, " a") {
					t.Errorf("painted %d times in an hour of a build: %.200q", n, shown)
				}
				n, shown = passes(time.Second, func() {
					m.Take(event.Event{Kind: event.Failed, Goal: goal("a"), Time: time.Now(), Failure: &store.Failure{Path: goal("a"), Message: "why"}})
				})
				if n == 0 || n > 2 || !strings.Contains(shown, "why") {
					t.Errorf("painted %d times in the second after a failure: %q", n, shown)
				}
				if n, _ := passes(time.Hour, func() {}); n > 0 {
					t.Errorf("painted %d times in the hour after it", n)
				}
				_, shown = passes(time.Second, func() {
					m.Wait([]Waiter{{ID: "1", Since: time.Now(), Text: "cat waits for b"}})
				})
				if !strings.Contains(shown, "cat waits for b") {
					t.Errorf("a waiter is not shown: %q", shown)
				}
			})
		})
	}
}

func TestWaiters(t *testing.T) {
	begin := time.Now()
	waiters := []Waiter{
		{ID: "1", Since: begin, Text: "cat waits for a"},
		{ID: "2", Since: begin.Add(time.Second), Text: "ls waits for b", Now: func(now time.Time) string { return "ls waits for b: build " + Duration(now.Sub(begin)) }},
	}
	var out strings.Builder
	p := NewPlain(&out, Options{Start: begin})
	p.Wait(waiters[:1])
	p.Wait(waiters)
	p.Wait(nil)
	if got := out.String(); got != "cat waits for a\nls waits for b\n" {
		t.Errorf("%q", got)
	}

	out.Reset()
	l := NewLive(&out, Options{Start: begin, Size: func() (int, int) { return 40, 8 }})
	l.Wait(append(waiters, Waiter{ID: "3", Since: begin, Text: "vi waits for c"}))
	l.Paint(begin.Add(3 * time.Second))
	if got := out.String(); got != "[0/0] 0 running\n3 waiting\n     3.0s cat waits for a\n     2.0s ls waits for b: build 3.0s\n  … and 1 more\n" {
		t.Errorf("%q", got)
	}
	out.Reset()
	l.Paint(begin.Add(4 * time.Second))
	if got := out.String(); !strings.Contains(got, "ls waits for b: build 4.0s\n") {
		t.Errorf("%q", got)
	}
	out.Reset()
	l.Wait(nil)
	l.Paint(begin.Add(5 * time.Second))
	if got := out.String(); got != "\x1b[5A\r\x1b[J" {
		t.Errorf("%q", got)
	}
}
