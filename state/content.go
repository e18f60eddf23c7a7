package state

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// checkContent checks a member's content against its name as far as that can be
// told, and returns how the one follows from the other, "" if it does not.
func (b *batch) checkContent(ctx context.Context, m nar.Member, refs []store.Path, sum nar.Summary, path string) (string, error) {
	fixed, isOutput, err := b.fixedOutput(m.Path)
	if err != nil {
		return "", err
	}
	if fixed != nil {
		if len(refs) > 0 {
			// Its name says nothing of them, and nothing built so has any.
			return "", fmt.Errorf("it is a fixed output, and refers to %s: %w", refs[0], store.ErrBadArchive)
		}
		return checkFixed(*fixed, sum, path)
	}
	c := content{dir: b.state.store, path: m.Path, refs: refs, sum: sum, file: path}
	if ca := c.source(); ca != "" {
		return ca, nil
	}
	if isOutput || m.Deriver != "" {
		return "", nil
	}
	// Without a deriver it can only be something that is named by its content.
	ca, err := c.other(ctx)
	if err == nil && ca == "" {
		err = fmt.Errorf("its name does not follow from its content, and it has no deriver: %w", store.ErrBadArchive)
	}
	return ca, err
}

// fixedOutput is p's output in a derivation that is known to make it, if that is
// a fixed one.
func (b *batch) fixedOutput(p store.Path) (fixed *storeexpr.Output, isOutput bool, err error) {
	d, isOutput := b.makers[p]
	if !isOutput {
		known, err := b.state.db.Known(p)
		if errors.Is(err, store.ErrUnknown) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		e, err := b.state.Expr(known.Drv)
		if err != nil {
			return nil, false, err
		}
		d, _ = e.(*storeexpr.Derivation)
	}
	if d == nil {
		return nil, true, nil
	}
	if o, ok := d.Fixed(); ok && o.Path == p {
		return &o, true, nil
	}
	return nil, true, nil
}

// checkFixed checks the content at path against what its derivation promises.
func checkFixed(o storeexpr.Output, sum nar.Summary, path string) (string, error) {
	want, recursive, err := o.Content()
	if err != nil {
		return "", err
	}
	got := sum.Hash
	if !recursive || want.Algo != store.SHA256 {
		h := want.Algo.New()
		if recursive {
			err = nar.Dump(h, path)
		} else {
			err = hashFile(h, path, sum.Kind)
		}
		if err != nil {
			return "", err
		}
		got = store.Hash{Algo: want.Algo, Sum: string(h.Sum(nil))}
	}
	if !got.Equal(want) {
		return "", fmt.Errorf("its derivation promises %s, the content has %s: %w", want, got, store.ErrHashMismatch)
	}
	return fixedCA(recursive, want), nil
}

// content tells whether a path is named by what is in it.
type content struct {
	dir  store.Dir
	path store.Path
	refs []store.Path
	sum  nar.Summary
	file string // where it is
}

// source is how the name of a source follows from its NAR, "" if it does not.
func (c content) source() string {
	if slices.Contains(c.refs, c.path) {
		return "" // its own digest is in what is hashed
	}
	if p, err := store.FixedPath(c.dir, true, c.sum.Hash, c.path.Name(), c.refs, false); err == nil && p == c.path {
		return fixedCA(true, c.sum.Hash)
	}
	return ""
}

// self is source for what refers to itself.
func (c content) self() (string, error) {
	h := newSelfHash(c.path)
	if err := nar.Dump(h, c.file); err != nil {
		return "", err
	}
	others := slices.DeleteFunc(slices.Clone(c.refs), func(r store.Path) bool { return r == c.path })
	full, short := h.sums()
	for _, sum := range []store.Hash{full, short} {
		p, err := store.FixedPath(c.dir, true, sum, c.path.Name(), others, true)
		if err != nil {
			return "", err
		}
		if p == c.path {
			return fixedCA(true, sum), nil
		}
	}
	return "", nil
}

// other is how the name follows from the content in any other way: as a text's,
// as a fixed output's of any algorithm, or as that of what refers to itself.
func (c content) other(ctx context.Context) (string, error) {
	if slices.Contains(c.refs, c.path) {
		return c.self() // no other can
	}
	if c.sum.Kind == store.KindRegular {
		hashes, err := hashAll(func(w io.Writer) error { return copyFile(ctx, w, c.file) })
		if err != nil {
			return "", err
		}
		for _, h := range hashes {
			if h.Algo == store.SHA256 && c.isText(h) {
				return "text:" + h.String(), nil
			}
			if c.isFixed(false, h) {
				return fixedCA(false, h), nil
			}
		}
	}
	if len(c.refs) > 0 {
		return "", nil
	}
	hashes, err := hashAll(func(w io.Writer) error { return nar.Dump(w, c.file) })
	if err != nil {
		return "", err
	}
	for _, h := range hashes {
		if c.isFixed(true, h) {
			return fixedCA(true, h), nil
		}
	}
	return "", nil
}

func (c content) isFixed(recursive bool, h store.Hash) bool {
	p, err := store.FixedPath(c.dir, recursive, h, c.path.Name(), c.refs, false)
	return err == nil && p == c.path
}

func (c content) isText(h store.Hash) bool {
	p, err := store.TextHashPath(c.dir, c.path.Name(), h, c.refs)
	return err == nil && p == c.path
}

// hashAll hashes what write writes by every algorithm.
func hashAll(write func(w io.Writer) error) ([]store.Hash, error) {
	algos := []store.Algo{store.SHA256, store.SHA1, store.MD5, store.SHA512}
	digests := make([]hash.Hash, len(algos))
	writers := make([]io.Writer, len(algos))
	for i, a := range algos {
		digests[i] = a.New()
		writers[i] = digests[i]
	}
	if err := write(io.MultiWriter(writers...)); err != nil {
		return nil, err
	}
	out := make([]store.Hash, len(algos))
	for i, a := range algos {
		out[i] = store.Hash{Algo: a, Sum: string(digests[i].Sum(nil))}
	}
	return out, nil
}

func copyFile(ctx context.Context, w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, contextReader{ctx, f})
	return err
}
