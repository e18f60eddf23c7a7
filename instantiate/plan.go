package instantiate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"storefs/store"
	"storefs/storeexpr"
)

// Plan is what an evaluation came to: the targets, and everything that must
// be in the store for them to be built.
type Plan struct {
	Targets []Target
	Sources []*Source // by path
	Texts   []*Text   // each after those that it refers to
	Exprs   []*Expr   // each after its inputs

	// External are the absolute paths that the files read or took as sources,
	// sorted: what else than their own directory the evaluation saw.
	External []string
	// Unused are the names in Options.Args that no arg() asked for, sorted.
	Unused []string

	floor []byte // the evaluation's: to write the plan makes as much garbage
}

// Expr is a derivation to be written.
type Expr struct {
	Name  string // with ".drv"
	Path  store.Path
	Kinds map[string]store.Kind // what each output has to be, by its name

	expr *storeexpr.Derivation
}

// Text is what is written. It is made anew each time: most is in the store already.
func (x *Expr) Text() []byte { return x.expr.AppendText(nil) }

// Writer is the store that a plan is written to. All of it is called from one
// goroutine, except AddSource. What it adds may be there already.
type Writer interface {
	// Missing returns those of paths that are to be added: what is not valid, or lost.
	Missing(ctx context.Context, paths []store.Path) ([]store.Path, error)
	// MissingExprs returns those of exprs that something would change of if they are
	// added: what is not valid, or lost, or was declared to have outputs of other kinds.
	MissingExprs(ctx context.Context, exprs []*Expr) ([]store.Path, error)
	// AddSource adds the NAR that dump writes, named by its SHA-256 and name,
	// and returns the path that it got. It is called concurrently.
	AddSource(ctx context.Context, name string, dump func(io.Writer) error) (store.Path, error)
	// AddTexts and AddExprs add them in the given order. The paths of their
	// elements are those that they must get.
	AddTexts(ctx context.Context, texts []*Text) error
	AddExprs(ctx context.Context, exprs []*Expr) error
}

// uploads is how many sources are sent at a time: one is read while another
// is hashed and written.
const uploads = 4

// Write puts all of the plan into a store. What is there is not sent: of expressions,
// whose names do not tell what they declare of the kinds of their outputs, just what is
// there with the same declaration.
func (p *Plan) Write(ctx context.Context, w Writer) error {
	defer runtime.KeepAlive(p.floor)
	missing, err := w.Missing(ctx, p.contents())
	if err != nil {
		return fmt.Errorf("instantiate: ask what is missing: %w", err)
	}
	lacks := set(missing)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	for _, s := range p.Sources {
		if lacks[s.Path] {
			g.Go(func() error { return s.upload(gctx, w) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	texts := slices.DeleteFunc(slices.Clone(p.Texts), func(t *Text) bool { return !lacks[t.Path] })
	if len(texts) > 0 {
		if err := w.AddTexts(ctx, texts); err != nil {
			return fmt.Errorf("instantiate: add texts: %w", err)
		}
	}
	return p.writeExprs(ctx, w)
}

func (p *Plan) writeExprs(ctx context.Context, w Writer) error {
	missing, err := w.MissingExprs(ctx, p.Exprs)
	if err != nil {
		return fmt.Errorf("instantiate: ask which derivations are missing: %w", err)
	}
	lacks := set(missing)
	var exprs []*Expr
	made := map[store.Path]bool{} // by those
	for _, x := range p.Exprs {
		// Of several with the same output the last one is known to make it afterwards.
		again := slices.ContainsFunc(x.expr.Outputs, func(o storeexpr.Output) bool { return made[o.Path] })
		if !lacks[x.Path] && !again {
			continue
		}
		exprs = append(exprs, x)
		for _, o := range x.expr.Outputs {
			made[o.Path] = true
		}
	}
	if len(exprs) == 0 {
		return nil
	}
	err = w.AddExprs(ctx, exprs)
	if errors.Is(err, store.ErrNotValid) && len(exprs) < len(p.Exprs) {
		err = w.AddExprs(ctx, p.Exprs) // an input was deleted since
	}
	if err != nil {
		return fmt.Errorf("instantiate: add derivations: %w", err)
	}
	return nil
}

func set(paths []store.Path) map[store.Path]bool {
	is := make(map[store.Path]bool, len(paths))
	for _, p := range paths {
		is[p] = true
	}
	return is
}

// contents are the paths of what the plan carries whole.
func (p *Plan) contents() []store.Path {
	paths := make([]store.Path, 0, len(p.Sources)+len(p.Texts))
	for _, s := range p.Sources {
		paths = append(paths, s.Path)
	}
	for _, t := range p.Texts {
		paths = append(paths, t.Path)
	}
	return paths
}

func (s *Source) upload(ctx context.Context, w Writer) error {
	got, err := w.AddSource(ctx, s.Name, func(to io.Writer) error { return s.Dump(ctx, to) })
	if err != nil {
		return fmt.Errorf("instantiate: add source %s: %w", s.host, err)
	}
	if got != s.Path {
		return fmt.Errorf("instantiate: add source %s: it is %s now and was %s when the file was evaluated: %w", s.host, got, s.Path, errChanged)
	}
	return nil
}

var errChanged = errors.New("changed meanwhile")

// plan gathers what targets need.
func (e *evaluation) plan(targets []Target) *Plan {
	p := &Plan{Targets: targets}
	var roots []*derivation
	objects := map[store.Path]object{}
	for _, t := range targets {
		if t.object.drv != nil {
			roots = append(roots, t.object.drv)
		} else {
			objects[t.Path] = t.object
		}
	}
	for _, d := range reachable(roots) {
		p.Exprs = append(p.Exprs, &Expr{Name: d.name + ".drv", Path: d.path, Kinds: d.kinds, expr: d.expr})
		for path, o := range d.sources {
			objects[path] = o
		}
	}
	seen := map[store.Path]bool{}
	var visit func(store.Path, object)
	visit = func(path store.Path, o object) {
		if seen[path] {
			return
		}
		seen[path] = true
		switch {
		case o.source != nil:
			p.Sources = append(p.Sources, o.source)
		case o.text != nil:
			for _, r := range o.text.References {
				visit(r, o.text.uses[r])
			}
			p.Texts = append(p.Texts, o.text)
		}
	}
	for _, path := range sortedKeys(objects) {
		visit(path, objects[path])
	}
	slices.SortFunc(p.Sources, func(a, b *Source) int { return cmp.Compare(a.Path, b.Path) })
	slices.Sort(e.external)
	p.External = slices.Compact(e.external)
	for name := range e.opts.Args {
		if !e.asked[name] {
			p.Unused = append(p.Unused, name)
		}
	}
	slices.Sort(p.Unused)
	return p
}
