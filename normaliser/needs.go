package normaliser

import (
	"fmt"
	"slices"
	"strings"

	"storefs/store"
	"storefs/storeexpr"
)

// evaluateDerivation decides between nothing to do, its substitutes, and a
// build with all its inputs.
func (p *planner) evaluateDerivation(rec *record, d *storeexpr.Derivation) (node, []ref, error) {
	missing, err := p.missing(rec, d)
	if err != nil {
		return node{}, nil, err
	}
	if len(missing) == 0 && rec.kind != kindCheck {
		rec.cutOff, err = cutOff(p.store, rec.path, d)
		return node{mode: modeNone}, nil, err
	}
	expected, _ := p.store.Expected(rec.path)
	cores, _, err := d.Cores()
	if err != nil {
		return node{}, nil, fmt.Errorf("read %s: %w", rec.path, err)
	}
	n := node{mode: modeBuild, expected: expected, cores: cores}
	if rec.kind == kindCheck {
		if len(missing) > 0 {
			return node{}, nil, fmt.Errorf("check %s: %s is not valid, so there is nothing to compare with: %w", rec.path, missing[0], store.ErrRefused)
		}
	} else {
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
	if p.noBuild {
		return node{}, nil, mustBuild(rec.path)
	}
	if p.foresee != nil {
		p.foresee()
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
