package normaliser

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"storefs/builder"
	"storefs/store"
)

// causes are tried in this order on an error that is not a *store.Failure.
var causes = []struct {
	err   error
	cause store.Cause
}{
	{store.ErrCancelled, store.CauseCancelled},
	{context.Canceled, store.CauseCancelled},
	{store.ErrTimeout, store.CauseTimeout},
	{context.DeadlineExceeded, store.CauseTimeout},
	{store.ErrHashMismatch, store.CauseHash},
	{store.ErrNotDeterministic, store.CauseDeterminism},
	{store.ErrRefused, store.CauseRefused},
	{store.ErrCycle, store.CauseCycle},
	{store.ErrBadExpr, store.CauseExpr},
	{store.ErrNoSpace, store.CauseNoSpace},
	{syscall.ENOSPC, store.CauseNoSpace},
	{syscall.EDQUOT, store.CauseNoSpace},
	{store.ErrUnreachable, store.CauseUnreachable},
	{store.ErrUnknown, store.CauseUnknown},
	{store.ErrNotValid, store.CauseUnknown},
	{store.ErrNotAllowed, store.CauseNotAllowed},
	{store.ErrBuildFailed, store.CauseBuilder},
}

// asFailure makes err, which ended the goal for path, a failure that is the
// caller's own to change.
func asFailure(path store.Path, err error) *store.Failure {
	if f, ok := errors.AsType[*store.Failure](err); ok {
		c := *f
		return &c
	}
	message := strings.TrimPrefix(err.Error(), fmt.Sprintf("look up %s: ", path)) // which it says anyway
	f := &store.Failure{Path: path, Cause: store.CauseSystem, Message: strings.ReplaceAll(message, "\n", "; "), Time: time.Now()}
	for _, c := range causes {
		if errors.Is(err, c.err) {
			f.Cause = c.cause
			break
		}
	}
	return f
}

// ownLimit reports whether one of the limits may have ended f that is stricter than
// the owner's.
func ownLimit(f *store.Failure, own, owners builder.Limits) bool {
	switch f.Cause {
	case store.CauseTimeout:
		return stricter(own.Timeout, owners.Timeout) || stricter(own.MaxSilent, owners.MaxSilent)
	case store.CauseLog:
		return stricter(own.MaxLog, owners.MaxLog)
	}
	return false
}

// stricter compares limits, of which zero is none.
func stricter[T ~int64](a, b T) bool { return a != 0 && (b == 0 || a < b) }

// cycleFailure names the cycle around, which begins at the goal that closes it;
// the first element is not repeated at the end.
func cycleFailure(around []store.Path) *store.Failure {
	names := make([]string, 0, len(around)+1)
	const most = 20
	for i, p := range around {
		if i == most && len(around) > most+1 {
			names = append(names, fmt.Sprintf("(%d more)", len(around)-i))
			break
		}
		names = append(names, string(p))
	}
	names = append(names, string(around[0]))
	return &store.Failure{
		Path:    around[0],
		Cause:   store.CauseCycle,
		Message: "cycle: " + strings.Join(names, " needs "),
		Time:    time.Now(),
	}
}
