package normaliser

import (
	"context"
	"errors"
	"fmt"
	"time"

	"storefs/store"
)

// Realiser makes one path valid.
type Realiser interface {
	Realise(ctx context.Context, p store.Path) error
}

// RealiserFunc is a function as a Realiser.
type RealiserFunc func(ctx context.Context, p store.Path) error

// Realise calls f.
func (f RealiserFunc) Realise(ctx context.Context, p store.Path) error { return f(ctx, p) }

// FailureMemory is what Banned needs to know.
type FailureMemory interface {
	// Failure is what is remembered for the goal p, nil if nothing is.
	Failure(p store.Path) (*store.Failure, error)
	// Known says which derivation makes p; see Expressions.
	Known(p store.Path) (drv store.Path, output string, err error)
}

// transientBan is the longest ban for what may be over soon without anybody
// changing an expression: it only keeps a loop of lookups from hammering.
const transientBan = 5 * time.Second

// Banned answers with a remembered failure, at once, until its ban is over. It
// stands before a Realiser that serves lookups: a program that tries the same
// path again and again must not start the same failing build each time. Those
// who ask for a build on purpose go past it. Its callers have the owner's own
// limits (Options.Limits).
//
// A failure that was caused further down is a ban only while the cause itself
// is remembered: once that was realised, there is hope. One by a limit that only
// another caller had is none, also for those who waited with that one.
type Banned struct {
	Realiser
	Memory FailureMemory
	// TTL is how long a failure is a ban. For a full disk, an unreachable
	// substituter, faults of the machine, and what was cancelled, it is at most five
	// seconds.
	TTL time.Duration
}

var _ Realiser = Banned{}

// Realise makes p valid, or returns the failure that bans it.
func (b Banned) Realise(ctx context.Context, p store.Path) error {
	for {
		f, err := b.ban(p)
		if err != nil {
			return err
		}
		if f != nil {
			return f
		}
		err = b.Realiser.Realise(ctx, p)
		if f, ok := errors.AsType[*store.Failure](err); !ok || !f.OwnLimit || ctx.Err() != nil {
			return err
		}
	}
}

// ban is the failure that bans p, nil if none does.
func (b Banned) ban(p store.Path) (*store.Failure, error) {
	goal := p
	if !p.IsDerivation() {
		drv, _, err := b.Memory.Known(p)
		switch {
		case err == nil:
			goal = drv
		case !errors.Is(err, store.ErrUnknown):
			return nil, fmt.Errorf("realise %s: %w", p, err)
		}
	}
	f, err := b.Memory.Failure(goal)
	if err != nil {
		return nil, fmt.Errorf("realise %s: %w", p, err)
	}
	if f == nil || f.OwnLimit || time.Since(f.Time) >= b.ttl(f.Cause) {
		return nil, nil
	}
	if f.Path != goal {
		cause, err := b.Memory.Failure(f.Path)
		if err != nil {
			return nil, fmt.Errorf("realise %s: %w", p, err)
		}
		if cause == nil {
			return nil, nil
		}
	}
	return f, nil
}

// ttl is how long a failure is a ban.
func (b Banned) ttl(c store.Cause) time.Duration {
	switch c {
	case store.CauseNoSpace, store.CauseUnreachable, store.CauseSystem, store.CauseCancelled:
		return min(b.TTL, transientBan)
	}
	return b.TTL
}
