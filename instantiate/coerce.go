package instantiate

import (
	"errors"
	"fmt"
	"strings"

	"go.starlark.net/starlark"
)

const (
	// maxNesting bounds lists in lists: a list can hold itself.
	maxNesting = 64
	// maxElements bounds what is in them together: a list can hold another one twice.
	maxElements = 2_000_000
)

// coerce turns a value into the string that a builder sees, as Nix does for
// the attributes of a derivation: True is "1"; False and None are ""; lists
// are joined by spaces.
func coerce(v starlark.Value) (string, error) {
	left := maxElements
	return coerceNested(v, 0, &left)
}

// coerceNested takes from left what it looks at.
func coerceNested(v starlark.Value, depth int, left *int) (string, error) {
	if *left--; *left < 0 {
		return "", fmt.Errorf("more than %d elements in lists", maxElements)
	}
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
		return coerceList(v, depth, left)
	case starlark.Tuple:
		return coerceList(v, depth, left)
	}
	return "", fmt.Errorf("got %s, want a string, a number, a boolean, a derivation or a list of those", v.Type())
}

func coerceList(l starlark.Indexable, depth int, left *int) (string, error) {
	var b strings.Builder
	for i := range l.Len() {
		v := l.Index(i)
		s, err := coerceNested(v, depth+1, left)
		if err != nil {
			if depth < 4 { // one line is to be read
				err = fmt.Errorf("element %d: %w", i, err)
			}
			return "", err
		}
		b.WriteString(s)
		// Nix's rule: no space after an empty list.
		if inner, ok := v.(starlark.Sequence); i < l.Len()-1 && (!ok || inner.Len() > 0) {
			b.WriteByte(' ')
		}
	}
	return b.String(), nil
}
