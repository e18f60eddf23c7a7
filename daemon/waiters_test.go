package daemon

import (
	"context"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"storefs/event"
	"storefs/normaliser"
)

func TestWaitersText(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	waiters := []normaliser.Waiter{
		{
			Caller: normaliser.Caller{PID: 12, UID: 1000, Command: "cat"}, Path: path("top"), Goal: path("top.drv"), Since: ago(90 * time.Second),
			State: normaliser.WaitInput, Goals: 12, Left: 2 * time.Minute,
			Slowest: &normaliser.Running{Goal: path("gcc.drv"), Phase: "build", Since: ago(30 * time.Second), Expected: time.Minute},
		},
		{Caller: normaliser.Caller{Command: "a b\x1b[2J\n"}, Path: path("x"), Goal: path("x.drv"), Since: ago(2 * time.Second), State: normaliser.WaitRun, Phase: "scan", Began: ago(time.Second)},
		{Caller: normaliser.Caller{PID: 13}, Path: path("y"), Goal: path("y.drv"), Since: now, State: normaliser.WaitSlot, Goals: 1},
		{Caller: normaliser.Caller{PID: 14}, Path: path("z"), Since: now, State: normaliser.WaitPlan},
	}
	var got []string
	for line := range strings.Lines(WaitersText(waiters, now)) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"PID UID COMMAND ELAPSED LEFT PATH GOAL DOING",
		"12 1000 cat 1m30s 2m00s " + string(path("top")) + " " + string(path("top.drv")) + " 12 goals to go; gcc: build 30s of 1m00s",
		"- 0 a_b 2.0s - " + string(path("x")) + " " + string(path("x.drv")) + " scan 1.0s",
		"13 0 - 0.0s - " + string(path("y")) + " " + string(path("y.drv")) + " waiting for a slot",
		"14 0 - 0.0s - " + string(path("z")) + " - looking what has to be done",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if s := Sentence(&waiters[0], now); s != "cat waits for top: 12 goals to go; gcc: build 30s of 1m00s; about 2m00s left" {
		t.Errorf("%q", s)
	}
	s := Status{Status: normaliser.Status{Waiters: waiters[:1]}}
	if text := s.Text(now); !strings.HasSuffix(text, "waiting: 1\n  1m30s cat (pid 12) waits for top: 12 goals to go; gcc: build 30s of 1m00s\n") {
		t.Errorf("%q", text)
	}
	for range maxWaiters + 5 {
		s.Waiters = append(s.Waiters, waiters[0])
	}
	if text := s.Text(now); !strings.HasSuffix(text, "… and 6 more\n") || strings.Count(text, "waits for") != maxWaiters {
		t.Errorf("%q", text)
	}
}

// A client's requests carry who it is, as the kernel says.
func TestCallerOfRequest(t *testing.T) {
	f := newFake(t)
	var got *normaliser.Caller
	f.realise = func(_ context.Context, r normaliser.Request) (*normaliser.Result, error) {
		got = r.Caller
		return &normaliser.Result{}, nil
	}
	_, socket := f.serve()
	if _, err := dial(t, socket).Realise(t.Context(), RealiseRequest{}, func(Seen) {}); err != nil {
		t.Fatal(err)
	}
	if got == nil || got.PID != os.Getpid() || got.UID != uint32(os.Getuid()) || got.Command == "" {
		t.Errorf("%+v", got)
	}
}

// What is over is not shown until the next look.
func TestLookWhenSomethingIsOver(t *testing.T) {
	waiters := []normaliser.Waiter{{Path: path("x"), Goal: path("x.drv")}}
	if !isOver(event.Event{Kind: event.Done, Goal: path("x.drv")}, waiters) || isOver(event.Event{Kind: event.Done, Goal: path("y.drv")}, waiters) ||
		isOver(event.Event{Kind: event.Started, Goal: path("x.drv")}, waiters) {
		t.Error("what is over, or is not, is taken for something else")
	}
	synctest.Test(t, func(t *testing.T) {
		var bus event.Bus
		sub := bus.Subscribe(nil)
		begin := time.Now()
		var looked []time.Duration
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			passOn(t.Context(), t.Context(), sub, newStreamWriter(httptest.NewRecorder()), func() []Seen {
				looked = append(looked, time.Since(begin))
				return nil
			}, func(events []event.Event) bool { return isOver(events[0], waiters) })
		}()
		time.Sleep(time.Second)
		bus.Publish(event.Event{Kind: event.Done, Goal: path("y.drv")})
		time.Sleep(500 * time.Millisecond)
		bus.Publish(event.Event{Kind: event.Done, Goal: path("x.drv")})
		time.Sleep(looks + 500*time.Millisecond)
		sub.Close()
		<-ended
		if want := []time.Duration{1620 * time.Millisecond, 3620 * time.Millisecond}; !slices.Equal(looked, want) {
			t.Errorf("looked after %v, want %v", looked, want)
		}
	})
}

// Who watches hears of waiters when something about them changes.
func TestWatchWaiters(t *testing.T) {
	f := newFake(t)
	_, socket := f.serve()
	seen := make(chan []normaliser.Waiter, 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watched := make(chan error, 1)
	c := dial(t, socket)
	go func() {
		watched <- c.Watch(ctx, false, func(s Seen) {
			switch {
			case s.Status != nil:
				seen <- s.Status.Waiters
			case s.Waiters != nil:
				seen <- *s.Waiters
			}
		})
	}()
	set := func(w ...normaliser.Waiter) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.now.Waiters = w
	}
	want := func(n int) {
		t.Helper()
		select {
		case w := <-seen:
			if len(w) != n {
				t.Errorf("%d waiters, want %d", len(w), n)
			}
		case <-time.After(3 * looks):
			t.Error("nothing was said")
		}
	}
	want(0)
	set(normaliser.Waiter{Path: path("x")})
	want(1)
	set()
	want(0)
	cancel()
	<-watched
	if len(seen) > 0 {
		t.Errorf("said again: %+v", <-seen)
	}
}
