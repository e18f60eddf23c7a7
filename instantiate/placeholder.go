package instantiate

import (
	"fmt"

	"go.starlark.net/starlark"

	"storefs/store"
	"storefs/storeexpr"
)

// placeholderBuiltin is placeholder(output="out").
func (e *evaluation) placeholderBuiltin(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	name := "out"
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "output?", &name); err != nil {
		return nil, err
	}
	if name == "" {
		return nil, fmt.Errorf("placeholder: the name of an output is not empty")
	}
	p := storeexpr.Placeholder(name)
	// Whoever names it is found by the end of it, which is as long as the digest of a path.
	e.objects[p[len(p)-store.DigestLen:]] = object{placeholder: name}
	return starlark.String(p), nil
}
