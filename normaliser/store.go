package normaliser

import (
	"context"
	"time"

	"storefs/builder"
	"storefs/store"
	"storefs/storeexpr"
	"storefs/substitute"
)

// Store is what the normaliser needs of the state directory. All methods are
// called from many goroutines at once, never from the one that owns the graph.
type Store interface {
	Expressions
	Validity
	Registry
	Memory
}

// Expressions reads store expressions.
type Expressions interface {
	// Expr reads the expression p. The error wraps store.ErrNotValid if p is
	// not there, store.ErrBadExpr if it cannot be read.
	Expr(p store.Path) (storeexpr.Expr, error)
	// Known says which derivation makes p, and under which output name ("" for
	// derivations of 2004); the error wraps store.ErrUnknown if none is known.
	Known(p store.Path) (drv store.Path, output string, err error)
	// Kinds are the kinds that outputs were declared to have. Outputs without
	// a declared kind are left out.
	Kinds(outputs []store.Path) (map[store.Path]store.Kind, error)
}

// Validity answers from the database.
type Validity interface {
	Valid(p store.Path) (bool, error)
	Info(p store.Path) (store.Info, error)
	// Inputs is the closure of paths under references, for a build of drv; the
	// error wraps store.ErrNotValid if one of them is not valid. It knows outputs
	// from Built.InPlace on.
	Inputs(drv store.Path, paths []store.Path) (Inputs, error)
	// Realised gives all outputs of the derivation drv, sorted by name, if it is
	// known without the text of drv that all are valid, and that drv has a
	// successor.
	Realised(drv store.Path) (outputs []store.Path, ok bool, err error)
	// Successor is the closure that expr was found to normalise to.
	Successor(expr store.Path) (store.Path, bool, error)
}

// Registry changes what is valid.
type Registry interface {
	// Lock locks the paths against other processes, in an order that cannot
	// deadlock, and waits for whoever holds them until ctx ends. It calls waits
	// once before it does.
	Lock(ctx context.Context, paths []store.Path, waits func()) (unlock func(), err error)
	// Register moves the outputs of a build into the store and makes them
	// valid, together with the successor of the derivation and the duration of
	// the build, and forgets its failures. It does not release the result.
	Register(ctx context.Context, b Built) error
	// RegisterContent moves made, which was built of inputs, into the store and makes it valid: a
	// fixed output that is not what was promised, under the path of its own content.
	RegisterContent(ctx context.Context, made builder.Output, inputs Inputs) error
	// Hurry lets no registration wait for others any longer. It does not block.
	Hurry()
	// Normalised gives drv, whose outputs are all valid, its successor.
	Normalised(ctx context.Context, drv store.Path) error
}

// Inputs are what a build sees. None of them is deleted before Release, which is to be
// called when nothing will come of the build any more.
type Inputs interface {
	// All is the whole closure, sorted by path, and Era the one that it is of: see
	// builder.Job.
	All() (infos []store.Info, era uint64)
	// Err says which of them was replaced meanwhile, so that what was built of it is
	// not to be relied on.
	Err() error
	Release()
}

// Built is a build that succeeded.
type Built struct {
	Drv        store.Path
	Derivation *storeexpr.Derivation
	Inputs     Inputs // whose Err, if there is one, is the registration's
	Result     *builder.Result
	// Patient reports whether nobody waits for this to be registered: then it may
	// wait some milliseconds for others to share a transaction with. It is asked
	// once; when it becomes otherwise, Hurry is called.
	Patient func() bool
	// Moved is to be called, at most once, when the outputs are where they will
	// stay, or are not needed, and the registration begins.
	Moved func()
	// InPlace is to be called, at most once, when builds that need the outputs can
	// begin: Validity.Inputs knows them, and what is registered from then on comes after
	// this, and is refused if this is.
	InPlace func()
	// Synced is to be called when the outputs are on disk and only the
	// registration itself is left, once or more often.
	Synced func()
}

// Memory is what outlives a run about goals.
type Memory interface {
	// Expected is how long the last build of drv took, or of a derivation of
	// the same name; false if nothing is recorded.
	Expected(drv store.Path) (time.Duration, bool)
	// SetFailures remembers why goals failed. A failure is remembered for the
	// first element of its chain, the goal that failed with it.
	SetFailures(ctx context.Context, failures []*store.Failure) error
	// Failure is what is remembered for the goal p, nil if nothing is.
	Failure(p store.Path) (*store.Failure, error)
	// ClearFailures forgets what is remembered for the goals.
	ClearFailures(ctx context.Context, goals ...store.Path) error
}

// Builder runs one build. Its error is a *store.Failure without a chain, or
// wraps store.ErrCancelled or the error of ctx.
type Builder interface {
	Build(ctx context.Context, job builder.Job) (*builder.Result, error)
}

// Substituter lists the ways to get a path, in the order in which they are to
// be tried. That there is none is not an error; an error wraps
// store.ErrUnreachable if nobody could be asked.
type Substituter interface {
	Substitutes(ctx context.Context, p store.Path) ([]substitute.Substitute, error)
}
