package normaliser

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"storefs/builder"
	"storefs/store"
)

// Bounds of the chains in failures. A root cause at the bottom of a chain of
// 100,000 goals is told 100,000 times: each of these must be short.
const (
	shortChain = 16   // of what is remembered and published for each goal
	longChain  = 1000 // of what a caller gets for what it asked for
	// maxLogs is how many goals are told the last lines of the log with their
	// cause; those who come after find them with the cause itself.
	maxLogs = 100
)

// report is the failure of g: its root cause, with a chain of at most most
// goals from g down to the cause.
func (g *goal) report(most int) *store.Failure {
	f := g.failure.Failure
	for c := g; ; c = c.blame {
		if c.blame == nil || len(f.Chain) < most-1 {
			f.Chain = append(f.Chain, c.path)
			if c.blame == nil {
				break
			}
			continue
		}
		f.Elided = c.depth
		f.Chain = append(f.Chain, f.Path)
		break
	}
	return &f
}

// tell is the report of g for everybody. Those who asked for g are always told
// the log.
func (g *goal) tell() *store.Failure {
	f := g.report(shortChain)
	if g.failure.told++; g.failure.told > maxLogs && len(g.requests) == 0 {
		f.Log = nil
	}
	return f
}

// rootCauses are the reports of all failures below the goals, each with the
// chain from the first of the goals that it reached. They are theirs if each was a limit
// that is stricter than those of who asks.
func (gr *graph) rootCauses(goals []*goal, limits builder.Limits) (roots []*store.Failure, theirs bool) {
	gr.search++
	type visit struct {
		goal *goal
		from int // index in visits of the goal that needs it
	}
	var visits []visit
	see := func(g *goal, from int) {
		if g != nil && g.mark != gr.search && g.failure != nil {
			g.mark = gr.search
			visits = append(visits, visit{g, from})
		}
	}
	for _, g := range goals {
		see(g, -1)
	}
	theirs = true
	for i := 0; i < len(visits); i++ {
		g := visits[i].goal
		if g.blame != nil {
			see(g.blame, i)
			for _, in := range g.failedInputs {
				see(in, i)
			}
			continue
		}
		f := g.failure.Failure
		theirs = theirs && ownLimit(&f, g.origin.limits, limits)
		f.Chain = nil
		for at := i; at >= 0; at = visits[at].from {
			f.Chain = append(f.Chain, visits[at].goal.path)
		}
		reverse(&f)
		roots = append(roots, &f)
	}
	return roots, theirs && len(roots) > 0
}

// reverse turns a chain that begins at its cause, and shortens it.
func reverse(f *store.Failure) {
	c := f.Chain
	for i, j := 0, len(c)-1; i < j; i, j = i+1, j-1 {
		c[i], c[j] = c[j], c[i]
	}
	if len(c) > longChain {
		f.Elided = len(c) - longChain
		f.Chain = append(c[:longChain-1:longChain-1], c[len(c)-1])
	}
}

// recall keeps a failed goal for plans that come from goals as old as it: what
// fails for one need of a request is not tried again for another, which only
// turns up when a substitute has failed. A new request does try again.
func (gr *graph) recall(g *goal) {
	if refusedBuild(&g.failure.Failure) {
		return // others may try it
	}
	gr.seq++
	g.failedAt = gr.seq
	if len(gr.recent) > 2*gr.recentSize+1000 {
		oldest := gr.seq
		for _, l := range gr.goals {
			oldest = min(oldest, l.since)
		}
		maps.DeleteFunc(gr.recent, func(_ key, f *goal) bool { return f.failedAt < oldest })
		gr.recentSize = len(gr.recent)
	}
	if len(gr.goals) == 0 {
		clear(gr.recent)
		gr.recentSize = 0
		return
	}
	gr.recent[g.key] = g
}

// failedFor is the failed goal for k, if it failed since by came into the graph.
func (gr *graph) failedFor(k key, by *goal) *goal {
	if by == nil {
		return nil
	}
	if f := gr.recent[k]; f != nil && f.failedAt > by.since {
		return f
	}
	return nil
}

// exhausted is the failure of a path goal that has no substitute left.
func exhausted(p store.Path, why []error) *store.Failure {
	f := &store.Failure{Path: p, Cause: store.CauseUnknown, Message: "no substitute for it is known", Time: time.Now()}
	if len(why) == 0 {
		return f
	}
	msgs := make([]string, len(why))
	for i, w := range why {
		msgs[i] = w.Error()
		if sf, ok := errors.AsType[*store.Failure](w); ok {
			msgs[i] = fmt.Sprintf("%s: %s", sf.Path, sf.Message)
			if i == 0 {
				f.Builder, f.Status, f.Signal = sf.Builder, sf.Status, sf.Signal
				f.Log, f.LogFile, f.Kept = sf.Log, sf.LogFile, sf.Kept
			}
		}
	}
	f.Cause = asFailure(p, why[0]).Cause
	if len(why) == 1 {
		f.Message = "its substitute failed: " + msgs[0]
	} else {
		f.Message = fmt.Sprintf("none of its %d substitutes yielded it: %s", len(why), strings.Join(msgs, "; "))
	}
	return f
}
