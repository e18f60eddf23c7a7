// Package daemon lets several processes use one store: the process that owns
// the state directory serves a socket in it, and every command is a client of
// that socket, be the owner a mount or another command. What travels is HTTP with
// JSON over a unix socket; an owner that asks itself needs none. The package
// knows how to ask and to answer; what is answered comes from the interfaces that
// it declares.
package daemon

import (
	"context"
	"io"
	"time"

	"storefs/builder"
	"storefs/normaliser"
	"storefs/prefetch"
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
	// Holder is the process that keeps the mount while its server is dead, 0 if there
	// is none.
	Holder int `json:"holder,omitempty"`
	// SandboxPaths are the host paths that all of its builders see.
	SandboxPaths []string `json:"sandboxPaths,omitempty"`
}

// Realiser makes paths valid. *normaliser.Normaliser is one.
type Realiser interface {
	Realise(ctx context.Context, r normaliser.Request) (*normaliser.Result, error)
	Plan(ctx context.Context, targets []store.Path) (normaliser.Plan, error)
	Status() normaliser.Status
	// Remaining estimates the time until goals have ended.
	Remaining(goals map[store.Path]bool) time.Duration
	// Wanted reports whether a derivation or path is being realised, or waits
	// for its turn.
	Wanted(p store.Path) bool
	// Cancel ends the goals of targets, and returns for each what has ended, CancelAll
	// ends all.
	Cancel(ctx context.Context, targets []store.Path) ([]store.Path, error)
	CancelAll(ctx context.Context) ([]store.Path, error)
}

// RealiseRequest asks for targets: derivations, closures, output paths. What
// its fields mean, normaliser.Request says.
type RealiseRequest struct {
	Targets    []store.Path   `json:"targets"`
	KeepGoing  bool           `json:"keepGoing,omitempty"`
	Jobs       int            `json:"jobs,omitempty"`
	Limits     builder.Limits `json:"limits"`
	KeepFailed bool           `json:"keepFailed,omitempty"`
	Check      bool           `json:"check,omitempty"`
	Logs       bool           `json:"logs,omitempty"` // the client wants the log lines of its goals
	// Details: the client wants every event of its goals, also those that were
	// old news when they could be sent.
	Details bool `json:"details,omitempty"`
}

// Adder makes new paths from what clients send. What is there already may be
// added again.
type Adder interface {
	AddNAR(ctx context.Context, name string, recursive bool, algo store.Algo, nar io.Reader) (store.Info, error)
	AddTexts(ctx context.Context, texts []Text) ([]store.Path, error)
	AddExprs(ctx context.Context, exprs []Text) ([]store.Path, error)
	AddSubstitute(ctx context.Context, p, expr store.Path) error
}

// Text is a text, or a store expression, that is to be added.
type Text struct {
	Name string `json:"name"`
	Text []byte `json:"text"`
	// References are what a text may refer to. (Those of an expression follow
	// from what it says.)
	References []store.Path `json:"references,omitempty"`
	// Kinds are what the outputs of a derivation are declared to be, by name.
	Kinds map[string]store.Kind `json:"kinds,omitempty"`
}

// Declaration is a derivation, with what its outputs are declared to be, by name.
type Declaration struct {
	Path  store.Path            `json:"path"`
	Kinds map[string]store.Kind `json:"kinds,omitempty"`
}

// Mover takes paths in and gives them out. Streams are those of `nix-store
// --export`.
type Mover interface {
	Import(ctx context.Context, r io.Reader) ([]store.Path, error)
	// ImportExprs reads store expressions, and what they name, from files.
	ImportExprs(ctx context.Context, files []string) ([]store.Path, error)
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
	// Missing gives those of paths that are not valid, or valid and lost: that would
	// be put back if it is added.
	Missing(paths []store.Path) ([]store.Path, error)
	// MissingExprs gives those of declared, store expressions, that something would
	// change of if they are added.
	MissingExprs(declared []Declaration) ([]store.Path, error)
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
	// Damage is what was found to be wrong with a valid path, or nil.
	Damage(p store.Path) (*store.Damage, error)
	// LogFile is where the log of a derivation is, or would be.
	LogFile(drv store.Path) string
}

// Caretaker looks after what is there.
type Caretaker interface {
	// Verify reports what is wrong; its error is that of looking.
	Verify(ctx context.Context, o VerifyOptions, report func(Damage)) (Verified, error)
	// Delete returns everything that it deleted.
	Delete(ctx context.Context, paths []store.Path) ([]store.Path, error)
}

// Trails are what was learned of programs, for prefetching.
type Trails interface {
	Trails() ([]prefetch.Trail, error)
	// AddTrails checks them, and returns how many it kept: those that are newer
	// than what is there.
	AddTrails(ctx context.Context, trails []prefetch.Trail) (int, error)
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

// Verified counts what was looked at and found.
type Verified struct {
	Paths    int `json:"paths"`
	Problems int `json:"problems"`
	Repaired int `json:"repaired"`
}
