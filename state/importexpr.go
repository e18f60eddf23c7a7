package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// ImportExprs adds the store expressions in files (".drv", ".store"), with what
// they name and what is not valid yet: that must lie beside the file that names
// it. All become valid, or none. It returns the paths of files, in their order.
//
// A file's name may leave the digest out. Elements of a closure of 2004 that do
// not lie beside it are left for substitutes to make.
func (s *State) ImportExprs(ctx context.Context, files []string) ([]store.Path, error) {
	b := s.newBatch()
	defer b.cleanUp()
	im := importer{batch: b, done: make(map[string]store.Path), open: make(map[string]bool)}
	paths := make([]store.Path, len(files))
	for i, f := range files {
		var err error
		if f, err = filepath.Abs(f); err == nil {
			err = im.add(ctx, f)
		}
		if err != nil {
			return nil, fmt.Errorf("import %w", diskError(err))
		}
		paths[i] = im.done[f]
	}
	if err := b.commit(ctx); err != nil {
		return nil, fmt.Errorf("import: %w", diskError(err))
	}
	return paths, nil
}

// importer adds files in the order of their dependencies. It keeps a stack of
// its own: a chain of derivations may be longer than a goroutine's stack is
// deep.
type importer struct {
	batch *batch
	stack []*importFile
	open  map[string]bool // files on the stack
	done  map[string]store.Path
}

// importFile is a file whose dependencies come first.
type importFile struct {
	path string
	name string // base name
	text []byte // of an expression
	sum  nar.Summary
	// needs are the paths that it names, of which the first next were seen to.
	needs    []store.Path
	next     int
	optional bool // what it names may be missing
}

func (im *importer) add(ctx context.Context, path string) error {
	if err := im.push(ctx, path, nil); err != nil {
		return err
	}
	for len(im.stack) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		f := im.stack[len(im.stack)-1]
		if f.next < len(f.needs) {
			f.next++
			if err := im.need(ctx, f, f.needs[f.next-1]); err != nil {
				return err
			}
			continue
		}
		p, err := im.finish(ctx, f)
		if err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		im.done[f.path] = p
		delete(im.open, f.path)
		im.stack = im.stack[:len(im.stack)-1]
	}
	return nil
}

// need sees to it that p, which f names, is valid or comes before f.
func (im *importer) need(ctx context.Context, f *importFile, p store.Path) error {
	if p.Base() == f.name {
		return nil // a source that refers to itself
	}
	ok, err := im.batch.valid(p)
	if ok || err != nil {
		return err
	}
	beside := filepath.Join(filepath.Dir(f.path), p.Base())
	if im.open[beside] {
		return im.cycle(beside)
	}
	if _, err := os.Lstat(beside); errors.Is(err, os.ErrNotExist) {
		if f.optional {
			return nil
		}
		return fmt.Errorf("%s: its input %s is neither in the store nor beside it: %w", f.path, p, store.ErrNotValid)
	}
	return im.push(ctx, beside, f)
}

func (im *importer) cycle(path string) error {
	var names []string
	for _, f := range im.stack {
		if f.path == path || len(names) > 0 {
			names = append(names, f.name)
		}
	}
	return fmt.Errorf("%s: %w: %s -> %s", path, store.ErrCycle, strings.Join(names, " -> "), filepath.Base(path))
}

// push reads the file at path, and puts it on the stack. by is what names it.
func (im *importer) push(ctx context.Context, path string, by *importFile) error {
	if _, ok := im.done[path]; ok {
		return nil
	}
	f := &importFile{path: path, name: filepath.Base(path)}
	var err error
	if by == nil || store.Path("/"+f.name).IsExpr() {
		err = f.readExpr()
	} else {
		// A source can refer to nothing but what is named together with it.
		f.sum, err = nar.HashPath(ctx, path, by.needs...)
		f.needs = f.sum.References
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	im.open[path] = true
	im.stack = append(im.stack, f)
	return nil
}

func (f *importFile) readExpr() error {
	text, err := readText(f.path)
	if err != nil {
		return err
	}
	expr, err := storeexpr.Parse(text)
	if err != nil {
		return err
	}
	f.text = text
	switch e := expr.(type) {
	case *storeexpr.Derivation:
		f.needs = e.References()
	case *storeexpr.Closure:
		f.needs, f.optional = e.References(), true
	}
	return nil
}

// finish puts into the batch what is on the stack; all that it names is there
// or valid.
func (im *importer) finish(ctx context.Context, f *importFile) (store.Path, error) {
	if f.text != nil {
		return im.batch.addExpr(NewExpr{Name: f.name, Text: f.text})
	}
	p, err := im.batch.state.store.Join(f.name)
	if err != nil {
		return "", err
	}
	return p, im.batch.addSource(ctx, p, f.path, f.sum)
}

// addSource puts the source at path into the batch, which must be named by its
// content.
func (b *batch) addSource(ctx context.Context, p store.Path, path string, sum nar.Summary) error {
	c := content{dir: b.state.store, path: p, refs: sum.References, sum: sum, file: path}
	ca := c.source()
	if ca == "" {
		var err error
		if ca, err = c.other(ctx); err != nil {
			return err
		}
	}
	if ca == "" {
		return fmt.Errorf("its name does not follow from its content: %w", store.ErrHashMismatch)
	}
	scratch := b.state.newScratch("import")
	o := object{scratch: scratch, info: store.Info{
		Path: p, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size,
		References: sum.References, CA: ca, Registered: now(),
	}}
	b.add(o)
	return copyTree(ctx, path, scratch, sum.Hash)
}
