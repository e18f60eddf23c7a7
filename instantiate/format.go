package instantiate

import (
	"fmt"

	"github.com/bazelbuild/buildtools/build"
)

// Format is the canonical layout of a Starlark file, which changes nothing
// that it says. name is for messages only.
func Format(name string, src []byte) ([]byte, error) {
	f, err := build.ParseDefault(name, src)
	if err != nil {
		return nil, fmt.Errorf("format %w", err) // the error begins with FILE:LINE:COLUMN
	}
	return build.Format(f), nil
}
