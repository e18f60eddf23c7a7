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
	im := importer{
		batch: b, done: make(map[string]store.Path), open: make(map[string]bool),
		beside: make(map[string][]store.Path),
	}
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
	batch  *batch
	stack  []*importFile
	open   map[string]bool // files on the stack
	done   map[string]store.Path
	beside map[string][]store.Path // what the names in a directory stand for
}

// importFile is a file whose dependencies come first.
type importFile struct {
	path string
	name string     // base name
	text []byte     // of an expression
	info store.Info // of a source
	// needs are the paths that it names, of which the first next were seen to.
	needs    []store.Path
	next     int
	optional bool // what it names may be missing
}

func (im *importer) add(ctx context.Context, path string) error {
	if err := im.push(ctx, path, true); err != nil {
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
	if ok && !im.batch.lost(p) || err != nil {
		return err
	}
	beside := filepath.Join(filepath.Dir(f.path), p.Base())
	if im.open[beside] {
		return im.cycle(beside)
	}
	if _, err := os.Lstat(beside); errors.Is(err, os.ErrNotExist) {
		if f.optional || ok {
			return nil
		}
		return fmt.Errorf("%s: its input %s is neither in the store nor beside it: %w", f.path, p, store.ErrNotValid)
	}
	return im.push(ctx, beside, false)
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

// push reads the file at path, and puts it on the stack. named says that the
// user, and no other file, names it.
func (im *importer) push(ctx context.Context, path string, named bool) error {
	if _, ok := im.done[path]; ok {
		return nil
	}
	f := &importFile{path: path, name: filepath.Base(path)}
	var err error
	switch p := store.Path("/" + f.name); {
	case named || p.IsDerivation():
		_, err = f.readExpr()
	case p.IsExpr():
		err = im.readEither(ctx, f)
	default:
		err = im.readSource(ctx, f)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	im.open[path] = true
	im.stack = append(im.stack, f)
	return nil
}

// readEither reads what may be an expression or a source, see isNamed.
func (im *importer) readEither(ctx context.Context, f *importFile) error {
	expr, err := f.readExpr()
	if err == nil && im.batch.isNamed(store.Path(string(im.batch.state.store)+"/"+f.name), expr, f.text) {
		return nil
	}
	source := importFile{path: f.path, name: f.name}
	noSource := im.readSource(ctx, &source)
	switch {
	case noSource == nil:
		*f = source
	case err == nil: // an expression with another's name, which is refused when it is added
		return nil
	}
	return noSource
}

// readSource finds out what a source refers to, which nothing but its name
// tells: either to nothing, or to what is found in it of the names beside it.
func (im *importer) readSource(ctx context.Context, f *importFile) error {
	p, err := im.batch.state.store.Join(f.name)
	if err != nil {
		return err
	}
	candidates, err := im.neighbours(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	sum, err := nar.HashPath(ctx, f.path, candidates...)
	if err != nil {
		return err
	}
	for _, refs := range [][]store.Path{nil, sum.References} {
		c := content{dir: im.batch.state.store, path: p, refs: refs, sum: sum, file: f.path}
		ca := c.source()
		if ca == "" {
			if ca, err = c.other(ctx); err != nil {
				return err
			}
		}
		if ca != "" {
			f.needs = refs
			f.info = store.Info{
				Path: p, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size,
				References: refs, CA: ca, Registered: now(),
			}
			return nil
		}
	}
	return fmt.Errorf("its name does not follow from its content: %w", store.ErrHashMismatch)
}

// neighbours are the paths that the names in dir stand for.
func (im *importer) neighbours(dir string) ([]store.Path, error) {
	if paths, ok := im.beside[dir]; ok {
		return paths, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	paths := make([]store.Path, 0, len(names))
	for _, n := range names {
		if p, err := im.batch.state.store.Join(n); err == nil {
			paths = append(paths, p)
		}
	}
	im.beside[dir] = paths
	return paths, nil
}

func (f *importFile) readExpr() (storeexpr.Expr, error) {
	text, err := readText(f.path)
	if err != nil {
		return nil, err
	}
	expr, err := storeexpr.Parse(text)
	if err != nil {
		return nil, err
	}
	f.text = text
	switch e := expr.(type) {
	case *storeexpr.Derivation:
		f.needs = e.References()
	case *storeexpr.Closure:
		f.needs, f.optional = e.References(), true
	}
	return expr, nil
}

// finish puts into the batch what is on the stack; all that it names is there
// or valid.
func (im *importer) finish(ctx context.Context, f *importFile) (store.Path, error) {
	b := im.batch
	if f.text != nil {
		return b.addExpr(NewExpr{Name: f.name, Text: f.text})
	}
	scratch := b.state.newScratch("import")
	lost, err := b.valid(f.info.Path) // else it would not have been looked for
	if err != nil {
		return "", err
	}
	b.add(object{scratch: scratch, info: f.info, lost: lost})
	files, err := copyTree(ctx, f.path, scratch, f.info.NarHash)
	b.objects[len(b.objects)-1].files = files
	return f.info.Path, err
}
