package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"storefs/daemon"
	"storefs/db"
	"storefs/normaliser"
	"storefs/state"
	"storefs/store"
	"storefs/storeexpr"
)

// library is the state directory as the server of the socket sees it.
type library struct {
	state      *state.State
	normaliser *normaliser.Normaliser
	// forget tells the builder, and the mount, if there is one, of what was deleted,
	// replaced of what was made anew, with the same contents or with others.
	forget   func(ctx context.Context, deleted []store.Path)
	replaced func(ctx context.Context, p store.Path, same bool)
	// hold keeps what is replaced from being compared until release is called, and the
	// next server of the mount from believing the kernel. After an error, nothing may
	// be replaced.
	hold func(p store.Path) (release func(), err error)
}

var (
	_ daemon.Adder     = (*library)(nil)
	_ daemon.Mover     = (*library)(nil)
	_ daemon.Querier   = (*library)(nil)
	_ daemon.Records   = (*library)(nil)
	_ daemon.Caretaker = (*library)(nil)
	_ daemon.Trails    = (*library)(nil)
)

func (l *library) AddNAR(ctx context.Context, name string, recursive bool, algo store.Algo, nar io.Reader) (store.Info, error) {
	return l.state.AddNAR(ctx, name, recursive, algo, nar)
}

func (l *library) AddTexts(ctx context.Context, texts []daemon.Text) ([]store.Path, error) {
	all := make([]state.NewText, len(texts))
	for i, t := range texts {
		all[i] = state.NewText{Name: t.Name, Text: t.Text, References: t.References}
	}
	infos, err := l.state.AddTexts(ctx, all)
	if err != nil {
		return nil, err
	}
	paths := make([]store.Path, len(infos))
	for i, info := range infos {
		paths[i] = info.Path
	}
	return paths, nil
}

func (l *library) AddExprs(ctx context.Context, exprs []daemon.Text) ([]store.Path, error) {
	all := make([]state.NewExpr, len(exprs))
	for i, e := range exprs {
		all[i] = state.NewExpr{Name: e.Name, Text: e.Text, Kinds: e.Kinds}
	}
	return l.state.AddExprs(ctx, all)
}

// AddSubstitute needs an expression that is there. The path need not be known
// in any other way.
func (l *library) AddSubstitute(ctx context.Context, p, expr store.Path) error {
	if _, err := l.state.Expr(expr); err != nil {
		return err
	}
	return l.state.DB().AddSubstitute(ctx, p, expr)
}

func (l *library) Import(ctx context.Context, r io.Reader) ([]store.Path, error) {
	return l.state.Import(ctx, r)
}

func (l *library) ImportExprs(ctx context.Context, files []string) ([]store.Path, error) {
	return l.state.ImportExprs(ctx, files)
}

func (l *library) Export(ctx context.Context, w io.Writer, paths []store.Path) error {
	return l.state.Export(ctx, w, paths)
}

func (l *library) Info(p store.Path) (store.Info, error) { return l.state.DB().Info(p) }

func (l *library) Expr(p store.Path) (storeexpr.Expr, error) { return l.state.Expr(p) }

func (l *library) Missing(paths []store.Path) ([]store.Path, error) {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = p.Base()
	}
	invalid, err := l.state.DB().NotValid(names)
	if err != nil {
		return nil, err
	}
	is := make(map[string]bool, len(invalid))
	for _, n := range invalid {
		is[n] = true
	}
	return slices.DeleteFunc(slices.Clone(paths), func(p store.Path) bool { return !is[p.Base()] && !l.state.Lost(p) }), nil
}

func (l *library) MissingExprs(declared []daemon.Declaration) ([]store.Path, error) {
	all := make([]db.Declaration, len(declared))
	for i, d := range declared {
		all[i] = db.Declaration{Drv: d.Path, Kinds: d.Kinds}
	}
	missing, err := l.state.DB().NotDeclared(all)
	if err != nil {
		return nil, err
	}
	is := make(map[store.Path]bool, len(missing))
	for _, p := range missing {
		is[p] = true
	}
	for _, d := range declared {
		if !is[d.Path] && l.state.Lost(d.Path) {
			missing = append(missing, d.Path)
		}
	}
	return missing, nil
}

func (l *library) Related(_ context.Context, rel daemon.Relation, p store.Path) ([]store.Path, error) {
	db := l.state.DB()
	switch rel {
	case daemon.Outputs:
		return l.outputs(p)
	case daemon.References:
		info, err := db.Info(p)
		return info.References, err
	case daemon.Referrers:
		if _, err := db.Info(p); err != nil {
			return nil, err
		}
		return db.Referrers(p)
	case daemon.Requisites:
		infos, err := db.Requisites([]store.Path{p})
		paths := make([]store.Path, len(infos))
		for i := range infos {
			paths[i] = infos[i].Path
		}
		return paths, err
	case daemon.Successor:
		s, ok, err := db.Successor(p)
		if !ok {
			return nil, err
		}
		return []store.Path{s}, nil
	case daemon.Predecessors:
		return db.Predecessors(p)
	case daemon.Deriver:
		return l.derivers(p)
	case daemon.Roots:
		return l.roots(p)
	case daemon.Substitutes:
		return db.Substitutes(p)
	}
	return nil, fmt.Errorf("query %q: no such question", rel)
}

// outputs of a derivation in the order of their names; of a closure, its roots.
func (l *library) outputs(p store.Path) ([]store.Path, error) {
	e, err := l.state.Expr(p)
	if err != nil {
		return nil, err
	}
	switch e := e.(type) {
	case *storeexpr.Derivation:
		return e.OutputList(), nil
	case *storeexpr.Closure:
		return e.Roots, nil
	}
	return nil, nil
}

// derivers are the known derivations that make p, and the one that did, which
// may be known by its name only.
func (l *library) derivers(p store.Path) ([]store.Path, error) {
	all, err := l.state.DB().Derivers(p)
	if err != nil {
		return nil, err
	}
	info, err := l.state.DB().Info(p)
	if errors.Is(err, store.ErrNotValid) {
		return all, nil
	}
	if err == nil && info.Deriver != "" && !slices.Contains(all, info.Deriver) {
		all = append(all, info.Deriver)
	}
	return all, err
}

func (l *library) Failure(p store.Path) (*store.Failure, error) { return l.state.DB().Failure(p) }

func (l *library) Damage(p store.Path) (*store.Damage, error) { return l.state.DB().Damage(p) }

func (l *library) LogFile(drv store.Path) string { return l.state.Log(drv) }

// Delete refuses what a root leads to; what that needs is referred to.
func (l *library) Delete(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	roots := map[store.Path]string{}
	err := l.walkRoots(func(link string, root store.Path) error {
		roots[root] = link
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		if link, ok := roots[p]; ok {
			return nil, fmt.Errorf("delete %s: %w by the root %s", p, store.ErrReferenced, link)
		}
	}
	deleted, err := l.state.Delete(ctx, paths...)
	if len(deleted) > 0 {
		l.forget(ctx, deleted)
	}
	return deleted, err
}

func (l *library) Verify(ctx context.Context, o daemon.VerifyOptions, report func(daemon.Damage)) (daemon.Verified, error) {
	so := state.VerifyOptions{Contents: o.Contents}
	if o.Repair {
		so.Repair, so.Replacing = l.repair, l.replacing
	}
	sum, err := l.state.Verify(ctx, so, func(p state.Problem) {
		report(daemon.Damage{Path: p.Path, Problem: p.Message, Repaired: p.Repaired})
	})
	return daemon.Verified(sum), err
}
