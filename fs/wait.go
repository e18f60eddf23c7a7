package fs

import (
	"context"
	"errors"
	"time"

	"storefs/store"
)

// signalPoll is how often the pending signals of an interrupted caller are
// looked at. The kernel sends one FUSE_INTERRUPT a request, for the first
// signal of any kind; that it is killed later shows only in /proc.
const signalPoll = 50 * time.Millisecond

// realise makes the caller of q wait until the store object called name is
// valid.
func (r *raw) realise(q *request, name string) error {
	e, err := r.store.Lookup(name)
	if err != nil || e.Valid {
		return err
	}
	c := callerOf(q)
	call := c.call(r.relieve)
	if c.writes(call) {
		return errWrite
	}
	rule := r.rules.of(c)
	if rule != nil && rule.Permission == MayNothing {
		r.denied(c.calls(name), rule)
		return store.ErrNotAllowed
	}
	if r.observer != nil {
		r.touched(c, name)
	}
	limit := r.limit
	if limit > 0 {
		// The kernel counts from when it was asked first.
		if q.header().Unique&resent != 0 {
			limit = max(limit-r.waited, time.Nanosecond)
		}
		r.nodes.journal.waiting(1)
		defer r.nodes.journal.waiting(-1)
	}
	r.relieve()
	needs := c.calls(name)
	needs.NoBuild = rule != nil && rule.Permission == MayFetch
	err = r.wait(q.cancelled(), needs, limit, func() bool { return c.dying(call) })
	if needs.NoBuild && errors.Is(err, store.ErrNotAllowed) {
		r.denied(needs, rule)
	}
	return err
}

// calls is what c needs.
func (c caller) calls(name string) Call {
	p := c.process()
	return Call{Name: name, PID: p.pid, UID: p.uid, Command: string(p.comm())}
}

func (r *raw) denied(c Call, by *Rule) {
	if r.tellDenied != nil {
		r.tellDenied(Denial{c, by.Name})
	}
}

// hearTime is how long an answer waits for the kernel to hear of a change, at most.
const hearTime = 100 * time.Millisecond

// hear waits until the kernel has heard of all changes: whoever has realised something
// and lists the store then finds it there. Whoever waits in a LOOKUP has a lock that
// deletions may be waiting for.
func (r *raw) hear() {
	told := r.notes.told()
	select {
	case <-told:
		return
	default:
	}
	if r.waitInLookup {
		return
	}
	late := time.NewTimer(hearTime)
	defer late.Stop()
	select {
	case <-told:
	case <-late.C:
	case <-r.ctx.Done():
	}
}

// touched tells the observer, of those who may have everything built.
func (r *raw) touched(c caller, name string) {
	if r.rules.permission(c) == MayBuild {
		r.observer.Touched(int(c.pid), name)
	}
}

// resent marks the unique of a request that the kernel repeats
// (FUSE_UNIQUE_RESEND).
const resent = 1 << 63

// wait returns when what is called for is valid, or cannot become so, or the caller must not
// wait any longer: it does not depend on how soon the Realiser notices. A limit
// of 0 is none.
func (r *raw) wait(cancel <-chan struct{}, call Call, limit time.Duration, dying func() bool) error {
	ctx, stop := context.WithCancel(r.ctx)
	defer stop()
	done := make(chan error, 1)
	r.calls.Go(func() {
		err := r.realiser.Realise(ctx, call)
		if err == nil {
			r.hear()
		}
		done <- err
	})

	var late <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	var poll <-chan time.Time
	for {
		select {
		case err := <-done:
			if err != nil && r.ctx.Err() != nil {
				return errEnded
			}
			return err
		case <-r.ctx.Done():
			return errEnded
		case <-late:
			return store.ErrTimeout
		case <-cancel:
			cancel = nil
			if dying() {
				return errKilled
			}
			ticker := time.NewTicker(signalPoll)
			defer ticker.Stop()
			poll = ticker.C
		case <-poll:
			if dying() {
				return errKilled
			}
		}
	}
}
