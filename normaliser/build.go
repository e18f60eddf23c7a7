package normaliser

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"storefs/builder"
	"storefs/event"
	"storefs/store"
	"storefs/storeexpr"
)

// lockPatience is how long a worker keeps its slot while it waits for the lock
// of its outputs.
const lockPatience = 20 * time.Millisecond

// build realises a derivation whose inputs are realised.
func (n *Normaliser) build(ctx context.Context, j *job) ending {
	d, err := n.derivation(j.path)
	if err != nil {
		return ending{err: err}
	}
	unlock, err := n.lock(ctx, j, d)
	if err != nil {
		return ending{err: err}
	}
	defer unlock()
	// Another process may have built it before we got the lock.
	outcome, err := n.reuse(ctx, j, d)
	if err != nil || outcome != "" {
		return ending{outcome: outcome, err: err}
	}
	inputs, err := n.inputs(j, d)
	var res *builder.Result
	if err == nil {
		defer inputs.Release()
		res, err = n.run(ctx, j, d, inputs, true)
	}
	if err != nil {
		j.run.awaitInputs(ctx)
		if inputs == nil && errors.Is(err, store.ErrNotValid) && !j.replanned {
			return n.planAgain(ctx, j, err)
		}
		return ending{err: err}
	}
	n.setPhase(j, event.PhaseSync)
	tidy := res.Release
	// It is built: whoever has gone, it would be a waste not to keep it.
	err = n.store.Register(context.WithoutCancel(ctx), Built{
		Drv: j.path, Derivation: d, Inputs: inputs, Result: res, Patient: j.run.patient,
		Moved: func() {
			// While the registration waits for the disk, or for others, the next
			// build can have what this one leaves.
			tidy = nil
			n.running.Go(res.Release)
		},
		InPlace: func() { n.post(func(gr *graph) { gr.place(j.goal) }) },
		Synced:  func() { n.setPhase(j, event.PhaseRegister) },
	})
	j.run.awaitInputs(ctx)
	if err != nil {
		return ending{err: err, tidy: tidy} // which says that it was about registering
	}
	return ending{outcome: event.OutcomeBuilt, took: res.Duration, tidy: tidy}
}

// planAgain plans again what the goal needs, of which something was deleted while it
// waited. If that cannot be made again, gone says so.
func (n *Normaliser) planAgain(ctx context.Context, j *job, gone error) ending {
	e := n.replan(ctx, j)
	if e.plan != nil && slices.ContainsFunc(e.plan.nodes, func(nd node) bool { return nd.failure != nil }) {
		return ending{err: gone}
	}
	return e
}

func (n *Normaliser) derivation(p store.Path) (*storeexpr.Derivation, error) {
	e, err := n.store.Expr(p)
	if err != nil {
		return nil, err
	}
	d, ok := e.(*storeexpr.Derivation)
	if !ok {
		return nil, fmt.Errorf("read %s: not a derivation: %w", p, store.ErrBadExpr)
	}
	return d, nil
}

// lock locks the outputs. When that takes long, the slot is given back, and
// asked for again once the lock is there.
func (n *Normaliser) lock(ctx context.Context, j *job, d *storeexpr.Derivation) (func(), error) {
	outs := make([]store.Path, len(d.Outputs))
	for i, o := range d.Outputs {
		outs[i] = o.Path
	}
	out := make(chan struct{})
	var patience *time.Timer
	unlock, err := n.store.Lock(ctx, outs, func() {
		patience = time.AfterFunc(lockPatience, func() {
			defer close(out)
			n.setPhase(j, event.PhaseLock)
			n.post(func(gr *graph) { gr.lockedOut(j.goal) })
		})
	})
	if patience == nil || patience.Stop() {
		return unlock, err
	}
	<-out
	if err != nil {
		return nil, err
	}
	n.post(func(gr *graph) { gr.lockedIn(j.goal) })
	select {
	case <-j.run.resume:
		return unlock, nil
	case <-ctx.Done():
		unlock()
		return nil, ctx.Err()
	}
}

// lockedOut takes the slot of a goal whose worker waits for a lock.
func (gr *graph) lockedOut(g *goal) {
	switch g.state {
	case locking, dropped: // it may have been stopped, or dropped with an input
	default:
		gr.set(g, locking)
	}
	if gr.closing {
		g.run.cancel()
	}
}

// lockedIn lets a goal wait for a slot whose worker has the lock now.
func (gr *graph) lockedIn(g *goal) {
	if g.state == locking {
		gr.set(g, locked)
	}
}

// reuse is what became of a derivation whose wanted outputs are valid, "" if
// some are not.
func (n *Normaliser) reuse(ctx context.Context, j *job, d *storeexpr.Derivation) (outcome string, err error) {
	wanted, err := wantedOutputs(j.path, d, j.wants)
	if err != nil {
		return "", err
	}
	if valid, err := allValid(n.store, wanted); err != nil || !valid {
		return "", err
	}
	cut, err := cutOff(n.store, j.path, d)
	if err != nil {
		return "", err
	}
	return n.keep(ctx, j.path, cut)
}

// run gives the job to the builder. keepOther says that what a fixed output is in the
// place of what was promised is kept for whoever corrects the promise, as Nix keeps it, and
// not of what is only built to be compared.
func (n *Normaliser) run(ctx context.Context, j *job, d *storeexpr.Derivation, inputs Inputs, keepOther bool) (*builder.Result, error) {
	outs := make([]store.Path, len(d.Outputs))
	for i, o := range d.Outputs {
		outs[i] = o.Path
	}
	kinds, err := n.store.Kinds(outs)
	if err != nil {
		return nil, err
	}
	slot := slotHolder{n: n, j: j}
	infos, era := inputs.All()
	var mismatch func(builder.Output) error
	if _, fixed := d.Fixed(); fixed && keepOther {
		mismatch = func(made builder.Output) error {
			// As with what is as promised, it would be a waste not to keep it.
			return n.store.RegisterContent(context.WithoutCancel(ctx), made, inputs)
		}
	}
	res, err := n.builder.Build(ctx, builder.Job{
		Drv:        j.path,
		Derivation: d,
		Inputs:     infos,
		Era:        era,
		Kinds:      kinds,
		Limits:     j.origin.limits,
		KeepFailed: func() bool { return n.keepsFailed(j) },
		Wanted:     j.wanted,
		Turn:       j.run.turn(),
		Pool:       j.pool,
		Heir:       j.heir,
		Relayed:    slot.relayed,
		Mismatch:   mismatch,
		Log: func(line []byte) {
			n.events.Publish(event.Event{Kind: event.Log, Goal: j.path, Text: string(line)})
		},
		Phase: func(p string) {
			n.setPhase(j, p)
			slot.phase(p)
		},
	})
	slot.ended(err)
	if gone := inputs.Err(); gone != nil && err != nil && ctx.Err() == nil {
		return nil, gone // whatever the builder said
	}
	return res, err
}

func (n *Normaliser) setPhase(j *job, p string) {
	j.run.phase.set(p)
	// Whoever has no slot has not started, for those who are told.
	if !j.run.hasBegun() {
		return
	}
	n.events.Publish(event.Event{Kind: event.Phase, Goal: j.path, Text: p})
}

// inputs are everything that the builder may see: the requisites of what is used of
// each input.
func (n *Normaliser) inputs(j *job, d *storeexpr.Derivation) (Inputs, error) {
	paths := slices.Clone(d.Sources)
	for _, in := range d.Inputs {
		e, err := n.store.Expr(in.Path)
		if err != nil {
			return nil, err
		}
		switch e := e.(type) {
		case *storeexpr.Closure:
			for _, el := range e.Elements {
				paths = append(paths, el.Path)
			}
		case *storeexpr.Derivation:
			w := wantAll
			if d.Form == storeexpr.FormToday {
				w = wants{names: in.Outputs}
			}
			outs, err := wantedOutputs(in.Path, e, w)
			if err != nil {
				return nil, err
			}
			paths = append(paths, outs...)
		}
	}
	inputs, err := n.store.Inputs(j.path, paths)
	if err != nil {
		return nil, fmt.Errorf("the closure of the inputs: %w", err)
	}
	return inputs, nil
}

// check builds a derivation that is valid, and compares.
func (n *Normaliser) check(ctx context.Context, j *job) error {
	d, err := n.derivation(j.path)
	if err != nil {
		return err
	}
	inputs, err := n.inputs(j, d)
	if err != nil {
		return err
	}
	defer inputs.Release()
	res, err := n.run(ctx, j, d, inputs, false)
	if err != nil {
		return err
	}
	if err := inputs.Err(); err != nil {
		res.Release()
		return err
	}
	for _, o := range res.Outputs {
		info, err := n.store.Info(o.Info.Path)
		if err != nil {
			res.Release()
			return err
		}
		if info.NarHash.Equal(o.Info.NarHash) {
			continue
		}
		f := &store.Failure{
			Path:    j.path,
			Cause:   store.CauseDeterminism,
			Message: fmt.Sprintf("not deterministic: built again, %s is another: %v, was %v", o.Info.Path, o.Info.NarHash, info.NarHash),
			Time:    time.Now(),
			Builder: d.Builder,
			LogFile: res.LogFile,
		}
		if n.keepsFailed(j) {
			if f.Kept, err = res.Keep(); err != nil {
				f.Message += fmt.Sprintf(" (and its scratch directory cannot be kept: %v)", err)
			}
		} else {
			res.Release()
		}
		return f
	}
	res.Release()
	return nil
}
