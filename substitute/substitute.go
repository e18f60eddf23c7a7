// Package substitute knows other ways to get a path than its derivation: for
// now those of 2004, store expressions that were registered as able to yield a
// path. It only says which there are; trying them, and their order in time
// with everything else, is the normaliser's.
package substitute

import (
	"context"
	"fmt"

	"storefs/store"
)

// Substitute is one way to get a path: once the store expression Expr is
// normalised and its closure realised, the path must be valid.
type Substitute struct {
	Expr store.Path `json:"expr"`
}

// Database keeps which expressions can yield a path.
type Database interface {
	// Substitutes lists the expressions registered for p, newest first; none
	// is not an error.
	Substitutes(p store.Path) ([]store.Path, error)
}

// Registered offers what was registered in a database. It is safe for
// concurrent use if the database is.
type Registered struct {
	DB Database
}

// Substitutes lists the ways to get p, in the order in which they are to be
// tried. That there is none is not an error; the slice is the caller's.
func (r Registered) Substitutes(ctx context.Context, p store.Path) ([]Substitute, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("look for substitutes of %s: %w", p, err)
	}
	exprs, err := r.DB.Substitutes(p)
	if err != nil {
		return nil, fmt.Errorf("look for substitutes of %s: %w", p, err)
	}
	subs := make([]Substitute, len(exprs))
	for i, e := range exprs {
		subs[i] = Substitute{Expr: e}
	}
	return subs, nil
}
