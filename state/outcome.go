package state

import (
	"context"
	"errors"
	"fmt"
	"time"

	"storefs/db"
	"storefs/integrity"
	"storefs/store"
	"storefs/storeexpr"
)

// Output is one canonical output in scratch.
type Output struct {
	Info    store.Info
	Scratch string // what is to be renamed into real/; builds/ must hold it
	// Files are the hashes of its files, nil if it needs none or nobody knows.
	Files *integrity.Files
}

// Outcome is a build that succeeded.
type Outcome struct {
	Drv        store.Path
	Derivation *storeexpr.Derivation
	Outputs    []Output // all of the derivation's
	// Inputs are what it was built of, nil if they were not taken from here. If one
	// of them was replaced since they were taken, or a sync has failed, nothing is
	// registered.
	Inputs *Inputs
	// Duration is how long the builder took, 0 if none ran.
	Duration time.Duration
	// Patient, if it is not nil, reports whether the registration may wait some
	// milliseconds for others. See Hurry.
	Patient func() bool
	// Moved, if not nil, is called when nothing in scratch is needed any more,
	// before the registration, which may still fail. It must be quick.
	Moved func()
	// InPlace, if not nil, is called when the outputs are where they will stay,
	// and State.Requisites knows them: what is built from them may be registered
	// from then on. The registration may still fail, and theirs with it. It must
	// be quick.
	InPlace func()
	// Synced, if not nil, is called when the outputs are on disk, before they are
	// registered; once more if that has to be done again. It must be quick.
	Synced func()
}

// Hurry lets no registration wait for others any longer. It does not block.
func (s *State) Hurry() { s.db.Hurry() }

// Register makes the outputs of a build valid, and the closure of them the
// normal form of their derivation: both or neither, so that a valid output
// always has the references that its normal form says. An output that is valid
// already is left alone, and the new one stays in scratch, whose removal is the
// caller's. It returns what is registered of the outputs, in their order, and
// the closure expression.
func (s *State) Register(ctx context.Context, o Outcome) ([]store.Info, store.Path, error) {
	infos, closure, err := s.register(ctx, o)
	for errors.Is(err, errBeaten) {
		infos, closure, err = s.register(ctx, o) // the closure is another one now
	}
	if err != nil {
		return nil, "", fmt.Errorf("register the outputs of %s: %w", o.Drv, diskError(err))
	}
	return infos, closure, nil
}

func (s *State) register(ctx context.Context, o Outcome) ([]store.Info, store.Path, error) {
	b := s.newBatch()
	if o.Inputs != nil {
		b.since = o.Inputs.since
	}
	infos := make([]store.Info, len(o.Outputs))
	for i, out := range o.Outputs {
		info, err := s.db.Info(out.Info.Path)
		switch {
		case errors.Is(err, store.ErrNotValid):
			info = out.Info
			info.Deriver, info.Registered = o.Drv, now()
			b.add(object{info: info, scratch: out.Scratch, files: out.Files, only: true})
		case err != nil:
			return nil, "", err
		}
		infos[i] = info
	}
	closure, err := b.normalForm(o.Drv, o.Derivation)
	if err != nil {
		return nil, "", err
	}
	b.reg.Synced, b.reg.Patient, b.reg.Queued = o.Synced, o.Patient, o.InPlace
	if o.Duration > 0 {
		b.reg.Duration = &db.Duration{Drv: o.Drv, Time: o.Duration}
	}
	if err := s.place(ctx, b.objects, b.reg, o.Inputs, o.Moved); err != nil {
		return nil, "", err
	}
	return infos, closure, nil
}

// RegisterContent makes an output valid that is named by its own content and refers to
// nothing, whether or not a derivation is known that makes it: what was made of in, in the place of
// what had been promised. It needs no lock of the output: whoever is making the same finds
// it valid, as with what is added, and one that is valid already is left alone.
func (s *State) RegisterContent(ctx context.Context, o Output, in *Inputs) error {
	b := s.newBatch()
	if in != nil {
		b.since = in.since
	}
	o.Info.Registered = now()
	b.add(object{info: o.Info, scratch: o.Scratch, files: o.Files})
	known, err := s.db.Known(o.Info.Path)
	switch {
	case err == nil: // and may have failed until now
		b.reg.ClearFailures = []store.Path{known.Drv, o.Info.Path}
	case !errors.Is(err, store.ErrUnknown):
		return fmt.Errorf("register %s: %w", o.Info.Path, err)
	}
	if err := s.place(ctx, b.objects, b.reg, in, nil); err != nil {
		return fmt.Errorf("register %s: %w", o.Info.Path, diskError(err))
	}
	return nil
}

// Normalised makes the closure of the outputs of drv its normal form: they are
// all valid, whoever made them. It returns the closure expression. The error
// wraps store.ErrNotValid if one of them is not.
func (s *State) Normalised(ctx context.Context, drv store.Path) (store.Path, error) {
	closure, ok, err := s.db.Successor(drv)
	if err == nil && !ok {
		closure, err = s.normalise(ctx, drv)
	}
	if err != nil {
		return "", fmt.Errorf("normal form of %s: %w", drv, diskError(err))
	}
	return closure, nil
}

func (s *State) normalise(ctx context.Context, drv store.Path) (store.Path, error) {
	e, err := s.Expr(drv)
	if err != nil {
		return "", err
	}
	d, ok := e.(*storeexpr.Derivation)
	if !ok {
		return drv, nil // a closure is one itself
	}
	b := s.newBatch()
	closure, err := b.normalForm(drv, d)
	if err != nil {
		return "", err
	}
	return closure, s.place(ctx, b.objects, b.reg, nil, nil)
}

// normalForm puts into the batch what makes the closure of d's outputs, which
// are valid or in the batch, the successor of drv, and returns it.
func (b *batch) normalForm(drv store.Path, d *storeexpr.Derivation) (store.Path, error) {
	roots := d.OutputList()
	c, err := storeexpr.NewClosure(roots, func(p store.Path) ([]store.Path, error) {
		if i, ok := b.own[p]; ok {
			return i.References, nil
		}
		i, err := b.state.info(p)
		return i.References, err
	})
	if err != nil {
		return "", err
	}
	p, err := c.Path(b.state.store, d.Form)
	if err != nil {
		return "", err
	}
	text := c.AppendText(nil)
	ca := textCA(text)
	if d.Form == storeexpr.Form2004 {
		ca = hexCA(text)
	}
	b.add(textObject(p, text, c.References(), ca))
	b.reg.Successor = &db.Successor{Expr: drv, Closure: p}
	b.reg.ClearFailures = append(append(b.reg.ClearFailures, drv), roots...)
	return p, nil
}
