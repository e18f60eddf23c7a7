// Package builder runs one derivation's builder: a scratch directory, a
// sandboxed child, a log, an exit status, and then the canonical outputs with
// their hashes and references. It knows nothing of the graph, the database or
// FUSE, so that the same code can run on another machine.
package builder

import (
	"math"
	"time"

	"storefs/integrity"
	"storefs/store"
	"storefs/storeexpr"
)

// Job is one build.
type Job struct {
	Drv        store.Path // the derivation's own path: names the log
	Derivation *storeexpr.Derivation
	// Inputs is the whole closure of the inputs: exactly what the sandbox
	// shows, and the candidates of the reference scan.
	Inputs []store.Info
	// Era is another one once a path of the store was deleted or replaced: what was
	// mounted of inputs of one before is not used again.
	Era uint64
	// Kinds are the kinds that outputs were declared to have, by path. An
	// output that is of another kind fails the build.
	Kinds  map[store.Path]store.Kind
	Limits Limits
	// KeepFailed is asked when a build has failed whose builder ran: whether its scratch
	// directory stays. nil: it does not.
	KeepFailed func() bool
	// Wanted, if not nil, is closed when somebody waits for the build. Until then
	// it takes only the time that nobody else has a use for.
	Wanted <-chan struct{}
	// Turn says when the builder may start; nil: at once.
	Turn *Turn
	// Pool is whose place a build may take, at the end of one, and Heir the rank that
	// it must exceed for that one's. See Relay.
	Pool byte
	Heir int64
	// Relayed is told of the build that was started in the place of this one, before
	// its Phase is event.PhaseScan. It may be nil if Heir is NoHeir.
	Relayed func(next store.Path)
	// Mismatch, if not nil, is given what became of a fixed output that has another hash
	// than its derivation promised: under the path that it has by its own hash, and without a
	// deriver, for none is known to make that. It may move it away; what it leaves goes
	// the way of the scratch directory. The build fails in any case.
	Mismatch func(made Output) error
	// Log gets each line that the builder writes, without its newline, as it
	// comes; Phase the name of each phase (package event). Neither may block;
	// either may be nil.
	Log   func(line []byte)
	Phase func(phase string)
}

// Turn is when a build may start for which everything is prepared.
type Turn struct {
	// Granted is closed when it may.
	Granted <-chan struct{}
	// Relay gives each change of what it may do before that.
	Relay <-chan Relay
}

// Relay lets a build start at the very moment that another one of its pool ends well,
// in the place of that: to ask whoever grants turns first would leave the place empty
// for longer than many a builder runs. Granted is closed then as well, soon, by whom
// Job.Relayed told. Of several, the one with the highest rank starts.
type Relay struct {
	Open bool // false: it may not, as at first
	Rank int64
}

// NoHeir is a Job.Heir that nobody exceeds.
const NoHeir = math.MaxInt64

// Limits end a build that goes beyond them. Zero means no limit.
type Limits struct {
	Timeout   time.Duration `json:"timeout,omitempty"`   // since its start, and again, for its outputs to be read, since its end: store.ErrTimeout
	MaxSilent time.Duration `json:"maxSilent,omitempty"` // without a byte of output: store.ErrTimeout
	MaxLog    int64         `json:"maxLog,omitempty"`    // bytes of log: store.ErrBuildFailed
}

// Output is one canonical output, still in the scratch directory.
type Output struct {
	Name    string     // "out", …; "" for derivations of 2004
	Info    store.Info // complete but for Registered
	Scratch string     // the file or directory that is to be renamed into real/
	// Files are the hashes of its files, nil if it needs none (package integrity).
	Files *integrity.Files
}

// Result is a build that succeeded. Whoever gets it calls Release, once the
// outputs were moved away or are not wanted, or Keep in its place.
type Result struct {
	Outputs  []Output      // all of the derivation's, in their order
	Started  time.Time     // when the builder was started
	Duration time.Duration // of the builder itself
	LogFile  string        // where its log is
	Release  func()        // removes the scratch directory
	// Keep leaves the scratch directory, as Job.KeepFailed does, and says where.
	Keep func() (dir string, err error)
}
