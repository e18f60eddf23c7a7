package instantiate

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/bazelbuild/buildtools/build"
	"go.starlark.net/syntax"
)

// Format is the canonical layout of a Starlark file, which changes nothing
// that it says. name is for messages only.
func Format(name string, src []byte) ([]byte, error) {
	// The interpreter's own parser goes first: what it refuses is no file of
	// ours, and the other one overflows the stack on deep nesting.
	before, err := literals(name, src)
	if err != nil {
		return nil, fmt.Errorf("format %w", err) // the error begins with FILE:LINE:COLUMN
	}
	out, err := settle(name, src)
	if err != nil {
		return nil, fmt.Errorf("format %w", err)
	}
	// The printer knows another dialect of strings. Nobody should find that out
	// from a file that was overwritten.
	if after, err := literals(name, out); err != nil || !slices.Equal(before, after) {
		return nil, fmt.Errorf("format %s: the formatter would change what it says", name)
	}
	return out, nil
}

// maxRounds is how often what was laid out may be laid out otherwise the next time.
const maxRounds = 4

// settle lays src out until that changes nothing: a comment after a continued line,
// for one, gets the space before it only when it is in the same line.
func settle(name string, src []byte) ([]byte, error) {
	for range maxRounds {
		out, err := layOut(name, src)
		if err != nil || bytes.Equal(out, src) {
			return out, err
		}
		src = out
	}
	return nil, fmt.Errorf("%s: the formatter lays it out otherwise each time", name)
}

func layOut(name string, src []byte) (out []byte, err error) {
	// The printer panics on some strings that it can read: a backslash before
	// a character beyond Latin-1, for one.
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("%s: the formatter cannot lay it out: %v", name, p)
		}
	}()
	f, err := build.ParseDefault(name, src)
	if err != nil {
		return nil, err
	}
	build.WalkOnce(f, doubleQuotes)
	return build.Format(f), nil
}

// doubleQuotes changes the quotes of strings in single ones. The printer would
// do so by itself, but write characters beyond ASCII as octal escapes, which
// the interpreter does not take.
func doubleQuotes(e *build.Expr) {
	build.WalkOnce(*e, doubleQuotes)
	s, ok := (*e).(*build.StringExpr)
	if !ok || !strings.HasPrefix(s.Token, "'") || strings.Contains(s.Value, `"`) {
		return
	}
	n := 1
	if s.TripleQuote {
		n = 3
	}
	// An escaped quote needs its backslash no more; an escaped backslash does.
	inner := strings.NewReplacer(`\\`, `\\`, `\'`, `'`).Replace(s.Token[n : len(s.Token)-n])
	s.Token = strings.Repeat(`"`, n) + inner + strings.Repeat(`"`, n)
}

// literals are the names, numbers and strings in a file, sorted: the formatter
// may change the order of what is loaded.
func literals(name string, src []byte) ([]string, error) {
	f, err := parse(name, src)
	if err != nil {
		return nil, err
	}
	var all []string
	syntax.Walk(f, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Ident:
			all = append(all, n.Name)
		case *syntax.Literal:
			all = append(all, fmt.Sprintf("%T %v", n.Value, n.Value))
		}
		return true
	})
	slices.Sort(all)
	return all, nil
}
