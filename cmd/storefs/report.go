package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"storefs/daemon"
	"storefs/event"
	"storefs/normaliser"
	"storefs/progress"
	"storefs/store"
	"storefs/timeline"
)

// reportFlags ask where the time of a build went.
type reportFlags struct {
	Profile string `placeholder:"FILE" type:"path" help:"Write where the time went, as a trace for ui.perfetto.dev or chrome://tracing; compressed if FILE ends in .gz."`
	Explain bool   `help:"Say which goals decided how long it took, and what one more job at a time would have saved: two replays of the durations in the best order are compared, and neither is the run that was."`
}

// detailed reports whether every event of every goal is needed.
func (f reportFlags) detailed() bool { return f.Profile != "" || f.Explain }

// report is what is told at the end of a build, also of one that had to be asked for
// again.
type report struct {
	flags reportFlags
	start time.Time
	run   *timeline.Run
	clock *timeline.Clock
	// broken: the owner has gone before it had answered. Then before is what had ended
	// by then.
	broken bool
	before event.Counts
	// counts are what became of the goals, once that is known.
	counts event.Counts
}

func newReport(f reportFlags) *report {
	return &report{flags: f, run: timeline.New(), clock: timeline.NewClock()}
}

// summary is a line for people: what became of the goals. It is "" if nothing
// was done, or if it was done before anybody could have wondered, unless somebody
// asked.
func (r *report) summary() string {
	took, c := time.Since(r.start), r.counts
	idle := c == event.Counts{Reused: c.Reused}
	if c == (event.Counts{}) || (idle || took < progress.Delay) && !r.flags.detailed() {
		return ""
	}
	return fmt.Sprintf("storefs: %v in %s", c, progress.Duration(took))
}

// begin says that what is reported begins, or begins anew.
func (r *report) begin() {
	if r.start.IsZero() {
		r.start = time.Now()
	}
}

// take takes an event of the build, and returns it with a time that others may tell of.
func (r *report) take(e event.Event) event.Event {
	shown := e
	shown.Time = r.clock.Since(e.Time)
	e.Time = r.clock.At(e.Time)
	r.run.Take(e)
	return shown
}

// broke says that the owner has gone. The next one begins with what was left to do.
func (r *report) broke() {
	r.run.Stop(r.clock.Now(), true)
	r.broken, r.before = true, r.run.Counts()
}

// answered takes the counts of a request, and returns those of the whole build. They
// are those of the events if it was not answered, and otherwise also those of what was
// no goal.
func (r *report) answered(res normaliser.Result) event.Counts {
	interrupted := res.Targets == nil
	if r.counts = res.Counts; interrupted {
		r.counts = r.run.Counts()
	} else if r.broken {
		r.counts = r.counts.After(r.before)
	}
	r.run.Stop(r.clock.Now(), interrupted)
	return r.counts
}

// write does what the flags ask for.
func (r *report) write(ctx context.Context, a *app, client *daemon.Client, targets []store.Path, jobs int, to *profile) error {
	if !r.flags.detailed() {
		return nil
	}
	// The build may have been interrupted: that it is told of all the same.
	ctx = context.WithoutCancel(ctx)
	if err := r.askNeeds(ctx, client, targets); err != nil {
		return fmt.Errorf("who needs whom: %w", err)
	}
	if r.flags.Explain {
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		r.run.Explain(a.news(), r.counts, max(jobs, status.Jobs), milliseconds)
	}
	if to == nil {
		return nil
	}
	return to.write(func(w io.Writer) error { return r.run.WriteTrace(w, r.counts) })
}

func (r *report) askNeeds(ctx context.Context, client *daemon.Client, targets []store.Path) error {
	var exprs []store.Path
	for _, t := range targets {
		if t.IsDerivation() {
			exprs = append(exprs, t)
			continue
		}
		derivers, err := client.Related(ctx, daemon.Deriver, t)
		if errors.Is(err, store.ErrUnknown) {
			continue // it needs nothing, and has failed
		}
		if err != nil {
			return err
		}
		if t.IsExpr() && len(derivers) == 0 {
			derivers = []store.Path{t}
		}
		exprs = append(exprs, derivers...)
	}
	// A path that is substituted waits for that, and who needs its derivation waits
	// for the path.
	substituted, made := map[store.Path][]store.Path{}, map[store.Path][]store.Path{}
	goals := r.run.Goals()
	tried := make(map[store.Path]bool, len(goals))
	for _, g := range goals {
		tried[g] = true
	}
	for _, p := range goals {
		if p.IsExpr() {
			continue
		}
		substitutes, err := client.Related(ctx, daemon.Substitutes, p)
		if err != nil && !errors.Is(err, store.ErrUnknown) {
			return err
		}
		derivers, err := client.Related(ctx, daemon.Deriver, p)
		if err != nil && !errors.Is(err, store.ErrUnknown) {
			return err
		}
		for _, s := range substitutes {
			if tried[s] {
				substituted[p] = append(substituted[p], s)
				exprs = append(exprs, s)
			}
		}
		for _, d := range derivers {
			made[d] = append(made[d], p)
		}
	}
	g, err := client.Graph(ctx, exprs, true)
	if err != nil {
		return err
	}
	needs, cores := substituted, map[store.Path]int{}
	for _, n := range g.Nodes {
		needs[n.Path] = append(slices.Clone(n.Needs), made[n.Path]...)
		for _, in := range n.Needs {
			needs[n.Path] = append(needs[n.Path], made[in]...)
		}
		if n.Cores != nil {
			cores[n.Path] = *n.Cores
		}
	}
	r.run.Needs(needs)
	r.run.Cores(cores)
	return nil
}

// milliseconds is progress.Duration for what may be shorter than a tenth of a
// second.
func milliseconds(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.1fms", d.Seconds()*1000)
	}
	return progress.Duration(d)
}
