// Package daemon lets several processes use one store: the process that owns
// the state directory serves a socket in it, and every command is a client of
// that socket, be the owner a mount, another command, or itself. What travels
// is HTTP with JSON over a unix socket. The package knows how to ask and to
// answer; what is answered comes from the interfaces that it declares.
package daemon

import (
	"context"
	"io"
	"time"

	"storefs/builder"
	"storefs/store"
	"storefs/storeexpr"
)

// prefix is the version of the protocol: requests of another version find
// nothing.
const prefix = "/v1/"

// Hello is what the owner says of itself to a new client.
type Hello struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Role    string    `json:"role"` // the command that owns the state: "mount", "build", …
	State   string    `json:"state"`
	Store   store.Dir `json:"store"`
	// Mountpoint is where the store is mounted, "" if it is not.
	Mountpoint string `json:"mountpoint,omitempty"`
}

// Realiser makes paths valid.
type Realiser interface {
	// Realise answers each target, also when it returns an error. It calls
	// planned with the goals of the request when it knows them; ending ctx
	// cancels those that nobody else wants.
	Realise(ctx context.Context, req RealiseRequest, planned func(goals []store.Path)) ([]Realised, error)
	// Plan says what Realise would do.
	Plan(ctx context.Context, targets []store.Path) (Plan, error)
	// Work is what happens now.
	Work() Work
}

// RealiseRequest asks for targets: derivations, closures, output paths.
type RealiseRequest struct {
	Targets    []store.Path   `json:"targets"`
	KeepGoing  bool           `json:"keepGoing,omitempty"`
	Jobs       int            `json:"jobs,omitempty"` // 0: as many as the owner runs at all
	Limits     builder.Limits `json:"limits"`
	KeepFailed bool           `json:"keepFailed,omitempty"`
	Check      bool           `json:"check,omitempty"`
	Logs       bool           `json:"logs,omitempty"` // the client wants the log lines of its goals
}

// Realised is the answer for one target.
type Realised struct {
	Target  store.Path     `json:"target"`
	Outputs []Output       `json:"outputs,omitempty"` // valid now; nothing if it failed
	Failure *store.Failure `json:"failure,omitempty"`
}

// Output is a named output. The Name is "" where outputs have none: those of
// 2004, roots of closures, paths that were asked for themselves.
type Output struct {
	Name string     `json:"name,omitempty"`
	Path store.Path `json:"path"`
}

// Plan is what would be done.
type Plan struct {
	Build      []store.Path `json:"build"`      // derivations, inputs first
	Substitute []store.Path `json:"substitute"` // paths
	Unknown    []store.Path `json:"unknown"`    // needed, and nothing can make them
}

// Work is what the owner does at a moment.
type Work struct {
	Running []Goal `json:"running"`
	Waiting int    `json:"waiting"` // goals that have not started
	Jobs    int    `json:"jobs"`    // how many may run at once
}

// Goal is a goal that runs. Durations are in nanoseconds.
type Goal struct {
	Goal     store.Path    `json:"goal"`
	Phase    string        `json:"phase"`
	Started  time.Time     `json:"started"`
	Expected time.Duration `json:"expected,omitempty"` // 0 if it never ran before
	Waiters  int           `json:"waiters"`            // requests that wait for it
}

// Adder makes new paths from what clients send.
type Adder interface {
	AddNAR(ctx context.Context, name string, recursive bool, algo store.Algo, nar io.Reader) (store.Info, error)
	AddText(ctx context.Context, name string, text []byte, refs []store.Path) (store.Info, error)
	AddExpr(ctx context.Context, name string, text []byte, kinds map[string]store.Kind) (store.Path, error)
	AddSubstitute(ctx context.Context, p, expr store.Path) error
}

// Mover takes closures in and gives them out, as `nix-store --export` streams.
type Mover interface {
	Import(ctx context.Context, r io.Reader) ([]store.Path, error)
	// Export checks that all paths are valid before it writes.
	Export(ctx context.Context, w io.Writer, paths []store.Path) error
}

// Relation is a question about how a path stands to others.
type Relation string

// The relations.
const (
	Outputs      Relation = "outputs"      // of a derivation; the roots of a closure
	References   Relation = "references"   // of a valid path
	Referrers    Relation = "referrers"    // of a valid path
	Requisites   Relation = "requisites"   // of a valid path: itself and all that it needs
	Successor    Relation = "successor"    // the closure that a derivation was normalised to
	Predecessors Relation = "predecessors" // the derivations whose successor a closure is
	Deriver      Relation = "deriver"      // the known derivations that make a path
	Roots        Relation = "roots"        // what keeps a path, or anything, from collection
	Substitutes  Relation = "substitutes"  // expressions that can yield a path, newest first
)

// Querier answers questions about paths.
type Querier interface {
	Info(p store.Path) (store.Info, error) // store.ErrNotValid
	Expr(p store.Path) (storeexpr.Expr, error)
	// Related returns no paths where nothing is known. References, Referrers
	// and Requisites need a valid p, Outputs an expression. Roots are names of
	// links: of all roots if p is "".
	Related(ctx context.Context, rel Relation, p store.Path) ([]store.Path, error)
}

// Records is what is remembered of goals.
type Records interface {
	// Failure is the failure that is remembered of a derivation or a path, or nil.
	Failure(p store.Path) (*store.Failure, error)
	// LogFile is where the log of a derivation is, or would be.
	LogFile(drv store.Path) string
}

// Caretaker looks after what is there.
type Caretaker interface {
	Verify(ctx context.Context, o VerifyOptions, report func(Damage)) error
	Delete(ctx context.Context, paths []store.Path) error
}

// VerifyOptions choose how thoroughly.
type VerifyOptions struct {
	Contents bool `json:"contents,omitempty"` // read and hash everything
	Repair   bool `json:"repair,omitempty"`   // make again what is damaged
}

// Damage is one thing that is wrong.
type Damage struct {
	Path     store.Path `json:"path"`
	Problem  string     `json:"problem"`
	Repaired bool       `json:"repaired,omitempty"`
}
