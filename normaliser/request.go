package normaliser

import (
	"time"

	"storefs/builder"
	"storefs/event"
	"storefs/store"
)

// Request is what one caller wants.
type Request struct {
	// Targets are derivations and closures, which are normalised and realised,
	// and other paths, which are made valid.
	Targets []store.Path
	// Caller is the process that waits, nil if there is none. Its user has a
	// share of the slots, and perhaps a limit (Options.JobsPerUser).
	Caller *Caller
	// KeepGoing builds whatever can be built although something failed.
	KeepGoing bool
	// NoBuild fails the request with store.ErrNotAllowed if something would have
	// to be built for it, other than to substitute: also if that is being built
	// already.
	NoBuild bool
	// Urgent puts the goals before those of requests that are not: a caller is
	// blocked in a lookup.
	Urgent bool
	// Background is for what nobody waits for: its goals get slots that nobody
	// else wants, up to Options.BackgroundJobs of them and, while there are
	// other requests and shortly after, never the last one; they give them back, and begin anew,
	// when somebody does want them. What another request needs of it is no
	// longer in the background. Its failures are not remembered.
	Background bool
	// Jobs raises the number of slots while the request lives. Zero leaves it.
	Jobs int
	// Limits apply to the goals that no earlier request wanted. What ends by
	// stricter limits of another one is asked for again.
	Limits builder.Limits
	// KeepFailed keeps the scratch directories of goals that fail while the request
	// waits for them, whoever wanted them first.
	KeepFailed bool
	// Check builds the targets again although they are valid, and compares.
	Check bool
	// Orphans says what happens to goals that lose their last caller, because
	// its context ended.
	Orphans Orphans
	// Planned, if not nil, gets the goals that the request needs, before their
	// first event: most in one call, more (perhaps some of them again) when a
	// failed substitute makes something else necessary. It must be quick, must
	// not call the Normaliser, and is not called after Realise returned.
	Planned func(goals []store.Path)
}

// Orphans is a policy for goals that nobody waits for any more. The zero value
// lets them go on.
type Orphans struct {
	Cancel bool
	Grace  time.Duration // how long they may go on; zero ends them at once
}

// Result is what came of a request.
type Result struct {
	Targets []Target `json:"targets"` // in the order of Request.Targets
	// Failures are the root causes, each once, with the chain from the first
	// target that it reached. Without KeepGoing there is at most one.
	Failures []*store.Failure `json:"failures,omitempty"`
	// Counts are what became of the goals of the request, and how many expressions
	// and targets were found, when it came, to need nothing, and so were no goals:
	// what those need in turn was not looked at. Without Request.Planned, goals are
	// not counted.
	Counts event.Counts `json:"counts"`
}

// Target is what came of one target.
type Target struct {
	Path store.Path `json:"path"`
	// Paths are what it stands for: a derivation's outputs in the order of
	// their names, a closure's roots, the path itself.
	Paths    []store.Path `json:"paths,omitempty"`
	Realised bool         `json:"realised"`
	// Failure is why it is not realised; nil if it is, or if the request ended
	// before that was known.
	Failure *store.Failure `json:"failure,omitempty"`
}

// request is a Request in the graph. Only the goroutine that owns the graph
// touches it.
type request struct {
	Request
	targets  []*goal            // by target; nil if nothing was to be done
	pending  int                // goals in targets that have not ended
	observer flags              // its flag, if it has Planned
	own      map[*goal]struct{} // its goals that have not ended, if there was no flag left for it
	observed []store.Path
	counts   event.Counts // of its goals that have ended, if it has Planned
	left     bool         // its caller is gone
	ended    bool
	grace    *time.Timer
	reply    chan verdict // buffered: the caller may be gone
}

// verdict answers a request.
type verdict struct {
	failures []*store.Failure // by target
	realised []bool           // by target
	roots    []*store.Failure
	theirs   bool // roots are nothing but limits of others
	counts   event.Counts
	err      error // besides the failures
}
