package instantiate

import (
	"strings"
	"testing"
)

// Whoever knows Python writes Python: what is said of that tells what there is instead, in
// one line, and where.
func TestPython(t *testing.T) {
	for _, c := range []struct{ main, want string }{
		{"x = 1\nimport os", "main.star:2:1: Starlark has no import: load("},
		{"from os import path", "main.star:1:1: Starlark has no from: load("},
		{"class A:\n  pass", "main.star:1:1: Starlark has no class: struct("},
		{"def f():\n  try:\n    pass\n  except:\n    pass", "main.star:2:3: Starlark has no try: an error ends"},
		{"def f():\n  raise X()", "main.star:2:3: Starlark has no raise: fail("},
		{"while True:\n  pass", "main.star:1:1: Starlark has no while: for i in range(n)"},
		{"def f():\n  with open('x') as y:\n    pass", "main.star:2:3: Starlark has no with: read("},
		{"def f():\n  yield 1", "main.star:2:3: Starlark has no yield:"},
		{"async def f():\n  pass", "main.star:1:1: Starlark has no async"},
		{"x = None\ny = x is None", "main.star:2:7: Starlark has no is: =="},
		{"assert 1 == 1", "Starlark has no assert: fail("},
		{"x = 1\ny = f'ü {x}'", "main.star:2:6: Starlark has no f-strings:"},
		{"y = str(f\"a\")", "main.star:1:10: Starlark has no f-strings:"},
		{"y = u'a'", "main.star:1:6: Starlark has no u before strings"},
		{"y = 'a' 'b'", "main.star:1:9: strings beside each other are not joined: put + between them"},
		{"print 'a'", "print is a function: print(x)"},
		{"x = {1, 2}", "got ',', want ':' (a dict has KEY: VALUE; a set is set([a, b]))"},
		{"x = 2 ** 3", "main.star:1:7: Starlark has no **: a loop"},
		{"x = {**y}", "Starlark has no ** in a dict: a | b"},
		{"x = [*y]", "Starlark has no * there: a + b"},
		{"def f(x: int): pass", "got ':', want ')' (Starlark has no annotations of types)"},
		{"x: int = 1", "(Starlark has no annotations of types)"},
		{"if (x := 1) == 1: pass", "main.star:1:7: Starlark has no :=:"},
		{"@f\ndef g(): pass", "main.star:1:1: Starlark has no decorators:"},
		{"x = a && b", "Starlark has no &&: it is called and"},
		{"x = !a", "main.star:1:5: Starlark has no !: it is called not"},
		{"x = true", "main.star:1:5: undefined: true (it is called True)"},
		{"x = isinstance(1, 2)", "main.star:1:5: undefined: isinstance (type(x)"},

		// What is wrong in other ways is told as it was.
		{"x = 1 2", "got int literal, want newline"},
		{"x = 'f' + + 'a'[", "got end of file, want primary expression"},
		{"x = (1", "got end of file, want ')'"},
		{"x = {'a': 1 'b': 2}", "got string literal, want '}'"},
		{"x = nobody", "undefined: nobody"},
	} {
		t.Run(c.main, func(t *testing.T) {
			_, err := eval(t, map[string]string{"main.star": c.main}, Options{})
			if err == nil {
				t.Fatal("no error")
			}
			if s := err.Error(); !strings.Contains(s, c.want) || strings.Contains(s, "\n") {
				t.Errorf("got\n%s\nwant\n%s", s, c.want)
			}
		})
	}
	_, err := eval(t, map[string]string{"main.star": "load('b.star', 'x')", "b.star": "import os"}, Options{})
	if err == nil || !strings.HasPrefix(err.Error(), "b.star:1:1: Starlark has no import: ") {
		t.Errorf("in what is loaded: %v", err)
	}
}
