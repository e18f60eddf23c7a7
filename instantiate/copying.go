package instantiate

import (
	"fmt"

	"go.starlark.net/starlark"
)

// maxCopied is as many values, of 16 bytes, as fit in DefaultMaxMemory.
const maxCopied = DefaultMaxMemory / 16

// copying are the functions that ask for memory by the length of what they are given,
// but refuse what is too long: a range may be of any length, and Go ends the process
// when there is no such memory.
func copying() starlark.StringDict {
	d := starlark.StringDict{}
	for _, name := range []string{"bytes", "enumerate", "list", "reversed", "sorted", "tuple", "zip"} {
		fn := starlark.Universe[name].(*starlark.Builtin)
		d[name] = starlark.NewBuiltin(name, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			for _, a := range args {
				if err := checkLen(name, a); err != nil {
					return nil, err
				}
			}
			for _, a := range kwargs {
				if err := checkLen(name, a[1]); err != nil {
					return nil, err
				}
			}
			return fn.CallInternal(t, args, kwargs)
		})
	}
	return d
}

func checkLen(name string, v starlark.Value) error {
	if n := starlark.Len(v); n > maxCopied {
		return fmt.Errorf("%s: %d elements are more than fit in memory", name, n)
	}
	return nil
}
