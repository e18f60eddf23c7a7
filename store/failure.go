package store

import (
	"fmt"
	"strings"
	"time"
)

// Cause says in one word why a realisation failed. Each stands for a sentinel
// error, so that a Failure that went through the database or the socket is
// still told apart by errors.Is.
type Cause string

// The causes.
const (
	CauseBuilder     Cause = "builder"     // exit status, signal: ErrBuildFailed
	CauseLog         Cause = "log"         // it wrote too much: ErrBuildFailed
	CauseTimeout     Cause = "timeout"     // ErrTimeout
	CauseHash        Cause = "hash"        // ErrHashMismatch
	CauseDeterminism Cause = "determinism" // ErrNotDeterministic
	CauseRefused     Cause = "refused"     // by rule, before the builder ran or after, as a missing output: ErrRefused
	CauseCycle       Cause = "cycle"       // ErrCycle
	CauseExpr        Cause = "expression"  // ErrBadExpr
	CauseUnknown     Cause = "unknown"     // ErrUnknown: an input that nothing can make
	CauseNoSpace     Cause = "no-space"    // ErrNoSpace
	CauseUnreachable Cause = "unreachable" // ErrUnreachable
	CauseCancelled   Cause = "cancelled"   // ErrCancelled
	CauseNotAllowed  Cause = "not-allowed" // ErrNotAllowed: whoever asked may start no build
	CauseSystem      Cause = "system"      // the machine's fault: no user namespaces, an I/O error
)

var causeErrors = map[Cause]error{
	CauseBuilder:     ErrBuildFailed,
	CauseLog:         ErrBuildFailed,
	CauseTimeout:     ErrTimeout,
	CauseHash:        ErrHashMismatch,
	CauseDeterminism: ErrNotDeterministic,
	CauseRefused:     ErrRefused,
	CauseCycle:       ErrCycle,
	CauseExpr:        ErrBadExpr,
	CauseUnknown:     ErrUnknown,
	CauseNoSpace:     ErrNoSpace,
	CauseUnreachable: ErrUnreachable,
	CauseCancelled:   ErrCancelled,
	CauseNotAllowed:  ErrNotAllowed,
}

// Failure is why one goal failed, with everything that `storefs why` prints. It
// is an error, and travels as JSON through the database and the socket.
type Failure struct {
	Path    Path      `json:"path"`              // the goal that failed: a derivation, or a path that no substitute gave
	Cause   Cause     `json:"cause"`             //
	Message string    `json:"message"`           // one line: what happened
	Time    time.Time `json:"time"`              //
	Builder string    `json:"builder,omitempty"` // the program
	Status  int       `json:"status,omitempty"`  // its exit status, if it exited
	Signal  string    `json:"signal,omitempty"`  // the signal that ended it ("SIGSEGV"), if one did
	Log     []string  `json:"log,omitempty"`     // the last lines that it wrote
	LogFile string    `json:"logFile,omitempty"` // where the whole log is
	Kept    string    `json:"kept,omitempty"`    // the scratch directory, with --keep-failed
	// OwnLimit: a limit may have ended it that is stricter than the owner's, and was
	// that of whoever asked for it. It says nothing to others.
	OwnLimit bool `json:"ownLimit,omitempty"`
	// Chain is who needed what: from the goal that was asked for down to Path,
	// both included. It has one element when Path itself was asked for.
	Chain []Path `json:"chain,omitempty"`
	// Elided is how many links of a very long chain are left out before its
	// last element.
	Elided int `json:"elided,omitempty"`
}

// Error is one line; the log is not in it.
func (f *Failure) Error() string {
	s := fmt.Sprintf("realise %s: %s", f.Path, f.Message)
	if len(f.Chain) > 1 {
		s += fmt.Sprintf(" (needed by %s)", f.Chain[0])
	}
	return s
}

// Unwrap is the sentinel that Cause stands for.
func (f *Failure) Unwrap() error { return causeErrors[f.Cause] }

// Text is the whole story, for `storefs why` and the mount's why/NAME: several
// lines, each ended by a newline.
func (f *Failure) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", f.Path, f.Message)
	fmt.Fprintf(&b, "cause: %s\n", f.Cause)
	if f.OwnLimit {
		b.WriteString("limit: that of whoever asked for it; others begin anew\n")
	}
	if f.Builder != "" {
		fmt.Fprintf(&b, "builder: %s\n", f.Builder)
		switch {
		case f.Signal != "":
			fmt.Fprintf(&b, "ended by signal: %s\n", f.Signal)
		case f.Status != 0:
			fmt.Fprintf(&b, "exit status: %d\n", f.Status)
		}
	}
	fmt.Fprintf(&b, "time: %s\n", f.Time.Format(time.RFC3339))
	if f.LogFile != "" {
		fmt.Fprintf(&b, "log: %s\n", f.LogFile)
	}
	if f.Kept != "" {
		fmt.Fprintf(&b, "kept: %s\n", f.Kept)
	}
	if len(f.Chain) > 1 {
		b.WriteString("needed by:\n")
		for i, p := range f.Chain {
			if i == len(f.Chain)-1 && f.Elided > 0 {
				fmt.Fprintf(&b, "  %s(%d more)\n", strings.Repeat("  ", i), f.Elided)
			}
			fmt.Fprintf(&b, "  %s%s\n", strings.Repeat("  ", i), p)
		}
	}
	if len(f.Log) > 0 {
		if n := len(f.Log); n == 1 {
			b.WriteString("last line of the log:\n")
		} else {
			fmt.Fprintf(&b, "last %d lines of the log:\n", n)
		}
		for _, l := range f.Log {
			fmt.Fprintf(&b, "  %s\n", l)
		}
	}
	return b.String()
}
