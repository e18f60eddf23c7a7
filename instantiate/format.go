package instantiate

import (
	"fmt"

	"github.com/bazelbuild/buildtools/build"
)

// Format is the canonical layout of a Starlark file, which changes nothing
// that it says. name is for messages only.
func Format(name string, src []byte) (formatted []byte, err error) {
	// The interpreter's own parser goes first: what it refuses is no file of
	// ours, and the other one overflows the stack on deep nesting.
	if _, err := dialect.Parse(name, src, 0); err != nil {
		return nil, fmt.Errorf("format %w", err) // the error begins with FILE:LINE:COLUMN
	}
	// The printer panics on some strings that it can read: a backslash before
	// a character beyond Latin-1, for one. The file is as it was then.
	defer func() {
		if p := recover(); p != nil {
			formatted, err = nil, fmt.Errorf("format %s: the formatter cannot lay it out: %v", name, p)
		}
	}()
	f, err := build.ParseDefault(name, src)
	if err != nil {
		return nil, fmt.Errorf("format %w", err)
	}
	return build.Format(f), nil
}
