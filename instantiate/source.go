package instantiate

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"go.starlark.net/starlark"

	"storefs/store"
)

// Source is a file, a directory tree or a link that goes into the store as it
// is, but for what a filter leaves out.
type Source struct {
	Name string
	Path store.Path // by the hash of its NAR
	Size int64      // bytes of the NAR
	host string     // where it is
	from *filter
}

// Host is the absolute path that the source is read from.
func (s *Source) Host() string { return s.host }

// Dump writes the source as a NAR. It reads the files again: what it writes
// differs from what gave Path if they were changed since.
func (s *Source) Dump(ctx context.Context, w io.Writer) error {
	buf := bufio.NewWriterSize(w, 64<<10)
	if err := s.dump(ctx, &narWriter{w: buf}, nil); err != nil {
		return err
	}
	return buf.Flush()
}

func (s *Source) dump(ctx context.Context, w *narWriter, seen *survey) error {
	t, err := openSource(s.host, seen)
	if err != nil {
		return err
	}
	defer t.root.Close()
	info, err := t.root.Lstat(t.base)
	if err != nil {
		return named(s.host, err)
	}
	n, err := t.list(ctx, t.base, ".", &sourceFile{info: info}, s.from)
	if err != nil {
		return err
	}
	if !s.from.all() && !n.file.info.IsDir() {
		if n.file.info.Mode().Type() == fs.ModeSymlink {
			return fmt.Errorf("%s: a symbolic link, which is stored as one: include and exclude are for directories", s.host)
		}
		return fmt.Errorf("%s: include and exclude are for directories", s.host)
	}
	if len(s.from.include.all) > 0 && len(n.children) == 0 {
		return fmt.Errorf("%s: nothing in it matches include", s.host)
	}
	w.strings("nix-archive-1")
	t.dump(ctx, w, t.base, n)
	return w.err
}

// hash sets Size and Path. It writes by w, whose memory may be used again.
func (s *Source) hash(ctx context.Context, dir store.Dir, w *narWriter, seen *survey) error {
	h := sha256.New()
	count := &countWriter{w: h}
	w.w, w.err = count, nil
	if err := s.dump(ctx, w, seen); err != nil {
		return err
	}
	s.Size = count.n
	var err error
	s.Path, err = store.SourcePath(dir, store.Hash{Algo: store.SHA256, Sum: string(h.Sum(nil))}, s.Name)
	return err
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// sourceTree reads a source through its parent directory, so that the source
// itself may be a file or a link, and no link in it leads out.
type sourceTree struct {
	root *os.Root
	base string
	host string
	seen *survey
}

func openSource(host string, seen *survey) (*sourceTree, error) {
	if host == "/" {
		return nil, errors.New("/: the root directory cannot be a source")
	}
	root, err := os.OpenRoot(filepath.Dir(host))
	if err != nil {
		return nil, err
	}
	return &sourceTree{root: root, base: filepath.Base(host), host: host, seen: seen}, nil
}

// node is one file of a source.
type node struct {
	name     string
	file     *sourceFile
	children []*node // of a directory: what the filter leaves, by name in byte order
}

// list finds what is in the source: name as root sees it, rel as the filter
// does, file what it is.
func (t *sourceTree) list(ctx context.Context, name, rel string, file *sourceFile, f *filter) (*node, error) {
	n := &node{name: path.Base(name), file: file}
	switch file.info.Mode().Type() {
	case 0, fs.ModeSymlink:
		return n, nil
	case fs.ModeDir:
	default:
		return nil, fmt.Errorf("%s: neither a regular file, a directory nor a symbolic link", t.at(name))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := t.seen.directory(t.root, name, t.at(name))
	if err != nil {
		return nil, named(t.at(name), err)
	}
	for _, base := range d.names {
		below := path.Join(rel, base)
		if f.excludes(below) {
			continue
		}
		wanted := f.includes(below)
		if !wanted && !f.mayHold(below) {
			continue
		}
		in := path.Join(name, base)
		file, err := d.file(t.root, name, base)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !wanted && !file.info.IsDir() {
			continue
		}
		if err != nil {
			return nil, named(t.at(in), err)
		}
		c, err := t.list(ctx, in, below, file, f)
		if err != nil {
			return nil, err
		}
		// A directory that only led to what might have matched is left out.
		if !wanted && len(c.children) == 0 {
			continue
		}
		n.children = append(n.children, c)
	}
	return n, nil
}

func (t *sourceTree) at(name string) string { return filepath.Join(filepath.Dir(t.host), name) }

func (t *sourceTree) dump(ctx context.Context, w *narWriter, name string, n *node) {
	if w.err != nil {
		return
	}
	switch n.file.info.Mode().Type() {
	case fs.ModeDir:
		w.strings("(", "type", "directory")
		for _, c := range n.children {
			w.strings("entry", "(", "name", c.name, "node")
			t.dump(ctx, w, path.Join(name, c.name), c)
			w.strings(")")
		}
		w.strings(")")
	case fs.ModeSymlink:
		target, err := t.root.Readlink(name)
		if err != nil {
			w.fail(named(t.at(name), err))
			return
		}
		w.strings("(", "type", "symlink", "target", target, ")")
	default:
		w.strings("(", "type", "regular")
		if n.file.info.Mode()&0o100 != 0 {
			w.strings("executable", "")
		}
		w.strings("contents")
		t.contents(ctx, w, name, n.file)
		w.strings(")")
	}
}

func (t *sourceTree) contents(ctx context.Context, w *narWriter, name string, file *sourceFile) {
	if err := ctx.Err(); err != nil {
		w.fail(err)
		return
	}
	size := file.info.Size()
	if file.content != nil {
		w.file(bytes.NewReader(file.content), size)
		return
	}
	f, err := file.open(t.root, name)
	if err != nil {
		w.fail(named(t.at(name), err))
		return
	}
	defer f.Close()
	if !t.seen.keeps(file) {
		w.file(f, size)
		if errors.Is(w.err, errUnsteady) {
			w.err = named(t.at(name), w.err)
		}
		return
	}
	content := make([]byte, size)
	if _, err := io.ReadFull(f, content); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		w.fail(named(t.at(name), errUnsteady))
		return
	} else if err != nil {
		w.fail(named(t.at(name), err))
		return
	}
	file.content = content
	t.seen.memory += len(content)
	w.file(bytes.NewReader(content), size)
}

// sourceBuiltin is source(path, name=None, include=[], exclude=[]).
func (e *evaluation) sourceBuiltin(t *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var where, name string
	var include, exclude *starlark.List
	if err := starlark.UnpackArgs(b.Name(), args, kwargs,
		"path", &where, "name?", &name, "include?", &include, "exclude?", &exclude); err != nil {
		return nil, err
	}
	if where == "" {
		return nil, fmt.Errorf("source: the path is empty (this directory is .)")
	}
	f, err := newFilter(include, exclude)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", where, err)
	}
	s, err := e.source(t, where, name, f)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", where, err)
	}
	return starlark.String(s.Path), nil
}

func (e *evaluation) source(t *starlark.Thread, where, name string, f *filter) (*Source, error) {
	var host string
	if isHostPath(where) {
		host = filepath.Clean(where)
		e.external = append(e.external, host)
	} else {
		rel, err := e.relative(t, where)
		if err != nil {
			return nil, err
		}
		// Links in the way may not lead out of the tree. The last component
		// may be one: it is stored as it is.
		if dir := path.Dir(rel); dir != "." {
			if _, err := e.tree.root.Stat(dir); err != nil {
				return nil, named(dir, err)
			}
		}
		host = filepath.Join(e.tree.dir, filepath.FromSlash(rel))
	}
	if name == "" {
		name = filepath.Base(host)
	}
	if err := store.CheckName(name); err != nil {
		return nil, fmt.Errorf("%w; give it another one by name=", err)
	}
	key := fmt.Sprintf("%q %q %s", host, name, f)
	if s := e.sources[key]; s != nil {
		return s, nil
	}
	s := &Source{Name: name, host: host, from: f}
	if err := s.hash(e.ctx, e.opts.Dir, &e.writer, &e.survey); err != nil {
		return nil, err
	}
	e.sources[key] = s
	e.register(s.Path, object{source: s})
	return s, nil
}
