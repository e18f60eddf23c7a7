package daemon

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"storefs/store"
	"storefs/storeexpr"
)

// Graph is who needs whom.
type Graph struct {
	Nodes []Node `json:"nodes"` // sorted by path
}

// Node is an expression or a path with what it needs.
type Node struct {
	Path  store.Path   `json:"path"`
	Needs []store.Path `json:"needs"` // sorted
	// Realised: the path is valid; for a derivation: it has its successor.
	Realised bool `json:"realised"`
	// Cores is how many processors the builder of a derivation uses, 0 for all that
	// there are; nil if it does not say.
	Cores *int `json:"cores,omitempty"`
}

type graphRequest struct {
	Paths []store.Path `json:"paths"`
	// Build asks for the graph of the derivations instead of that of the
	// references of what they made.
	Build bool `json:"build,omitempty"`
}

func (s *Server) graph(w http.ResponseWriter, r *http.Request) error {
	var req graphRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	needs := s.references
	if req.Build {
		needs = s.inputs
	}
	var g Graph
	seen := map[store.Path]bool{}
	todo := slices.Clone(req.Paths)
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[p] {
			continue
		}
		seen[p] = true
		n, err := needs(r.Context(), p)
		if err != nil {
			return err
		}
		g.Nodes = append(g.Nodes, n)
		todo = append(todo, n.Needs...)
	}
	slices.SortFunc(g.Nodes, func(a, b Node) int { return strings.Compare(string(a.Path), string(b.Path)) })
	writeJSON(w, g)
	return nil
}

// references makes the node of a valid path.
func (s *Server) references(_ context.Context, p store.Path) (Node, error) {
	info, err := s.Querier.Info(p)
	if err != nil {
		return Node{}, err
	}
	refs := slices.DeleteFunc(slices.Clone(info.References), func(r store.Path) bool { return r == p })
	if refs == nil {
		refs = []store.Path{}
	}
	return Node{Path: p, Needs: refs, Realised: true}, nil
}

// inputs makes the node of a derivation, or of a closure, which needs nothing.
func (s *Server) inputs(ctx context.Context, p store.Path) (Node, error) {
	e, err := s.Querier.Expr(p)
	if !p.IsDerivation() && errors.Is(err, store.ErrBadExpr) {
		return Node{Path: p, Needs: []store.Path{}, Realised: true}, nil // a source
	}
	if err != nil {
		return Node{}, err
	}
	n := Node{Path: p, Needs: []store.Path{}, Realised: true}
	d, ok := e.(*storeexpr.Derivation)
	if !ok {
		return n, nil
	}
	for _, in := range d.Inputs {
		n.Needs = append(n.Needs, in.Path)
	}
	if cores, ok, err := d.Cores(); ok && err == nil {
		n.Cores = &cores
	}
	successor, err := s.Querier.Related(ctx, Successor, p)
	n.Realised = len(successor) > 0
	return n, err
}
