package instantiate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.starlark.net/starlark"
)

// tree is the directory that evaluation is confined to. No path and no
// symbolic link leads out of it.
type tree struct {
	dir  string // absolute
	root *os.Root
}

func openTree(dir string) (*tree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, err
	}
	return &tree{dir: abs, root: root}, nil
}

func (t *tree) close() { t.root.Close() }

// read returns errors that leave it to the caller to name the file, as he does so
// in his own way.
func (t *tree) read(rel string) ([]byte, error) {
	rel = filepath.FromSlash(rel)
	st, err := t.root.Stat(rel)
	if err != nil {
		return nil, cause(err)
	}
	if err := onlyRegular(st); err != nil {
		return nil, err
	}
	data, err := t.root.ReadFile(rel)
	return data, cause(err)
}

// named leaves out which system call of package os failed.
func named(name string, err error) error {
	return fmt.Errorf("%s: %w", name, cause(err))
}

// cause leaves out the name as well.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// onlyRegular refuses what would block or never end. It must be asked before
// the file is opened: that is what blocks on a fifo.
func onlyRegular(st fs.FileInfo) error {
	if !st.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	return nil
}

// readBuiltin is read(path): the content of a file as a string.
func (e *evaluation) readBuiltin(t *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var name string
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "path", &name); err != nil {
		return nil, err
	}
	data, err := e.readFile(t, name)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return starlark.String(data), nil
}

func (e *evaluation) readFile(t *starlark.Thread, name string) ([]byte, error) {
	if !isHostPath(name) {
		rel, err := e.relative(t, name)
		if err != nil {
			return nil, err
		}
		data, err := e.tree.read(rel)
		if err != nil {
			return nil, named(rel, err)
		}
		return data, nil
	}
	name = filepath.Clean(name)
	if !e.argNames(name) {
		return nil, fmt.Errorf("%s: an absolute path that is not at or below one given by --arg", name)
	}
	st, err := os.Stat(name)
	if err != nil {
		return nil, named(name, err)
	}
	if err := onlyRegular(st); err != nil {
		return nil, named(name, err)
	}
	e.external = append(e.external, name)
	return os.ReadFile(name)
}

// isHostPath tells "/usr/bin" from "//lib" and "lib".
func isHostPath(name string) bool {
	return filepath.IsAbs(name) && !strings.HasPrefix(name, "//")
}

// argNames reports whether an argument names path or a directory above it.
func (e *evaluation) argNames(path string) bool {
	for _, v := range e.opts.Args {
		if !filepath.IsAbs(v) {
			continue
		}
		if v = filepath.Clean(v); path == v || strings.HasPrefix(path, strings.TrimSuffix(v, "/")+"/") {
			return true
		}
	}
	return false
}

// globBuiltin is glob(include, exclude=[]): the files below the directory of
// the file that calls it, as paths relative to it, sorted. Links are listed
// and not followed.
func (e *evaluation) globBuiltin(t *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var include, exclude *starlark.List
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "include", &include, "exclude?", &exclude); err != nil {
		return nil, err
	}
	f, err := newFilter(include, exclude)
	if err != nil {
		return nil, fmt.Errorf("glob: %w", err)
	}
	dir, err := e.relative(t, ".")
	if err != nil {
		return nil, fmt.Errorf("glob: %w", err)
	}
	root, err := e.tree.root.OpenRoot(filepath.FromSlash(dir))
	if err != nil {
		return nil, fmt.Errorf("glob: %w", err)
	}
	defer root.Close()
	names, err := e.walk(root, ".", f, nil)
	if err != nil {
		return nil, fmt.Errorf("glob: %w", err)
	}
	slices.Sort(names)
	list := make([]starlark.Value, len(names))
	for i, n := range names {
		list[i] = starlark.String(n)
	}
	return starlark.NewList(list), nil
}

// walk appends what f selects below the directory dir. (fs.WalkDir takes no names
// but those in UTF-8.)
func (e *evaluation) walk(root *os.Root, dir string, f *filter, names []string) ([]string, error) {
	if err := e.ctx.Err(); err != nil {
		return nil, err
	}
	d, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	entries, err := d.ReadDir(-1)
	d.Close()
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		p := filepath.Join(dir, entry.Name())
		switch {
		case f.excludes(p) || entry.IsDir() && !f.mayHold(p):
		case entry.IsDir():
			if names, err = e.walk(root, p, f, names); err != nil {
				return nil, err
			}
		case f.includes(p):
			names = append(names, p)
		}
	}
	return names, nil
}
