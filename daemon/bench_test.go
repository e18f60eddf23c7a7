package daemon

import (
	"context"
	"fmt"
	"testing"
	"time"

	"storefs/event"
	"storefs/normaliser"
	"storefs/store"
)

// jobs are n derivations with an output each.
func jobs(n int) (drvs, outs []store.Path) {
	for i := range n {
		base := fmt.Sprintf("%s/%032d-job-%d", dir, i, i)
		drvs, outs = append(drvs, store.Path(base+".drv")), append(outs, store.Path(base))
	}
	return drvs, outs
}

// What it costs to ask for targets, and to hear that nothing is to be done.
func BenchmarkRealise(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			drvs, outs := jobs(n)
			f := newFake(b)
			f.realise = func(_ context.Context, r normaliser.Request) (*normaliser.Result, error) {
				res := &normaliser.Result{Targets: make([]normaliser.Target, len(r.Targets)), Counts: event.Counts{Reused: n}}
				for i, t := range r.Targets {
					res.Targets[i] = normaliser.Target{Path: t, Paths: outs[i : i+1], Realised: true}
				}
				return res, nil
			}
			_, socket := f.serve()
			c := dial(b, socket)
			b.ReportAllocs()
			for b.Loop() {
				res, err := c.Realise(b.Context(), RealiseRequest{Targets: drvs}, nil)
				if err != nil || len(res.Targets) != n {
					b.Fatal(len(res.Targets), err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/target")
		})
	}
}

// What the events of a build cost on their way to a client.
func BenchmarkEvents(b *testing.B) {
	const n = 1000
	drvs, _ := jobs(n)
	now := time.Now()
	var events []event.Event
	for _, d := range drvs {
		events = append(events, event.Event{Time: now, Kind: event.Added, Goal: d, Expected: time.Millisecond})
	}
	for _, d := range drvs {
		events = append(events,
			event.Event{Time: now, Kind: event.Started, Goal: d, Expected: time.Millisecond},
			event.Event{Time: now, Kind: event.Phase, Goal: d, Text: event.PhaseSandbox},
			event.Event{Time: now, Kind: event.Phase, Goal: d, Text: event.PhaseBuild},
			event.Event{Time: now, Kind: event.Freed, Goal: d},
			event.Event{Time: now, Kind: event.Phase, Goal: d, Text: event.PhaseScan},
			event.Event{Time: now, Kind: event.Phase, Goal: d, Text: event.PhaseSync},
			event.Event{Time: now, Kind: event.Done, Goal: d, Text: event.OutcomeBuilt, Duration: time.Millisecond},
		)
	}
	for _, details := range []bool{false, true} {
		b.Run(fmt.Sprintf("details=%v", details), func(b *testing.B) {
			f := newFake(b)
			f.realise = func(_ context.Context, r normaliser.Request) (*normaliser.Result, error) {
				r.Planned(drvs)
				for _, e := range events {
					f.events.Publish(e)
				}
				return &normaliser.Result{}, nil
			}
			_, socket := f.serve()
			c := dial(b, socket)
			b.ReportAllocs()
			for b.Loop() {
				seen := 0
				if _, err := c.Realise(b.Context(), RealiseRequest{Details: details}, func(Seen) { seen++ }); err != nil || seen < 2*n {
					b.Fatal(seen, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/job")
		})
	}
}
