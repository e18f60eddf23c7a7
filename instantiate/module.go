package instantiate

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

// dialect is the language of the files: Starlark without recursion and while
// loops, so that evaluation ends, but with sets and with if and for outside of
// functions.
var dialect = syntax.FileOptions{Set: true, TopLevelControl: true}

// module is one evaluated file.
type module struct {
	rel     string // its path below the root of the tree, with slashes
	globals starlark.StringDict
}

// exec evaluates the file at rel, once. Files that are loaded run on the
// thread of the file that loads them: they share its steps, and errors show
// the way through all of them.
func (e *evaluation) exec(t *starlark.Thread, rel string) (*module, error) {
	if m := e.modules[rel]; m != nil {
		return m, nil
	}
	if i := slices.Index(e.loading, rel); i >= 0 {
		return nil, fmt.Errorf("files load each other: %s", strings.Join(append(e.loading[i:], rel), " → "))
	}
	src, err := e.tree.read(rel)
	if err != nil {
		return nil, err
	}
	m := &module{rel: rel}
	shown := filepath.Join(filepath.Dir(e.opts.File), filepath.FromSlash(rel))
	e.pulse.at(syntax.MakePosition(&shown, 0, 0))
	e.files[shown] = m
	e.loading = append(e.loading, rel)
	m.globals, err = e.execFile(t, shown, src)
	e.loading = e.loading[:len(e.loading)-1]
	if err != nil {
		return nil, err
	}
	e.modules[rel] = m
	return m, nil
}

// execFile is starlark.ExecFileOptions with a look at the syntax before it is compiled,
// and at the globals before they are frozen.
func (e *evaluation) execFile(t *starlark.Thread, name string, src []byte) (starlark.StringDict, error) {
	f, err := parse(name, src)
	if err != nil {
		return nil, err
	}
	program, err := starlark.FileProgram(f, e.builtins.Has)
	if err != nil {
		return nil, err
	}
	globals, err := program.Init(t, e.builtins)
	if err == nil {
		err = e.depths.check(globals)
	}
	if err != nil {
		return nil, err
	}
	globals.Freeze()
	return globals, nil
}

// load serves load("//from/root.star", …) and load("beside.star", …).
func (e *evaluation) load(t *starlark.Thread, name string) (starlark.StringDict, error) {
	rel, err := e.relative(t, name)
	if err != nil {
		return nil, err
	}
	m, err := e.exec(t, rel)
	if err != nil {
		return nil, err
	}
	return m.globals, nil
}

// relative resolves a name that a file uses, "//from/the/root" or relative to
// the file itself, to a path below the root of the tree.
func (e *evaluation) relative(t *starlark.Thread, name string) (string, error) {
	if rest, ok := strings.CutPrefix(name, "//"); ok {
		name = rest
	} else if path.IsAbs(name) {
		return "", fmt.Errorf("%s: an absolute path; files name each other relative to themselves, or by //PATH from %s", name, filepath.Dir(e.opts.File))
	} else if m := e.module(t); m != nil {
		name = path.Join(path.Dir(m.rel), name)
	}
	name = path.Clean(name)
	if name == ".." || strings.HasPrefix(name, "../") {
		return "", fmt.Errorf("%s: outside of %s, the directory that evaluation is confined to", name, filepath.Dir(e.opts.File))
	}
	return name, nil
}

// module is the file whose text holds the call that is running: not the one
// that called a function of it.
func (e *evaluation) module(t *starlark.Thread) *module {
	for i := range t.CallStackDepth() {
		if m := e.files[t.CallFrame(i).Pos.Filename()]; m != nil {
			return m
		}
	}
	return nil
}

// caller is the position of the call that is running.
func (e *evaluation) caller(t *starlark.Thread) string {
	for i := range t.CallStackDepth() {
		if pos := t.CallFrame(i).Pos; e.files[pos.Filename()] != nil {
			return pos.String()
		}
	}
	return e.opts.File
}
