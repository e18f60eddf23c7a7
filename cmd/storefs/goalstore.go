package main

import (
	"context"
	"errors"
	"time"

	"storefs/builder"
	"storefs/normaliser"
	"storefs/state"
	"storefs/store"
)

// goalStore is the state directory as the normaliser sees it.
type goalStore struct {
	*state.State

	vigil *vigil
}

var _ normaliser.Store = goalStore{}

func (g goalStore) Known(p store.Path) (store.Path, string, error) {
	k, err := g.DB().Known(p)
	return k.Drv, k.Output, err
}

func (g goalStore) Kinds(outputs []store.Path) (map[store.Path]store.Kind, error) {
	kinds := make(map[store.Path]store.Kind, len(outputs))
	for _, o := range outputs {
		k, err := g.DB().Known(o)
		switch {
		case errors.Is(err, store.ErrUnknown):
		case err != nil:
			return nil, err
		case k.Declared != store.KindUnknown:
			kinds[o] = k.Declared
		}
	}
	return kinds, nil
}

func (g goalStore) Valid(p store.Path) (bool, error)      { return g.DB().Valid(p) }
func (g goalStore) Info(p store.Path) (store.Info, error) { return g.DB().Info(p) }

func (g goalStore) Inputs(drv store.Path, paths []store.Path) (normaliser.Inputs, error) {
	in, err := g.State.Inputs(drv, paths)
	if err != nil {
		return nil, err
	}
	return goalInputs{in}, nil
}

// goalInputs are the inputs of a build as the normaliser sees them.
type goalInputs struct{ *state.Inputs }

func (in goalInputs) All() ([]store.Info, uint64) { return in.Infos, in.Era }

func (g goalStore) Realised(drv store.Path) ([]store.Path, bool, error) {
	return g.DB().Realised(drv)
}

func (g goalStore) Successor(expr store.Path) (store.Path, bool, error) {
	return g.DB().Successor(expr)
}

// stateOutput is an output as the state directory takes it.
func stateOutput(o builder.Output) state.Output {
	return state.Output{Info: o.Info, Scratch: o.Scratch, Files: o.Files}
}

// stateInputs are inputs that the state directory gave, nil if they are not.
func stateInputs(in normaliser.Inputs) *state.Inputs {
	if in, ok := in.(goalInputs); ok {
		return in.Inputs
	}
	return nil
}

func (g goalStore) Register(ctx context.Context, b normaliser.Built) error {
	o := state.Outcome{
		Drv: b.Drv, Derivation: b.Derivation, Inputs: stateInputs(b.Inputs), Duration: b.Result.Duration,
		Patient: b.Patient, Moved: b.Moved, InPlace: b.InPlace, Synced: b.Synced,
	}
	for _, out := range b.Result.Outputs {
		o.Outputs = append(o.Outputs, stateOutput(out))
	}
	g.vigil.built()
	_, _, err := g.State.Register(ctx, o)
	return err
}

func (g goalStore) RegisterContent(ctx context.Context, made builder.Output, inputs normaliser.Inputs) error {
	return g.State.RegisterContent(ctx, stateOutput(made), stateInputs(inputs))
}

func (g goalStore) Normalised(ctx context.Context, drv store.Path) error {
	_, err := g.State.Normalised(ctx, drv)
	return err
}

func (g goalStore) Expected(drv store.Path) (time.Duration, bool) { return g.DB().Expected(drv) }

func (g goalStore) SetFailures(ctx context.Context, failures []*store.Failure) error {
	return g.DB().SetFailures(ctx, failures)
}

func (g goalStore) Failure(p store.Path) (*store.Failure, error) { return g.DB().Failure(p) }

func (g goalStore) ClearFailures(ctx context.Context, goals ...store.Path) error {
	return g.DB().ClearFailures(ctx, goals...)
}
