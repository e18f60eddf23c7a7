// Package normaliser realises store expressions and paths: it turns what is
// asked for into goals with their inputs, shares goals between all who wait
// for them, and gives slots to the buildable ones in the order in which they
// are needed. It builds nothing itself, writes nothing to the store, and knows
// neither FUSE nor the socket: it sees a Store, a Builder and a Substituter.
//
// One goroutine owns the graph of goals. Whatever takes time runs elsewhere
// and posts its result: callers walk the expressions themselves and post a
// plan; builds, lock waits, registrations and lookups of substitutes run in a
// worker each.
package normaliser

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"storefs/builder"
	"storefs/event"
	"storefs/store"
)

// DefaultSubstituteJobs is the number of slots for substitution if none is
// given.
const DefaultSubstituteJobs = 4

// walkJobs is the number of walks at a time that the graph itself asks for.
const walkJobs = 8

// Options say what a Normaliser works with.
type Options struct {
	Store       Store       // required
	Builder     Builder     // required
	Substituter Substituter // nil: nothing can be substituted
	Events      *event.Bus  // nil: nobody reads
	// Jobs is the number of builds at a time; zero is one for each CPU.
	Jobs int
	// SubstituteJobs is the number of substitutions at a time, and of builds
	// that only a substitute needs; zero is DefaultSubstituteJobs.
	SubstituteJobs int
	// JobsPerUser is the number of builds, and of substitutions, at a time for
	// the sake of one user; zero is no limit. Also without a limit, who holds
	// fewest slots gets the next one.
	JobsPerUser int
	// Limits are the owner's own: what a request with stricter ones ends by them is a
	// failure for nobody else.
	Limits builder.Limits
	// Foresee, if not nil, is called as soon as something is found to need a
	// build, while what else it needs is looked for still: by any goroutine, and
	// any number of times. It must be quick.
	Foresee func()
	// BackgroundJobs is the number of goals at a time that only requests in the
	// background need; zero is one.
	BackgroundJobs int
}

// errClosing answers requests that come, or are still waiting, when the
// normaliser is closed.
var errClosing = fmt.Errorf("the store is closing: %w", store.ErrCancelled)

// Normaliser realises. It is safe for concurrent use. Close it.
type Normaliser struct {
	store       Store
	builder     Builder
	substituter Substituter
	events      *event.Bus
	memory      *failureLog
	live        *liveGoals
	callers     *callers
	settled     settled
	foresee     func()

	inbox chan func(*graph)
	done  chan struct{} // closed when the graph's goroutine has ended

	scans   chan struct{}   // has an element for each goal that scans without a slot
	running sync.WaitGroup  // workers
	next    chan func()     // to goroutines that have been workers
	resting atomic.Int32    // how many of them wait
	workers context.Context // what they run under
	cancel  context.CancelFunc

	closing sync.Once
	closed  chan struct{} // closed when everything has ended
}

// New begins a normaliser.
func New(o Options) *Normaliser {
	if o.Jobs <= 0 {
		o.Jobs = runtime.NumCPU()
	}
	if o.SubstituteJobs <= 0 {
		o.SubstituteJobs = DefaultSubstituteJobs
	}
	if o.BackgroundJobs <= 0 {
		o.BackgroundJobs = 1
	}
	if o.Events == nil {
		o.Events = &event.Bus{}
	}
	n := &Normaliser{
		store:       o.Store,
		builder:     o.Builder,
		substituter: o.Substituter,
		events:      o.Events,
		memory:      newFailureLog(o.Store),
		live:        &liveGoals{goals: map[key]wants{}},
		callers:     &callers{all: map[*call]struct{}{}},
		foresee:     o.Foresee,
		inbox:       make(chan func(*graph)),
		done:        make(chan struct{}),
		closed:      make(chan struct{}),
		scans:       make(chan struct{}, o.Jobs),
		next:        make(chan func()),
	}
	n.workers, n.cancel = context.WithCancel(context.Background())
	gr := &graph{
		goals:     map[key]*goal{},
		live:      n.live,
		builds:    pool{slots: o.Jobs, perUser: o.JobsPerUser},
		subs:      pool{number: poolOfSubstitution, slots: o.SubstituteJobs, perUser: o.JobsPerUser},
		walks:     pool{slots: walkJobs},
		requests:  map[*request]struct{}{},
		jobs:      map[int]int{},
		minSlots:  o.Jobs,
		idleJobs:  o.BackgroundJobs,
		limits:    o.Limits,
		observers: map[flags]*request{},
		recent:    map[key]*goal{},
		events:    n.events,
		memory:    n.memory,
		launch:    n.launch,
		hurry:     n.store.Hurry,
		scansLeft: func() bool { return len(n.scans) < cap(n.scans) },
		later: func(d time.Duration, message func(*graph)) {
			time.AfterFunc(d, func() { n.post(message) })
		},
	}
	go n.loop(gr)
	return n
}

// loop owns the graph until everything has ended after Close.
func (n *Normaliser) loop(gr *graph) {
	defer close(n.done)
	for !gr.closing || gr.working > 0 {
		message := <-n.inbox
		message(gr)
		gr.settle()
		gr.start()
	}
}

// post gives a message to the goroutine that owns the graph; false if that has
// ended, which it does not while a worker runs.
func (n *Normaliser) post(message func(*graph)) bool {
	select {
	case n.inbox <- message:
		return true
	case <-n.done:
		return false
	}
}

// Hold lets nothing be started beside what runs, because of the reason, until
// it is called with "".
func (n *Normaliser) Hold(reason string) {
	n.post(func(gr *graph) { gr.hold = reason })
}

// Close takes no more requests, drops the goals that have not begun, and waits
// until those that run have ended and are registered. When ctx ends before
// that, it cancels them. Their callers get what became of their goals; the
// others get store.ErrCancelled. It is not to be called by a goroutine that a
// worker waits for.
func (n *Normaliser) Close(ctx context.Context) error {
	n.closing.Do(func() {
		n.post((*graph).close)
		go func() {
			<-n.done
			n.memory.close()
			n.running.Wait()
			n.cancel()
			close(n.closed)
		}()
	})
	select {
	case <-n.closed:
		return nil
	case <-ctx.Done():
	}
	n.cancel()
	<-n.closed
	return fmt.Errorf("close the normaliser: what still ran was cancelled: %w", ctx.Err())
}

// close drops what has not begun. Waiting for a lock is not a beginning.
func (gr *graph) close() {
	gr.closing = true
	for _, g := range gr.goals {
		switch g.state {
		case waiting, buildable:
			gr.drop(g)
		case locking, locked, prepared:
			g.run.cancel()
		case registering:
			gr.hurryUp(g)
		}
	}
}
