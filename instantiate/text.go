package instantiate

import (
	"fmt"

	"go.starlark.net/starlark"

	"storefs/store"
)

// Text is a literal that is a store object of its own.
type Text struct {
	Name       string
	Path       store.Path
	Content    string
	References []store.Path // the sources and texts that are named in Content, sorted
	uses       map[store.Path]object
}

// textBuiltin is text(name, content).
func (e *evaluation) textBuiltin(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var name string
	var value starlark.Value
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "name", &name, "content", &value); err != nil {
		return nil, err
	}
	content, err := coerce(value)
	if err != nil {
		return nil, fmt.Errorf("text %s: content: %w", name, err)
	}
	t, err := e.text(name, content)
	if err != nil {
		return nil, fmt.Errorf("text %s: %w", name, err)
	}
	return starlark.String(t.Path), nil
}

func (e *evaluation) text(name, content string) (*Text, error) {
	t := &Text{Name: name, Content: content, uses: map[store.Path]object{}}
	var bad error
	e.find(content, func(o object) {
		switch {
		case o.source != nil:
			t.uses[o.source.Path] = o
		case o.text != nil:
			t.uses[o.text.Path] = o
		default:
			// It would have to be built before the text can be valid.
			bad = fmt.Errorf("its content names %s: a text can refer to sources and texts only; let a builder write it", o.describe())
		}
	})
	if bad != nil {
		return nil, bad
	}
	t.References = sortedKeys(t.uses)
	var err error
	if t.Path, err = store.TextPath(e.opts.Dir, name, []byte(content), t.References); err != nil {
		return nil, err
	}
	e.register(t.Path, object{text: t})
	return t, nil
}
