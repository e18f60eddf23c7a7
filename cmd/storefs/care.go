package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"storefs/integrity"
	"storefs/normaliser"
	"storefs/state"
	"storefs/store"
	"storefs/storeexpr"
)

// repairPause is how long nothing is tried after a repair that failed: who reads
// a damaged file again and again must not start the same build each time.
const repairPause = time.Minute

// care compares what the mount reads with what was registered, and has what is
// damaged made anew in the background.
type care struct {
	*integrity.Checker
	library *library
	memory  *integrity.Memory
	say     func(line string)

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	repairing map[store.Path]bool
	tried     map[store.Path]time.Time // when a repair failed
}

func newCare(l *library, say func(line string)) (*care, error) {
	memory, err := integrity.OpenMemory(filepath.Join(l.state.Dir(), "verified"))
	if err != nil {
		return nil, err
	}
	c := &care{
		library: l, memory: memory, say: say,
		repairing: make(map[store.Path]bool), tried: make(map[store.Path]time.Time),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.Checker = integrity.New(integrity.Options{
		Store:   l.state.Store(),
		Real:    l.state.RealDir(),
		Records: registered{l.state},
		Memory:  memory,
		Found:   c.found,
		Failed:  func(err error) { say("storefs: " + err.Error()) },
	})
	return c, nil
}

// close ends repairs, which are tried again when the damage is found again.
func (c *care) close() error {
	c.cancel()
	c.Checker.Close()
	c.wg.Wait()
	return c.memory.Close()
}

// registered is what the state directory knows of objects.
type registered struct{ *state.State }

var _ integrity.Records = registered{}

func (r registered) Info(p store.Path) (store.Info, error) { return r.DB().Info(p) }

// found notes damage, so that whoever got the error finds the reason, and begins
// the repair.
func (c *care) found(d store.Damage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.repairing[d.Path] || time.Since(c.tried[d.Path]) < repairPause || c.ctx.Err() != nil {
		return
	}
	c.say(fmt.Sprintf("storefs: damaged: %s: %s", filepath.Join(string(d.Path), d.File), d.Message))
	if err := c.library.state.DB().SetDamage(c.ctx, d); err != nil {
		c.say("storefs: " + err.Error())
	}
	c.repairing[d.Path] = true
	c.wg.Go(func() {
		err := c.repair(d.Path)
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.repairing, d.Path)
		delete(c.tried, d.Path)
		if err != nil && c.ctx.Err() == nil {
			c.tried[d.Path] = time.Now()
			c.say(fmt.Sprintf("storefs: not repaired: %s: %v", d.Path, err))
		}
	})
}

// repair makes p anew if all of it is not what was registered.
func (c *care) repair(p store.Path) error {
	s := c.library.state
	info, err := s.DB().Info(p)
	if err != nil {
		return err
	}
	problem, err := s.VerifyPath(c.ctx, p, state.VerifyOptions{
		Contents: true, Repair: c.library.repair, Replacing: c.library.replacing,
	})
	switch {
	case err != nil:
		return err
	case problem == nil:
		// What was recorded of its files is wrong: they are read anew.
		if err := s.SetFiles(info, nil); err != nil {
			return err
		}
		c.say(fmt.Sprintf("storefs: not damaged after all: %s", p))
	case problem.Repaired:
		c.say(fmt.Sprintf("storefs: repaired: %s", p))
	default:
		return errors.New(problem.Message)
	}
	c.Forget(info)
	return nil
}

// replacing lets nobody have an answer about what is replaced until the kernel has
// heard of it: whoever gets the new content of one file must not get the old of another
// then.
func (l *library) replacing(ctx context.Context, old, made store.Info) (done func(replaced bool), err error) {
	release, err := l.hold(old.Path)
	if err != nil {
		return nil, err
	}
	return func(replaced bool) {
		defer release()
		if replaced {
			l.replaced(ctx, old.Path, made.NarHash.Equal(old.NarHash))
		}
	}, nil
}

// repair makes what is damaged again, in scratch: as a substitute yields it, or
// as its derivation does.
func (l *library) repair(ctx context.Context, damaged store.Info) (state.Output, func(), error) {
	ways, err := l.state.DB().Substitutes(damaged.Path)
	if err != nil {
		return state.Output{}, nil, err
	}
	known, err := l.state.DB().Known(damaged.Path)
	switch {
	case err == nil:
		ways = append(ways, known.Drv)
	case len(ways) == 0 || !errors.Is(err, store.ErrUnknown):
		return state.Output{}, nil, err
	}
	var failed error
	for _, drv := range ways {
		o, release, err := l.rebuild(ctx, drv, damaged)
		if err == nil {
			return o, release, nil
		}
		failed = errors.Join(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return state.Output{}, nil, failed
}

func (l *library) rebuild(ctx context.Context, drv store.Path, damaged store.Info) (state.Output, func(), error) {
	inputs, err := l.inputs(drv)
	if err != nil {
		return state.Output{}, nil, err
	}
	if len(inputs) > 0 {
		if _, err := l.normaliser.Realise(ctx, normaliser.Request{Targets: inputs}); err != nil {
			return state.Output{}, nil, err
		}
	}
	res, err := l.normaliser.Rebuild(ctx, drv)
	if err != nil {
		return state.Output{}, nil, err
	}
	for _, o := range res.Outputs {
		if o.Info.Path != damaged.Path {
			continue
		}
		if !o.Info.NarHash.Equal(damaged.NarHash) {
			// The builder need not be deterministic; or it was given something
			// damaged.
			if err := l.intact(ctx, inputs); err != nil {
				res.Release()
				return state.Output{}, nil, err
			}
		}
		return state.Output{Info: o.Info, Scratch: o.Scratch, Files: o.Files}, res.Release, nil
	}
	res.Release()
	return state.Output{}, nil, fmt.Errorf("%s does not make it: %w", drv, store.ErrUnknown)
}

// inputs are the paths that the builder of drv is given directly.
func (l *library) inputs(drv store.Path) ([]store.Path, error) {
	e, err := l.state.Expr(drv)
	if err != nil {
		return nil, err
	}
	d, ok := e.(*storeexpr.Derivation)
	if !ok {
		return nil, fmt.Errorf("%s: not a derivation: %w", drv, store.ErrUnknown)
	}
	paths := slices.Clone(d.Sources)
	for _, in := range d.Inputs {
		e, err := l.state.Expr(in.Path)
		if err != nil {
			return nil, err
		}
		i, ok := e.(*storeexpr.Derivation)
		if !ok || d.Form != storeexpr.FormToday {
			paths = append(paths, in.Path)
			continue
		}
		for _, o := range i.Outputs {
			if slices.Contains(in.Outputs, o.Name) {
				paths = append(paths, o.Path)
			}
		}
	}
	return paths, nil
}

// intact reads everything that is needed below paths. Only its contents matter to a
// builder.
func (l *library) intact(ctx context.Context, paths []store.Path) error {
	infos, err := l.state.DB().Requisites(paths)
	if err != nil {
		return err
	}
	for _, i := range infos {
		p, err := l.state.VerifyPath(ctx, i.Path, state.VerifyOptions{Contents: true})
		if err != nil {
			return err
		}
		if p != nil && !p.FormOnly {
			return fmt.Errorf("its input %s is damaged: %s: %w", p.Path, p.Message, store.ErrHashMismatch)
		}
	}
	return nil
}
