package instantiate

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"go.starlark.net/syntax"
)

// parse reads a file, and refuses what is nested too deeply in it. The parser bounds what
// has brackets; but "1 + 1 + …", "f()()()…" and "elif" are nested as well, and the
// interpreter goes down into them by calls of itself. What is not UTF-8, as Starlark has to be, it would
// read as U+FFFD, also in strings.
func parse(name string, src []byte) (*syntax.File, error) {
	if at := notUTF8(src); at >= 0 {
		before := src[:at]
		line := bytes.Count(before, []byte("\n")) + 1
		column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
		return nil, syntax.Error{Pos: syntax.MakePosition(&name, int32(line), int32(column)), Msg: "not UTF-8"}
	}
	f, err := dialect.Parse(name, src, 0)
	var bad syntax.Error
	if errors.As(err, &bad) {
		err = explained(src, bad)
	}
	if err != nil {
		return nil, err
	}
	var path, deepest []syntax.Node
	syntax.Walk(f, func(n syntax.Node) bool {
		if n == nil {
			path = path[:len(path)-1]
			return true
		}
		if deepest != nil {
			return false
		}
		path = append(path, n)
		if c, ok := n.(*syntax.Comprehension); len(path) > maxDepth || ok && len(c.Clauses) > maxDepth {
			deepest = slices.Clone(path)
			path = path[:len(path)-1]
			return false
		}
		return true
	})
	if deepest == nil {
		return f, nil
	}
	return nil, syntax.Error{Pos: position(deepest), Msg: fmt.Sprintf("nested too deeply: more than %d expressions or statements in each other", maxDepth)}
}

// notUTF8 is where src is not UTF-8 first, -1 if it is.
func notUTF8(src []byte) int {
	if utf8.Valid(src) {
		return -1
	}
	at := 0
	for {
		r, n := utf8.DecodeRune(src[at:])
		if r == utf8.RuneError && n < 2 {
			return at
		}
		at += n
	}
}

// position is that of the innermost node of path that has one of its own: others find
// theirs by going down.
func position(path []syntax.Node) syntax.Position {
	for _, n := range slices.Backward(path) {
		switch n := n.(type) {
		case *syntax.BinaryExpr:
			return n.OpPos
		case *syntax.CallExpr:
			return n.Lparen
		case *syntax.Comprehension:
			return n.Lbrack
		case *syntax.CondExpr:
			return n.If
		case *syntax.DotExpr:
			return n.Dot
		case *syntax.IfStmt:
			return n.If
		case *syntax.IndexExpr:
			return n.Lbrack
		case *syntax.SliceExpr:
			return n.Lbrack
		}
	}
	return syntax.MakePosition(&path[0].(*syntax.File).Path, 0, 0)
}
