package store

import "errors"

// Sentinel errors. Functions of all packages wrap them, so that callers decide
// by errors.Is what to answer: an errno (fs), an exit status (cmd/storefs), an
// HTTP status (daemon).
var (
	// ErrBadPath: not a well-formed store path, name or directory.
	ErrBadPath = errors.New("malformed store path")
	// ErrUnknown: the path is not valid, and nothing is known that could make it.
	ErrUnknown = errors.New("the store knows no way to make it")
	// ErrNotValid: the operation needs a valid (registered) path.
	ErrNotValid = errors.New("not valid (not realised)")
	// ErrBadExpr: a store expression that cannot be read or does not hold together.
	ErrBadExpr = errors.New("malformed store expression")
	// ErrBadArchive: a NAR or an export stream that cannot be read.
	ErrBadArchive = errors.New("malformed archive")
	// ErrUnfit: files that cannot be a store object: a setuid bit, a device, a
	// fifo, a socket, a file that changes while it is read.
	ErrUnfit = errors.New("unfit for the store")
	// ErrInUse: another process holds the state directory.
	ErrInUse = errors.New("in use by another process")
	// ErrReferenced: it cannot be deleted, because something refers to it.
	ErrReferenced = errors.New("still referred to")

	// ErrBuildFailed: the builder ended with a status other than 0, was killed
	// by a signal, or wrote too much.
	ErrBuildFailed = errors.New("build failed")
	// ErrTimeout: a build or a substitution ran out of its time limit.
	ErrTimeout = errors.New("timed out")
	// ErrHashMismatch: a fixed output is not what its derivation promised.
	ErrHashMismatch = errors.New("hash mismatch")
	// ErrNotDeterministic: two builds of one derivation differ.
	ErrNotDeterministic = errors.New("not deterministic")
	// ErrRefused: not built by rule, or not taken: another platform, a missing
	// feature, a forbidden reference, an output that is missing or unfit.
	ErrRefused = errors.New("refused")
	// ErrCycle: expressions or substitutes that need themselves.
	ErrCycle = errors.New("cycle")
	// ErrNoSpace: the disk, or the store's own cap, is full.
	ErrNoSpace = errors.New("no space left")
	// ErrUnreachable: only a substituter could give it, and none answers.
	ErrUnreachable = errors.New("no substituter can be reached")
	// ErrNotAllowed: the caller may not trigger builds.
	ErrNotAllowed = errors.New("caller may not trigger a build")
	// ErrCancelled: the last one who wanted it has gone, or the store is closing.
	ErrCancelled = errors.New("cancelled")
)
