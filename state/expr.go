package state

import (
	"context"
	"fmt"
	"strings"

	"storefs/db"
	"storefs/rawfile"
	"storefs/store"
	"storefs/storeexpr"
	"storefs/tree"
)

// NewExpr is a store expression that is to be added.
type NewExpr struct {
	// Name is "NAME.drv", or "NAME.store" for expressions of 2004 and for
	// closures. With a digest in front ("DIGEST-NAME.drv") the digest must be
	// the one that follows from the text.
	Name string
	Text []byte
	// Kinds are what outputs are declared to be, by output name or, for those
	// of 2004, by path.
	Kinds map[string]store.Kind
}

// Expr reads the store expression p, which must be valid. The result is shared
// and must not be changed.
func (s *State) Expr(p store.Path) (storeexpr.Expr, error) {
	if e, ok := s.exprs.get(p); ok {
		return e, nil
	}
	e, err := s.readExpr(p)
	if err != nil {
		return nil, fmt.Errorf("read expression %s: %w", p, err)
	}
	return e, nil
}

// exprSize is more than most expressions have.
const exprSize = 4 << 10

// maxText is the largest room for texts that is used again.
const maxText = 256 << 10

func (s *State) readExpr(p store.Path) (storeexpr.Expr, error) {
	valid, err := s.db.Valid(p)
	if err != nil {
		return nil, err
	}
	if !valid {
		return nil, store.ErrNotValid
	}
	if !p.IsDerivation() { // then it may be a source
		info, err := s.db.Info(p)
		if err != nil {
			return nil, err
		}
		if info.Kind != store.KindRegular {
			return nil, fmt.Errorf("no regular file: %w", store.ErrBadExpr)
		}
	}
	// Parse keeps nothing of the text.
	room, _ := s.texts.Get().(*[]byte)
	if room == nil {
		b := make([]byte, 0, exprSize)
		room = &b
	}
	defer s.texts.Put(room)
	text, err := rawfile.ReadInto(s.Real(p), *room)
	if err != nil {
		return nil, err
	}
	if cap(text) <= maxText {
		*room = text
	}
	e, err := storeexpr.Parse(text)
	if err != nil {
		return nil, err
	}
	s.exprs.put(p, e, len(text))
	// Whoever deletes it takes it out of the cache once it is not valid any more:
	// perhaps before it came there.
	if valid, err = s.db.Valid(p); err == nil && !valid {
		err = store.ErrNotValid
	}
	if err != nil {
		s.exprs.remove(p)
		return nil, err
	}
	return e, nil
}

// AddExpr adds one store expression; see AddExprs.
func (s *State) AddExpr(ctx context.Context, name string, text []byte, kinds map[string]store.Kind) (store.Path, error) {
	paths, err := s.AddExprs(ctx, []NewExpr{{name, text, kinds}})
	if err != nil {
		return "", err
	}
	return paths[0], nil
}

// AddExprs adds store expressions, inputs before those that use them, all with
// one sync and in one transaction, or none of them. What a derivation names must
// be valid or come before it, and its output paths must be those that Nix's rule
// gives; then its outputs are known. A closure may have elements that are not
// valid: they are for substitutes to make.
//
// An expression that is known already may be added again, with other kinds.
func (s *State) AddExprs(ctx context.Context, exprs []NewExpr) ([]store.Path, error) {
	b := s.newBatch()
	paths := make([]store.Path, len(exprs))
	for i, e := range exprs {
		var err error
		if err = ctx.Err(); err == nil {
			paths[i], err = b.addExpr(e)
		}
		if err != nil {
			return nil, fmt.Errorf("add %s: %w", e.Name, diskError(err))
		}
	}
	if err := b.commit(ctx); err != nil {
		return nil, fmt.Errorf("add expressions: %w", diskError(err))
	}
	return paths, nil
}

// batch is what is to become valid together.
type batch struct {
	state   *State
	since   since // nothing was written before
	objects []object
	own     map[store.Path]store.Info
	makers  map[store.Path]*storeexpr.Derivation // by output
	hashes  map[store.Path]storeexpr.Modulo
	reg     db.Registration
}

func (s *State) newBatch() *batch {
	b := &batch{
		state: s, since: s.since(), own: make(map[store.Path]store.Info),
		makers: make(map[store.Path]*storeexpr.Derivation),
		hashes: make(map[store.Path]storeexpr.Modulo),
	}
	b.reg.Still = &b.since
	return b
}

func (b *batch) add(o object) {
	b.objects = append(b.objects, o)
	b.own[o.info.Path] = o.info
}

// addLost adds what is to be put back.
func (b *batch) addLost(o object) {
	o.lost = true
	b.add(o)
}

// commit makes valid what is in the batch.
func (b *batch) commit(ctx context.Context) error {
	if len(b.objects) == 0 && len(b.reg.Outputs) == 0 {
		return nil
	}
	if err := b.state.place(ctx, b.objects, b.reg, nil, nil); err != nil {
		return err
	}
	for _, o := range b.objects {
		if o.lost && b.state.Lost(o.info.Path) {
			if err := b.state.mend(ctx, o, &b.since); err != nil {
				return err
			}
		}
	}
	return nil
}

// cleanUp removes what is left in scratch.
func (b *batch) cleanUp() {
	for _, o := range b.objects {
		if o.scratch != "" {
			// What cannot be removed now is swept by the next owner.
			_ = tree.RemoveAll(o.scratch)
		}
	}
}

func (b *batch) valid(p store.Path) (bool, error) {
	if _, ok := b.own[p]; ok {
		return true, nil
	}
	return b.state.db.Valid(p)
}

// lost reports whether p, which is valid or in the batch, is valid and not there.
func (b *batch) lost(p store.Path) bool {
	_, ok := b.own[p]
	return !ok && b.state.Lost(p)
}

// modulo is what stands for the derivation drv.
func (b *batch) modulo(drv store.Path) (storeexpr.Modulo, error) {
	if m, ok := b.hashes[drv]; ok {
		return m, nil
	}
	m, err := b.state.db.Modulo(drv)
	if err != nil {
		return nil, err
	}
	b.hashes[drv] = m
	return m, nil
}

// addExpr puts an expression into the batch, unless it is valid already.
func (b *batch) addExpr(e NewExpr) (store.Path, error) {
	expr, err := storeexpr.Parse(e.Text)
	if err != nil {
		return "", err
	}
	switch expr := expr.(type) {
	case *storeexpr.Derivation:
		return b.addDerivation(e, expr)
	case *storeexpr.Closure:
		return b.addClosure(e, expr)
	}
	return "", fmt.Errorf("%T: %w", expr, store.ErrBadExpr)
}

// split divides "DIGEST-NAME" into NAME and the path that it claims, "" for a
// name without a digest.
func (b *batch) split(name string) (string, store.Path) {
	if p, err := b.state.store.Join(name); err == nil {
		return p.Name(), p
	}
	return name, ""
}

func (b *batch) addDerivation(e NewExpr, d *storeexpr.Derivation) (store.Path, error) {
	name, claimed := b.split(e.Name)
	suffix, form := ".drv", "today"
	if d.Form == storeexpr.Form2004 {
		suffix, form = ".store", "2004"
	}
	stem, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return "", fmt.Errorf("a derivation of %s must be called NAME%s: %w", form, suffix, store.ErrBadExpr)
	}
	dir := b.state.store
	if err := d.Check(dir, stem); err != nil {
		return "", err
	}
	refs := d.References()
	var p store.Path
	var err error
	ca := textCA(e.Text)
	if d.Form == storeexpr.Form2004 {
		p, err = store.HexPath(dir, name, e.Text)
		ca = hexCA(e.Text)
	} else {
		p, err = store.TextPath(dir, name, e.Text, refs)
	}
	if err != nil {
		return "", err
	}
	if claimed != "" && claimed != p {
		return "", fmt.Errorf("its text is that of %s: %w", p, store.ErrBadExpr)
	}
	if err := checkKinds(d, e.Kinds); err != nil {
		return "", err
	}
	for _, r := range refs {
		ok, err := b.valid(r)
		if err != nil {
			return "", err
		}
		if !ok {
			return "", fmt.Errorf("its input %s: %w", r, store.ErrNotValid)
		}
	}
	known, err := b.valid(p)
	if err != nil {
		return "", err
	}
	switch {
	case !known:
		if err := b.hash(p, stem, d); err != nil {
			return "", err
		}
		b.add(textObject(p, e.Text, refs, ca))
	case b.lost(p):
		b.addLost(textObject(p, e.Text, refs, ca))
	}
	for _, o := range d.Outputs {
		b.makers[o.Path] = d
		b.reg.Outputs = append(b.reg.Outputs, db.KnownOutput{Path: o.Path, Drv: p, Name: o.Name, Kind: declared(o, e.Kinds)})
	}
	return p, nil
}

// hash checks the output paths of d and remembers what stands for it.
func (b *batch) hash(p store.Path, stem string, d *storeexpr.Derivation) error {
	if d.Form == storeexpr.Form2004 {
		return nil
	}
	if err := d.CheckOutputs(b.state.store, stem, b.modulo); err != nil {
		return err
	}
	m, err := d.HashModulo(b.modulo)
	if err != nil {
		return err
	}
	b.hashes[p] = m
	b.reg.Modulos = append(b.reg.Modulos, db.Modulo{Drv: p, Hashes: m})
	return nil
}

// declared is the kind that o must have. A flat fixed output is one file that
// is not executable, whatever is said of it.
func declared(o storeexpr.Output, kinds map[string]store.Kind) store.Kind {
	if o.Algo != "" && !strings.HasPrefix(o.Algo, "r:") {
		return store.KindRegular
	}
	return kinds[outputKey(o)]
}

// outputKey is what an output is called in NewExpr.Kinds.
func outputKey(o storeexpr.Output) string {
	if o.Name == "" {
		return string(o.Path)
	}
	return o.Name
}

func checkKinds(d *storeexpr.Derivation, kinds map[string]store.Kind) error {
	if len(kinds) == 0 {
		return nil
	}
	names := make(map[string]bool, len(d.Outputs))
	for _, o := range d.Outputs {
		names[outputKey(o)] = true
	}
	for k := range kinds {
		if !names[k] {
			return fmt.Errorf("a kind is declared for the output %q, which it does not have: %w", k, store.ErrBadExpr)
		}
	}
	return nil
}

// addClosure adds a closure expression as it is given. It refers to those of
// its elements that are valid: with a name of today it must be all of them,
// because the name depends on them.
func (b *batch) addClosure(e NewExpr, c *storeexpr.Closure) (store.Path, error) {
	dir := b.state.store
	if err := c.Check(dir); err != nil {
		return "", err
	}
	name, claimed := b.split(e.Name)
	if !strings.HasSuffix(name, ".store") {
		return "", fmt.Errorf("a closure must be called NAME.store: %w", store.ErrBadExpr)
	}
	refs := c.References()
	p, err := store.HexPath(dir, name, e.Text)
	if err != nil {
		return "", err
	}
	ca, all := hexCA(e.Text), false
	if claimed != "" && claimed != p {
		p, err = store.TextPath(dir, name, e.Text, refs)
		if err != nil {
			return "", err
		}
		if claimed != p {
			return "", fmt.Errorf("its name does not follow from its text: %w", store.ErrBadExpr)
		}
		ca, all = textCA(e.Text), true
	}
	known, err := b.valid(p)
	lost := known && b.lost(p)
	if known && !lost || err != nil {
		return p, err
	}
	var valid []store.Path
	for _, r := range refs {
		ok, err := b.valid(r)
		if err != nil {
			return "", err
		}
		switch {
		case ok:
			valid = append(valid, r)
		case all:
			return "", fmt.Errorf("its element %s: %w", r, store.ErrNotValid)
		}
	}
	o := textObject(p, e.Text, valid, ca)
	o.lost = lost
	b.add(o)
	return p, nil
}

// hexCA is textCA for the expressions of 2004.
func hexCA(text []byte) string { return "text:" + store.HashOf(store.MD5, text).String() }
