// Package event is the one stream of what happens: the normaliser, the builder
// and the substituters publish; the terminal, the log, the status page and the
// socket are its readers. It knows nothing of any of them.
package event

import (
	"time"

	"storefs/store"
)

// Kind says what an Event tells.
type Kind string

// The kinds of events of a goal, in the order in which a goal may go through
// them.
const (
	// Added: a goal came into the graph.
	Added Kind = "added"
	// Started: it holds a slot now: its builder, or its substitute, runs. What was
	// stopped, and is wanted again, begins anew with it. Event.Text is SlotApart if it is
	// one of the slots for substitution.
	Started Kind = "started"
	// Phase: it came to another phase: Event.Text is one of the Phase… names.
	Phase Kind = "phase"
	// Freed: it gave its slot back: its builder has ended, and what was built is
	// scanned and registered without one; or it waits for more inputs, a substitute
	// for the expression that is to make it.
	Freed Kind = "freed"
	// Log: its builder wrote a line: Event.Text, without the newline.
	Log Kind = "log"
	// Done: it is realised: Event.Text is one of the Outcome… names.
	Done Kind = "done"
	// Failed: it failed: Event.Failure says why.
	Failed Kind = "failed"
	// Dropped: nobody wants it any more; it never ran, or was stopped.
	Dropped Kind = "dropped"
	// Valid: paths became valid (built, added, imported): Event.Paths.
	Valid Kind = "valid"
	// Deleted: paths are no longer valid: Event.Paths.
	Deleted Kind = "deleted"
	// Lost: the reader was too slow; Event.Count log lines are missing here.
	Lost Kind = "lost"
	// Missed: the reader was so slow that all that had happened since the event before
	// this one was dropped, Event.Count events.
	Missed Kind = "missed"
)

// Phases of a running goal.
const (
	PhaseLock     = "lock"     // waiting for another process that builds the same outputs
	PhaseSandbox  = "sandbox"  // setting the sandbox up
	PhaseBuild    = "build"    // the builder runs
	PhaseScan     = "scan"     // canonicalising, hashing, scanning its outputs
	PhaseSync     = "sync"     // moving them into the store, and waiting until they are on disk
	PhaseRegister = "register" // registering them
)

// SlotApart is the Event.Text of what was Started in a slot for substitution.
const SlotApart = "substitution"

// Outcomes of a goal that is done.
const (
	OutcomeBuilt  = "built"
	OutcomeReused = "reused" // it had been realised before its turn came
	// OutcomeCutOff: it had never been realised, but what it makes was valid: what
	// is new in it, or below it, makes no difference to that.
	OutcomeCutOff      = "cut off"
	OutcomeSubstituted = "substituted"
	// OutcomeGathered: nothing was done for it, as what it makes, or stands for, came of other
	// goals: a derivation of which substitutes gave each output, a closure.
	OutcomeGathered = "gathered"
)

// Event is one thing that happened. Which fields hold something follows from
// Kind.
type Event struct {
	Time    time.Time      `json:"time"`
	Kind    Kind           `json:"kind"`
	Goal    store.Path     `json:"goal,omitempty"` // the derivation, or the path, that the goal is for
	Text    string         `json:"text,omitempty"`
	Paths   []store.Path   `json:"paths,omitempty"`
	Failure *store.Failure `json:"failure,omitempty"`
	// Expected is the recorded duration of an Added or Started goal, 0 if none is known.
	Expected time.Duration `json:"expected,omitempty"`
	// Duration is how long a Done or Failed goal held its slot.
	Duration time.Duration `json:"duration,omitempty"`
	// Count is how many lines are Lost, or events Missed, or how many slots a Started goal holds; 0 is one.
	Count int `json:"count,omitempty"`
}
