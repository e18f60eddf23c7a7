package instantiate

import (
	"errors"
	"fmt"
	"strings"

	"go.starlark.net/starlark"
)

// maxNesting bounds lists in lists: a list can hold itself.
const maxNesting = 64

// coerce turns a value into the string that a builder sees, as Nix does for
// the attributes of a derivation: True is "1"; False and None are ""; lists
// are joined by spaces.
func coerce(v starlark.Value) (string, error) { return coerceNested(v, 0) }

func coerceNested(v starlark.Value, depth int) (string, error) {
	if depth > maxNesting {
		return "", errors.New("lists are nested too deeply")
	}
	switch v := v.(type) {
	case starlark.String:
		return string(v), nil
	case starlark.Bytes:
		return string(v), nil
	case starlark.Bool:
		if v {
			return "1", nil
		}
		return "", nil
	case starlark.NoneType:
		return "", nil
	case starlark.Int:
		return v.String(), nil
	case *derivation:
		return v.String(), nil
	case *starlark.List:
		return coerceList(v, depth)
	case starlark.Tuple:
		return coerceList(v, depth)
	}
	return "", fmt.Errorf("got %s, want a string, a number, a boolean, a derivation or a list of those", v.Type())
}

func coerceList(l starlark.Indexable, depth int) (string, error) {
	var b strings.Builder
	for i := range l.Len() {
		v := l.Index(i)
		s, err := coerceNested(v, depth+1)
		if err != nil {
			return "", fmt.Errorf("element %d: %w", i, err)
		}
		b.WriteString(s)
		// Nix's rule: no space after an empty list.
		if inner, ok := v.(starlark.Sequence); i < l.Len()-1 && (!ok || inner.Len() > 0) {
			b.WriteByte(' ')
		}
	}
	return b.String(), nil
}
