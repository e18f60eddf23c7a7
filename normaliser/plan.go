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
	cores    int            // slots that it takes when it is built; 0 is all
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
	// noBuild: derivations whose outputs cannot be substituted fail.
	noBuild bool
	// foresee, if not nil, is told that something is to be built.
	foresee func()
	// own is the expression ownPath, which was read already, or nil.
	own     storeexpr.Expr
	ownPath store.Path
	// live, if not nil, tells what the graph has goals for: the walk ends there.
	live *liveGoals

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
	cutOff bool  // all of its outputs are valid, and it has no successor
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
		if p.live != nil && p.live.covers(rec.key, rec.wants) {
			rec.index = p.emit(node{key: rec.key, mode: modeLive, wants: rec.wants})
			return rec.index, false
		}
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

// refusedCheck is why the check i cannot be begun, nil if it can: then it is taken out
// of the plan again. A question that is refused is no goal, and nobody else hears of it.
func (p *planner) refusedCheck(i int32) *store.Failure {
	n := p.plan.nodes[i]
	if n.failure == nil {
		return nil
	}
	delete(p.seen, n.key)
	p.plan.nodes = p.plan.nodes[:i] // it is the last: nothing was looked for below it
	return n.failure
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

func (p *planner) expr(path store.Path) (storeexpr.Expr, error) {
	if p.own != nil && path == p.ownPath {
		return p.own, nil
	}
	return p.store.Expr(path)
}

// evaluate decides what is to be done for a goal, and what it needs.
func (p *planner) evaluate(rec *record) (node, []ref) {
	if rec.kind == kindPath {
		return node{mode: modeSubstitute}, nil
	}
	if rec.kind == kindExpr && rec.path != p.ownPath {
		// Errors are those of its text, too.
		if _, ok, err := p.store.Realised(rec.path); err == nil && ok {
			rec.wants = wantAll
			return node{mode: modeNone}, nil
		}
	}
	e, err := p.expr(rec.path)
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
