package normaliser

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"storefs/store"
	"storefs/storeexpr"
)

// plan is what the walk of expressions found still to be done. It is made
// outside the goroutine that owns the graph, and then merged in one turn.
type plan struct {
	nodes []node // inputs before those who need them
}

// node is one goal of a plan.
type node struct {
	key
	mode     mode
	wants    wants
	deps     []int32 // indices of nodes before this one
	expected time.Duration
	failure  *store.Failure // it cannot even be begun
	// replan: more outputs were found to be wanted after its inputs were
	// decided, so they must be decided again.
	replan bool
}

// realised is the index of what needs no node.
const realised = int32(-1)

// planner walks expressions, each once, with a stack of its own: a chain of
// 100,000 derivations must not be a recursion of that depth. What is valid is
// not walked.
type planner struct {
	ctx         context.Context
	store       Store
	substituter Substituter
	// forPath is the path that the plan is a substitute of: trying to
	// substitute it again would be a cycle.
	forPath store.Path
	// noTry is a derivation whose substitutes have failed.
	noTry store.Path

	seen   map[key]*record
	single map[string][]string // output name → a shared slice of just that
	stack  []frame
	plan   plan
}

// record is what the planner found out about one goal.
type record struct {
	key
	wants  wants
	index  int32 // realised, or its node
	active bool  // its frame is on the stack
}

// ref is something that a goal needs.
type ref struct {
	key
	wants wants
	// direct: no derivation is to be looked for, the path comes from
	// substitutes only.
	direct bool
}

type frame struct {
	rec  *record
	node node
	refs []ref
	next int
}

func newPlanner(ctx context.Context, s Store, sub Substituter) *planner {
	return &planner{ctx: ctx, store: s, substituter: sub, seen: map[key]*record{}, single: map[string][]string{}}
}

// walk adds to the plan whatever r needs, and returns its node. The error is
// that of the context; everything else that can go wrong is the failure of a
// node, so that it reaches exactly those who need it.
func (p *planner) walk(r ref) (int32, error) {
	index, pushed := p.enter(r)
	for pushed && len(p.stack) > 0 {
		if len(p.plan.nodes)&0xff == 0 {
			if err := p.ctx.Err(); err != nil {
				return realised, err
			}
		}
		f := &p.stack[len(p.stack)-1]
		if f.next < len(f.refs) && f.node.failure == nil {
			r := f.refs[f.next]
			f.next++
			if i, pushed := p.enter(r); !pushed && i != realised {
				f = &p.stack[len(p.stack)-1]
				f.node.deps = append(f.node.deps, i)
			}
			continue
		}
		index = p.leave()
		if n := len(p.stack); n > 0 && index != realised {
			f := &p.stack[n-1]
			f.node.deps = append(f.node.deps, index)
		}
	}
	return index, p.ctx.Err()
}

// leave takes the finished frame off the stack and makes its node.
func (p *planner) leave() int32 {
	f := &p.stack[len(p.stack)-1]
	f.rec.active = false
	// A closure all of whose elements are valid needs nothing.
	if f.node.mode != modeClosure || len(f.node.deps) > 0 || f.node.failure != nil {
		f.node.wants = f.rec.wants
		f.rec.index = p.emit(f.node)
	}
	index := f.rec.index
	*f = frame{}
	p.stack = p.stack[:len(p.stack)-1]
	return index
}

func (p *planner) emit(n node) int32 {
	n.deps = slices.Clip(n.deps)
	p.plan.nodes = append(p.plan.nodes, n)
	return int32(len(p.plan.nodes) - 1)
}

// enter looks at r. Either its index is known at once, or a frame was pushed.
func (p *planner) enter(r ref) (index int32, pushed bool) {
	if r.kind == kindPath && !r.direct {
		resolved, err := p.resolve(r.path)
		if err != nil {
			return p.broken(r.key, err), false
		}
		if resolved.path == "" {
			return realised, false
		}
		r = resolved
	}
	rec := p.seen[r.key]
	switch {
	case rec == nil:
		// The strings of an expression may be slices of its whole text.
		r.path = store.Path(strings.Clone(string(r.path)))
		rec = &record{key: r.key, wants: r.wants, index: realised}
		p.seen[r.key] = rec
	case rec.active:
		p.cycle(rec)
		return realised, false
	case rec.wants.covers(r.wants):
		return rec.index, false
	case rec.index != realised:
		n := &p.plan.nodes[rec.index]
		rec.wants = rec.wants.union(r.wants)
		n.wants = rec.wants
		n.replan = n.replan || n.mode == modeTry
		return rec.index, false
	default:
		rec.wants = rec.wants.union(r.wants)
	}
	n, refs := p.evaluate(rec)
	n.key = rec.key
	if n.failure != nil {
		n.wants = rec.wants
		rec.index = p.emit(n)
		return rec.index, false
	}
	if n.mode == modeNone {
		return realised, false
	}
	rec.active = true
	p.stack = append(p.stack, frame{rec: rec, node: n, refs: refs})
	return realised, true
}

// broken makes a node of something that failed before it was a goal.
func (p *planner) broken(k key, err error) int32 {
	if rec := p.seen[k]; rec != nil {
		return rec.index
	}
	k.path = store.Path(strings.Clone(string(k.path)))
	i := p.emit(node{key: k, mode: modeSubstitute, failure: asFailure(k.path, err)})
	p.seen[k] = &record{key: k, wants: wantAll, index: i}
	return i
}

// cycle fails the goal on top of the stack, which needs rec, which is being
// walked itself.
func (p *planner) cycle(rec *record) {
	top := &p.stack[len(p.stack)-1]
	around := []store.Path{top.rec.path}
	begin := slices.IndexFunc(p.stack, func(f frame) bool { return f.rec == rec })
	for _, f := range p.stack[begin : len(p.stack)-1] {
		around = append(around, f.rec.path)
	}
	top.node.failure = cycleFailure(around)
}

// resolve finds what can make the path p: nothing is needed (an empty ref), its
// derivation, or a substitute. Derivations try substitutes first themselves.
func (p *planner) resolve(path store.Path) (ref, error) {
	valid, err := p.store.Valid(path)
	if err != nil || valid {
		return ref{}, err
	}
	drv, output, err := p.store.Known(path)
	switch {
	case err == nil && output == "":
		return ref{key: key{kindExpr, drv}, wants: wantAll}, nil
	case err == nil:
		return ref{key: key{kindExpr, drv}, wants: wants{names: p.names(output)}}, nil
	case !errors.Is(err, store.ErrUnknown):
		return ref{}, err
	}
	has, serr := p.substitutable(path)
	if serr != nil {
		return ref{}, serr
	}
	if !has {
		return ref{}, err
	}
	return ref{key: key{kindPath, path}, wants: wantAll, direct: true}, nil
}

// names is the slice of just that name, shared by all who want it.
func (p *planner) names(name string) []string {
	s, ok := p.single[name]
	if !ok {
		s = []string{strings.Clone(name)}
		p.single[s[0]] = s
	}
	return s
}

func (p *planner) substitutable(path store.Path) (bool, error) {
	if p.substituter == nil {
		return false, nil
	}
	subs, err := p.substituter.Substitutes(p.ctx, path)
	return len(subs) > 0, err
}

// evaluate decides what is to be done for a goal, and what it needs.
func (p *planner) evaluate(rec *record) (node, []ref) {
	if rec.kind == kindPath {
		return node{mode: modeSubstitute}, nil
	}
	e, err := p.store.Expr(rec.path)
	if err != nil {
		if errors.Is(err, store.ErrNotValid) || errors.Is(err, store.ErrUnknown) {
			// The text of the expression itself may come from a substitute.
			has, serr := p.substitutable(rec.path)
			if has {
				return node{mode: modeFetch}, []ref{{key: key{kindPath, rec.path}, wants: wantAll, direct: true}}
			}
			if serr != nil {
				err = serr
			}
		}
		return node{failure: asFailure(rec.path, err)}, nil
	}
	n, refs, err := p.evaluateExpr(rec, e)
	if err != nil {
		return node{failure: asFailure(rec.path, err)}, nil
	}
	return n, refs
}

func (p *planner) evaluateExpr(rec *record, e storeexpr.Expr) (node, []ref, error) {
	switch e := e.(type) {
	case *storeexpr.Closure:
		if rec.kind == kindCheck {
			return node{}, nil, fmt.Errorf("check %s: a closure is not built: %w", rec.path, store.ErrRefused)
		}
		refs := make([]ref, len(e.Elements))
		for i, el := range e.Elements {
			refs[i] = ref{key: key{kindPath, el.Path}, wants: wantAll}
		}
		return node{mode: modeClosure}, refs, nil
	case *storeexpr.Derivation:
		return p.evaluateDerivation(rec, e)
	}
	return node{}, nil, fmt.Errorf("read %s: neither a derivation nor a closure: %w", rec.path, store.ErrBadExpr)
}

func (p *planner) evaluateDerivation(rec *record, d *storeexpr.Derivation) (node, []ref, error) {
	missing, err := p.missing(rec, d)
	if err != nil {
		return node{}, nil, err
	}
	expected, _ := p.store.Expected(rec.path)
	n := node{mode: modeBuild, expected: expected}
	if rec.kind == kindCheck {
		if len(missing) > 0 {
			return node{}, nil, fmt.Errorf("check %s: %s is not valid, so there is nothing to compare with: %w", rec.path, missing[0], store.ErrRefused)
		}
	} else {
		if len(missing) == 0 {
			return node{mode: modeNone}, nil, nil
		}
		try, err := p.tryable(rec.path, missing)
		if err != nil {
			return node{}, nil, err
		}
		if try {
			n.mode = modeTry
			refs := make([]ref, len(missing))
			for i, m := range missing {
				refs[i] = ref{key: key{kindPath, m}, wants: wantAll, direct: true}
			}
			return n, refs, nil
		}
	}
	return n, p.inputs(d), nil
}

// missing lists the wanted outputs of d that are not valid.
func (p *planner) missing(rec *record, d *storeexpr.Derivation) ([]store.Path, error) {
	outs, err := wantedOutputs(rec.path, d, rec.wants)
	if err != nil {
		return nil, err
	}
	if len(outs) == len(d.Outputs) {
		rec.wants = wantAll
	}
	var missing []store.Path
	for _, o := range outs {
		valid, err := p.store.Valid(o)
		if err != nil {
			return nil, err
		}
		if !valid {
			missing = append(missing, o)
		}
	}
	return missing, nil
}

// tryable reports whether every missing output can be substituted: if one
// cannot, the build makes them all. A substituter that cannot be asked offers
// nothing, because there is another way.
func (p *planner) tryable(drv store.Path, missing []store.Path) (bool, error) {
	if p.substituter == nil || drv == p.noTry || slices.Contains(missing, p.forPath) {
		return false, nil
	}
	for _, m := range missing {
		has, err := p.substitutable(m)
		if err := p.ctx.Err(); err != nil {
			return false, err
		}
		if err != nil || !has {
			return false, nil
		}
	}
	return true, nil
}

// inputs are the references of d with what is wanted of each.
func (p *planner) inputs(d *storeexpr.Derivation) []ref {
	refs := make([]ref, 0, len(d.Inputs)+len(d.Sources))
	for _, in := range d.Inputs {
		w := wantAll
		switch {
		case d.Form == storeexpr.Form2004:
		case len(in.Outputs) == 1:
			w = wants{names: p.names(in.Outputs[0])}
		default:
			w = wants{}
			for _, o := range in.Outputs {
				w.names = append(w.names, p.names(o)[0])
			}
		}
		path := in.Path
		if rec := p.seen[key{kindExpr, path}]; rec != nil {
			path = rec.path
		} else {
			path = store.Path(strings.Clone(string(path)))
		}
		refs = append(refs, ref{key: key{kindExpr, path}, wants: w})
	}
	for _, s := range d.Sources {
		refs = append(refs, ref{key: key{kindPath, s}, wants: wantAll})
	}
	return refs
}

// wantedOutputs are the paths of the outputs of d that w names.
func wantedOutputs(drv store.Path, d *storeexpr.Derivation, w wants) ([]store.Path, error) {
	outs := make([]store.Path, 0, len(d.Outputs))
	for _, o := range d.Outputs {
		if d.Form == storeexpr.Form2004 || w.has(o.Name) {
			outs = append(outs, o.Path)
		}
	}
	if d.Form == storeexpr.FormToday && !w.all && len(outs) < len(w.names) {
		for _, n := range w.names {
			if !slices.ContainsFunc(d.Outputs, func(o storeexpr.Output) bool { return o.Name == n }) {
				return nil, fmt.Errorf("%s has no output %q: %w", drv, n, store.ErrBadExpr)
			}
		}
	}
	return outs, nil
}
