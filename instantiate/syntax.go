package instantiate

import (
	"fmt"
	"slices"

	"go.starlark.net/syntax"
)

// parse reads a file, and refuses what is nested too deeply in it. The parser bounds what
// has brackets; but "1 + 1 + …", "f()()()…" and "elif" are nested as well, and the
// interpreter goes down into them by calls of itself.
func parse(name string, src []byte) (*syntax.File, error) {
	f, err := dialect.Parse(name, src, 0)
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
