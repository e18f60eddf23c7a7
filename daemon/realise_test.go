package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"storefs/event"
	"storefs/normaliser"
	"storefs/store"
)

func TestRealiseStreamsItsOwnEventsOnly(t *testing.T) { eachWay(t, testRealiseStreamsItsOwnEventsOnly) }

func testRealiseStreamsItsOwnEventsOnly(t *testing.T, dial dialer) {
	f := newFake(t)
	ours, running, alien := path("ours.drv"), path("running.drv"), path("alien.drv")
	began := time.Now().Add(-time.Minute).Truncate(time.Second).UTC()
	f.running(
		normaliser.Running{Goal: running, Phase: event.PhaseBuild, Since: began, Expected: time.Hour, Slots: 3},
		normaliser.Running{Goal: alien, Phase: event.PhaseBuild, Since: began},
	)
	f.realise = func(_ context.Context, req normaliser.Request) (*normaliser.Result, error) {
		if len(req.Targets) != 1 || req.Targets[0] != ours || !req.KeepGoing || !req.Orphans.Cancel || req.Limits.Timeout != time.Minute {
			t.Errorf("request: %+v", req)
		}
		f.events.Publish(event.Event{Kind: event.Added, Goal: ours, Expected: time.Second})
		f.events.Publish(event.Event{Kind: event.Done, Goal: alien})
		req.Planned([]store.Path{ours, running})
		f.events.Publish(event.Event{Kind: event.Started, Goal: alien})
		f.events.Publish(event.Event{Kind: event.Log, Goal: ours, Text: "line"})
		f.events.Publish(event.Event{Kind: event.Valid, Paths: []store.Path{alien}})
		f.events.Publish(event.Event{Kind: event.Done, Goal: running})
		f.events.Publish(event.Event{Kind: event.Done, Goal: ours, Text: event.OutcomeBuilt})
		return &normaliser.Result{Targets: []normaliser.Target{{Path: ours, Paths: []store.Path{path("ours")}}}}, nil
	}
	s, socket := f.serve()
	c := dial(t, s, socket)
	for _, logs := range []bool{false, true} {
		req := RealiseRequest{Targets: []store.Path{ours}, KeepGoing: true, Logs: logs, Details: true}
		req.Limits.Timeout = time.Minute
		var got []string
		res, err := c.Realise(t.Context(), req, func(s Seen) {
			e := s.Event
			if e.Kind == event.Started && (!e.Time.Equal(began) || e.Expected != time.Hour || e.Count != 3) {
				t.Errorf("of a goal that runs already: %+v", e)
			}
			got = append(got, string(e.Kind)+" "+e.Goal.Name())
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Targets) != 1 || res.Targets[0].Paths[0] != path("ours") {
			t.Errorf("result: %+v", res)
		}
		want := []string{
			"added running.drv", "started running.drv", "phase running.drv",
			"added ours.drv", "log ours.drv", "done running.drv", "done ours.drv",
		}
		if !logs {
			want = slices.DeleteFunc(want, func(s string) bool { return strings.HasPrefix(s, "log") })
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
}

// Who asks for what runs already hears what it has come to: whether it has its slot still,
// and no phase of what has none.
func TestPast(t *testing.T) {
	since := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	freed := since.Add(time.Minute)
	for want, g := range map[string]normaliser.Running{
		"started 0s, phase build 0s":                                  {Phase: event.PhaseBuild},
		"started substitution 0s":                                     {Apart: true},
		"started 0s, phase build 0s, freed 1m0s, phase register 1m0s": {Phase: event.PhaseRegister, Freed: freed},
	} {
		g.Goal, g.Since = path("a.drv"), since
		var got []string
		for _, e := range past(g) {
			got = append(got, strings.Join(strings.Fields(fmt.Sprint(e.Kind, " ", e.Text, " ", e.Time.Sub(since))), " "))
		}
		if got := strings.Join(got, ", "); got != want {
			t.Errorf("%+v: %s, want %s", g, got, want)
		}
	}
}

// What ran before is told in the order of time, each thing once.
func TestCatchUp(t *testing.T) {
	since := time.Now().Add(-time.Hour).Round(0)
	a, b, fresh := path("a.drv"), path("b.drv"), path("fresh.drv")
	v := &view{
		goals: map[store.Path]bool{a: true, b: true, fresh: true},
		now: func() normaliser.Status {
			return normaliser.Status{Running: []normaliser.Running{
				{Goal: a, Phase: event.PhaseSync, Since: since, Freed: since.Add(2 * time.Minute)},
				{Goal: b, Phase: event.PhaseBuild, Since: since.Add(time.Minute)},
				{Goal: fresh, Phase: event.PhaseBuild, Since: since.Add(3 * time.Minute)},
			}}
		},
	}
	var got []string
	for _, e := range v.catchUp([]event.Event{
		{Kind: event.Freed, Goal: a, Time: since.Add(2 * time.Minute)},
		{Kind: event.Started, Goal: b, Time: since.Add(time.Minute)},
		{Kind: event.Added, Goal: fresh, Time: since.Add(3 * time.Minute)},
		{Kind: event.Started, Goal: fresh, Time: since.Add(3 * time.Minute)},
		{Kind: event.Phase, Goal: a, Text: event.PhaseRegister, Time: since.Add(2 * time.Hour)},
	}) {
		if e.Kind != event.Added || e.Goal == fresh {
			got = append(got, strings.TrimSpace(fmt.Sprint(e.Kind, " ", strings.TrimSuffix(e.Goal.Name(), ".drv"), " ", e.Text)))
		}
	}
	want := []string{
		"started a", "phase a build", "started b", "phase b build", "freed a", "phase a sync",
		"added fresh", "started fresh", "phase a register",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Who builds is told how long that will take, whatever else the owner does.
func TestRealiseTellsItsOwnRemainder(t *testing.T) {
	f := newFake(t)
	f.now.Remaining = time.Hour
	told := make(chan time.Duration, 1)
	f.realise = func(ctx context.Context, req normaliser.Request) (*normaliser.Result, error) {
		req.Planned([]store.Path{path("a.drv"), path("b.drv")})
		select {
		case left := <-told:
			if left != 2*time.Minute {
				t.Errorf("%v are left", left)
			}
		case <-ctx.Done():
		}
		return &normaliser.Result{}, nil
	}
	_, socket := f.serve()
	if _, err := dial(t, socket).Realise(t.Context(), RealiseRequest{}, func(s Seen) {
		if s.Event == nil {
			select {
			case told <- s.Remaining:
			default:
			}
		}
	}); err != nil {
		t.Error(err)
	}
}

func TestClientThatGoesCancels(t *testing.T) { eachWay(t, testClientThatGoesCancels) }

func testClientThatGoesCancels(t *testing.T, dial dialer) {
	f := newFake(t)
	begun, cancelled := make(chan struct{}), make(chan struct{})
	f.realise = func(ctx context.Context, req normaliser.Request) (*normaliser.Result, error) {
		req.Planned(nil)
		close(begun)
		<-ctx.Done()
		close(cancelled)
		return nil, ctx.Err()
	}
	s, socket := f.serve()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	_, err := dial(t, s, socket).Realise(ctx, RealiseRequest{}, nil)
	if !errors.Is(err, store.ErrCancelled) || !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
	<-cancelled
}

// Who did not read for long begins anew with what is so now.
func TestWatchAfterAPause(t *testing.T) {
	f := newFake(t)
	_, socket := f.serve()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := event.Kind("nothing")
	statuses, missed := 0, 0
	err := dial(t, socket).Watch(ctx, false, func(s Seen) {
		switch {
		case s.Status != nil && statuses == 0:
			f.running(normaliser.Running{Goal: path("b.drv")})
			// However many of them the server has taken when it can send no more: the rest
			// are more than wait.
			for range 200_000 {
				f.events.Publish(event.Event{Kind: event.Added, Goal: path("a.drv")})
			}
			f.events.Publish(event.Event{Kind: event.Valid})
			statuses++
		case s.Status != nil:
			if before != event.Missed || len(s.Status.Running) != 1 {
				t.Errorf("behind %s: %+v", before, s.Status)
			}
			statuses++
		case s.Event != nil:
			switch before = s.Event.Kind; before {
			case event.Missed:
				missed++
			case event.Valid:
				cancel()
			}
		}
	})
	// What it takes meanwhile decides how often it misses some, once at least.
	if !errors.Is(err, store.ErrCancelled) || missed == 0 || statuses != 1+missed {
		t.Errorf("%d statuses, %d times missed: %v", statuses, missed, err)
	}
}

func TestWatch(t *testing.T) {
	f := newFake(t)
	f.running(normaliser.Running{Goal: path("a.drv"), Since: time.Now().Add(-time.Minute), Phase: event.PhaseBuild, Expected: time.Hour})
	f.now.Jobs, f.now.Remaining, f.now.Unknown = 2, time.Minute, 3
	_, socket := f.serve()
	c := dial(t, socket)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	err := c.Watch(ctx, false, func(s Seen) {
		n++
		switch n {
		case 1:
			if text := s.Status.Text(s.Status.Running[0].Since.Add(time.Minute)); !strings.Contains(text, "1m00s of 1h00m "+string(path("a.drv"))+" (build)") {
				t.Error(text)
			} else if !strings.Contains(text, "about 1m00s left, if the 3 goals that were never built take as long as others\n") {
				t.Error(text)
			}
			if s.Status == nil || s.Status.Jobs != 2 || len(s.Status.Events()) != 2 || s.Status.PID != 7 {
				t.Errorf("first: %+v", s)
			}
			f.events.Publish(event.Event{Kind: event.Log, Goal: path("a.drv"), Text: "not asked for"})
			f.events.Publish(event.Event{Kind: event.Valid, Paths: []store.Path{path("a")}})
		case 2:
			if s.Event == nil || s.Event.Kind != event.Valid {
				t.Errorf("second: %+v", s)
			}
			cancel()
		}
	})
	if !errors.Is(err, store.ErrCancelled) || n != 2 {
		t.Errorf("%d: %v", n, err)
	}
}
