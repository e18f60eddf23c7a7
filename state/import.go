package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
	"storefs/tree"
)

// Import reads a stream of `nix-store --export`, or several of them one after the
// other, and makes all of its members valid, or none of them if anything in it, or
// behind it, is wrong. It returns their paths in the order of the stream.
//
// What a member refers to must be valid or come before it. The stream has no
// hashes: derivations, sources and fixed outputs are checked against their
// names, members that are valid already against what is registered; an output
// whose name follows from its derivation is taken as it comes.
func (s *State) Import(ctx context.Context, r io.Reader) ([]store.Path, error) {
	b := s.newBatch()
	defer b.cleanUp()
	x := nar.NewExportReader(r, s.store)
	var paths []store.Path
	for {
		p, err := b.importNext(ctx, x)
		if errors.Is(err, io.EOF) {
			another, err := x.Another()
			if err != nil {
				return nil, fmt.Errorf("import: %w", diskError(err))
			}
			if !another {
				break
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("import: %w", diskError(err))
		}
		paths = append(paths, p)
	}
	if err := b.commit(ctx); err != nil {
		return nil, fmt.Errorf("import: %w", diskError(err))
	}
	return paths, nil
}

// importNext puts the next member into the batch. At the end it returns io.EOF.
func (b *batch) importNext(ctx context.Context, x *nar.ExportReader) (store.Path, error) {
	archive, err := x.Next(0)
	if err != nil {
		return "", err
	}
	scratch := b.state.newScratch("import")
	// What is not in the batch afterwards is of no use.
	keep := false
	defer func() {
		if !keep {
			_ = tree.RemoveAll(scratch)
		}
	}()
	sum, files, err := restore(ctx, archive, scratch)
	if err != nil {
		return "", noEOF(err)
	}
	m, err := x.Trailer()
	if err != nil {
		return "", noEOF(err)
	}
	keep, err = b.addMember(ctx, m, sum, object{scratch: scratch, files: files})
	if err != nil {
		return "", fmt.Errorf("%s: %w", m.Path, err)
	}
	return m.Path, nil
}

// noEOF keeps an end that comes too early from being taken for the end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends too early", store.ErrBadArchive)
	}
	return err
}

// addMember puts a member into the batch, unless it is there or valid; kept
// says that the batch has taken its scratch over.
func (b *batch) addMember(ctx context.Context, m nar.Member, sum nar.Summary, o object) (kept bool, err error) {
	have, known := b.own[m.Path]
	if !known {
		have, err = b.state.db.Info(m.Path)
		if err != nil && !errors.Is(err, store.ErrNotValid) {
			return false, err
		}
		known = err == nil
	}
	if known {
		if !have.NarHash.Equal(sum.Hash) {
			return false, fmt.Errorf("the NAR has the hash %s, but what is valid here has %s: %w", sum.Hash, have.NarHash, store.ErrHashMismatch)
		}
		if !b.lost(m.Path) {
			return false, nil
		}
		o.info = have
		b.addLost(o)
		return true, nil
	}
	refs := slices.Clone(m.References)
	slices.Sort(refs)
	refs = slices.Compact(refs)
	for _, r := range refs {
		if ok, err := b.valid(r); err != nil {
			return false, err
		} else if !ok && r != m.Path {
			return false, fmt.Errorf("it refers to %s: %w", r, store.ErrNotValid)
		}
	}
	if done, err := b.addMemberExpr(m.Path, refs, sum.Kind, o.scratch); done || err != nil {
		return false, err
	}
	ca, err := b.checkContent(ctx, m, refs, sum, o.scratch)
	if err != nil {
		return false, err
	}
	o.info = store.Info{
		Path: m.Path, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size,
		References: refs, Deriver: m.Deriver, CA: ca, Registered: now(),
	}
	b.add(o)
	return true, nil
}

// addMemberExpr adds a member that is a store expression as one. Only of a
// derivation of today does the name alone say that it must be one.
func (b *batch) addMemberExpr(p store.Path, refs []store.Path, kind store.Kind, file string) (done bool, err error) {
	if !p.IsExpr() || !p.IsDerivation() && kind != store.KindRegular {
		return false, nil
	}
	if kind != store.KindRegular {
		return false, fmt.Errorf("a derivation must be a regular file: %w", store.ErrBadExpr)
	}
	text, err := readText(file)
	if err != nil {
		return false, err
	}
	if !p.IsDerivation() {
		e, err := storeexpr.Parse(text)
		if err != nil || !b.isNamed(p, e, text) {
			return false, nil // a source, or an output
		}
	}
	if _, err := b.addExpr(NewExpr{Name: p.Base(), Text: text}); err != nil {
		return false, err
	}
	if has := b.own[p].References; !slices.Equal(has, refs) {
		return false, fmt.Errorf("its references are not what its text names: %w", store.ErrBadArchive)
	}
	return true, nil
}

// isNamed reports whether the name of p, which is no derivation of today, is that of
// the expression e: sources and outputs may be called like expressions of 2004, and
// even read like them.
func (b *batch) isNamed(p store.Path, e storeexpr.Expr, text []byte) bool {
	if p.Digest() == store.HashOf(store.MD5, text).Base16() {
		return true
	}
	c, ok := e.(*storeexpr.Closure)
	if !ok || c.Check(b.state.store) != nil {
		return false
	}
	named, err := store.TextPath(b.state.store, p.Name(), text, c.References())
	return err == nil && named == p
}

// readText reads the text of an expression.
func readText(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, storeexpr.MaxSize+1))
	if err == nil && len(text) > storeexpr.MaxSize {
		err = fmt.Errorf("larger than %d bytes: %w", storeexpr.MaxSize, store.ErrBadExpr)
	}
	return text, err
}
