// Package builder runs one derivation's builder: a scratch directory, a
// sandboxed child, a log, an exit status, and then the canonical outputs with
// their hashes and references. It knows nothing of the graph, the database or
// FUSE, so that the same code can run on another machine.
package builder

import (
	"context"
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
	// Kinds are the kinds that outputs were declared to have, by path. An
	// output that is of another kind fails the build.
	Kinds  map[store.Path]store.Kind
	Limits Limits
	// KeepFailed leaves the scratch directory of a failed build in place.
	KeepFailed bool
	// Wanted, if not nil, is closed when somebody waits for the build. Until then
	// it takes only the time that nobody else has a use for.
	Wanted <-chan struct{}
	// Start, if not nil, is called when nothing is left to be done but to start the
	// builder, which begins when it returns nil.
	Start func(ctx context.Context) error
	// Log gets each line that the builder writes, without its newline, as it
	// comes; Phase the name of each phase (package event). Neither may block;
	// either may be nil.
	Log   func(line []byte)
	Phase func(phase string)
}

// Limits end a build that goes beyond them. Zero means no limit.
type Limits struct {
	Timeout   time.Duration `json:"timeout,omitempty"`   // since its start: store.ErrTimeout
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
// outputs were moved away or are not wanted.
type Result struct {
	Outputs  []Output
	Started  time.Time
	Duration time.Duration // of the builder itself
	LogFile  string
	Release  func() // removes the scratch directory
}
